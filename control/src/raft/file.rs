//! Where the replica's file and its mark lie, how they are opened, and how they go.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableDatabase, StorageBackend};
use rustix::fs::{FallocateFlags, IFlags, ioctl_getflags, ioctl_setflags};

use super::disk::{DiskError, META, unsealed};
use super::mark::{self, Mark};
use crate::state::NodeId;
use crate::state::encoding;

/// redb's page cache, bytes: the log is written once and read at start, and a node's memory is its containers'.
const CACHE_BYTES: usize = 1 << 20;
/// Room for the file, taken when it is made: the log between two snapshots, and two snapshots, of ten thousand containers.
const RESERVED_BYTES: u64 = 64 << 20;
const FILE: &str = "replica.redb";

const MARK: &str = "replica.mark";

/// Where the replica's bytes are.
pub enum Storage {
    /// In a file in this directory; both are made where needed.
    Dir(PathBuf),
    /// Behind these.
    Backends {
        /// The file.
        file: Box<dyn StorageBackend>,
        /// Its mark.
        mark: Box<dyn StorageBackend>,
    },
}

/// What was opened.
pub(super) struct Opened {
    pub database: Database,
    pub mark: Mark,
}

impl From<&Path> for Storage {
    fn from(dir: &Path) -> Self {
        Self::Dir(dir.to_owned())
    }
}

impl Storage {
    pub(super) fn open(self) -> Result<Opened, DiskError> {
        let (file, mark, path) = match self {
            Self::Dir(dir) => {
                let path = dir.join(FILE);
                let failed = |e: std::io::Error| failed(&path, &e);
                std::fs::create_dir_all(&dir).map_err(failed)?;
                let mark = reserve(&dir.join(MARK), mark::BYTES).map_err(failed)?;
                let file = reserve(&path, RESERVED_BYTES).map_err(failed)?;
                let file = redb::backends::FileBackend::new(file).map_err(|e| damage(&path, &e))?;
                // Their names in the directory have to outlive a power cut as well.
                File::open(&dir)
                    .and_then(|dir| dir.sync_all())
                    .map_err(failed)?;
                (
                    Box::new(file) as Box<dyn StorageBackend>,
                    Box::new(MarkFile(mark)) as _,
                    path,
                )
            }
            Self::Backends { file, mark } => (file, mark, PathBuf::new()),
        };
        let mark = Mark::open(mark).map_err(|e| failed(&path, &e))?;
        let mut builder = Database::builder();
        builder
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true);
        let opened = builder.create_with_backend(Handed(file));
        let database = opened.map_err(|e| damage(&path, &e))?;
        Ok(Opened { database, mark })
    }
}

fn failed(path: &Path, reason: &dyn std::fmt::Display) -> DiskError {
    DiskError::Open {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn damage(path: &Path, error: &DatabaseError) -> DiskError {
    match error {
        DatabaseError::Storage(redb::StorageError::Corrupted(what)) => {
            DiskError::Damaged(what.clone())
        }
        other => failed(path, other),
    }
}

/// Removes the file under `dir`, if it is to go by what is known of whose it is. True: it was.
pub(super) fn forget(
    dir: &Path,
    goes: impl FnOnce(Option<NodeId>) -> bool,
) -> Result<bool, DiskError> {
    let path = dir.join(FILE);
    if !path.exists() {
        return Ok(false);
    }
    let known: Option<u64> = {
        let database = Database::open(&path).map_err(|e| damage(&path, &e))?;
        let transaction = database.begin_read()?;
        let table = transaction.open_table(META)?;
        let bytes = table.get("node")?;
        bytes
            .map(|bytes| unsealed(b"node", bytes.value(), "node"))
            .transpose()?
            .map(|bytes| encoding::decode(&bytes))
            .transpose()?
    };
    if !goes(known.map(NodeId)) {
        return Ok(false);
    }
    // The mark first: one without its file would say that the file is lost.
    for name in [MARK, FILE] {
        let removed = match std::fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        let durable = removed
            .and_then(|()| File::open(dir))
            .and_then(|dir| dir.sync_all());
        durable.map_err(|e| failed(&path, &e))?;
    }
    Ok(true)
}

/// A mark in a file. Not locked: whoever has the replica's file open has this too.
#[derive(Debug)]
struct MarkFile(File);

impl StorageBackend for MarkFile {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read_exact_at(out, offset)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

/// A backend whose type its caller knows.
#[derive(Debug)]
struct Handed(Box<dyn StorageBackend>);

impl StorageBackend for Handed {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write(offset, data)
    }
    fn close(&self) -> std::io::Result<()> {
        self.0.close()
    }
}

/// Opens a file, takes room for it when it is made, and has it overwritten in place: on a disk that containers have filled, commands are what
/// makes room again. On file systems that never write in place (or can't be told to) no room is taken. Either way what is in it has
/// checksums of its own.
fn reserve(path: &Path, bytes: u64) -> std::io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    if file.metadata()?.len() == 0 {
        let in_place =
            ioctl_getflags(&file).and_then(|flags| ioctl_setflags(&file, flags | IFlags::NOCOW));
        if in_place.is_ok() {
            rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bytes)?;
        }
    }
    Ok(file)
}
