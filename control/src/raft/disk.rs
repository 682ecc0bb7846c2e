//! The one file, and the rule that nothing is written after a write has failed.
//!
//! Two redb tables, all values CBOR ([`crate::state::encoding`]) but `snapshot`:
//!
//! ```text
//! log   index (u64)   -> Entry
//! meta  "node"        -> u64, this node's id; written once
//!       "starts"      -> u64, how often the file was opened
//!       "vote"        -> Vote
//!       "committed"   -> LogId known to be committed (may lag: it is written along with the next entries)
//!       "purged"      -> LogId, the last entry that was dropped from the log's head
//!       "snapshot-of" -> SnapshotMeta
//!       "snapshot"    -> State as CBOR
//! ```

use std::fs::OpenOptions;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use redb::{
    Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use rustix::fs::{FallocateFlags, IFlags, ioctl_getflags, ioctl_setflags};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::executor::Executor;
use crate::state::NodeId;
use crate::state::encoding::{self, EncodingError};

/// The log's entries by index.
pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// Everything else by name.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// redb's page cache, bytes: the log is written once and read at start, and a node's memory is its containers'.
const CACHE_BYTES: usize = 1 << 20;
/// Room for the file, taken when it is made: the log between two snapshots, and two snapshots, of ten thousand containers.
const RESERVED_BYTES: u64 = 64 << 20;
const FILE: &str = "replica.redb";

/// Why the replica's file could not be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DiskError {
    /// It could not be opened.
    #[error("opening the replica's file {path}: {reason}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// The system's or redb's words.
        reason: String,
    },
    /// A read or write failed.
    #[error("the replica's file: {0}")]
    Access(String),
    /// What is in it makes no sense.
    #[error("the replica's file holds something else than expected: {0}")]
    Content(String),
    /// A write failed before.
    #[error(
        "a write to the replica's file has failed before: nothing more is written until the node restarts"
    )]
    Poisoned,
    /// The replica was closed.
    #[error("the replica is closed: the node is going down")]
    Closed,
}

impl From<EncodingError> for DiskError {
    fn from(error: EncodingError) -> Self {
        Self::Content(error.to_string())
    }
}

macro_rules! from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for DiskError {
            fn from(error: redb::$error) -> Self {
                Self::Access(error.to_string())
            }
        }
    )*};
}
from_redb!(StorageError, TableError, TransactionError, CommitError);

/// The open file. Cheap to clone.
#[derive(Clone)]
pub(super) struct Disk {
    pub node: NodeId,
    /// How often the file was opened, this time included.
    pub starts: u64,
    shared: Arc<Shared>,
}

struct Shared {
    executor: Arc<dyn Executor>,
    /// None once closed. Whoever has a transaction holds the lock: it keeps the file open.
    database: RwLock<Option<Database>>,
    /// Set by the first write that fails, never cleared.
    poisoned: AtomicBool,
}

impl Disk {
    /// Opens the file under `dir`, making both where needed.
    pub async fn open(
        dir: &Path,
        random: u64,
        executor: Arc<dyn Executor>,
    ) -> Result<Self, DiskError> {
        let dir = dir.to_owned();
        let kept = Arc::clone(&executor);
        on(executor.as_ref(), move || {
            let path = dir.join(FILE);
            let failed = |reason: String| DiskError::Open {
                path: path.clone(),
                reason,
            };
            std::fs::create_dir_all(&dir).map_err(|e| failed(e.to_string()))?;
            reserve(&path).map_err(|e| failed(e.to_string()))?;
            let database = Database::builder()
                .set_cache_size(CACHE_BYTES)
                .create(&path)
                .map_err(|e| failed(e.to_string()))?;
            // The name in the directory has to outlive a power cut as well.
            std::fs::File::open(&dir)
                .and_then(|d| d.sync_all())
                .map_err(|e| failed(e.to_string()))?;
            let shared = Arc::new(Shared {
                executor: kept,
                database: RwLock::new(Some(database)),
                poisoned: AtomicBool::new(false),
            });
            let mut disk = Self {
                node: NodeId(random),
                starts: 0,
                shared,
            };
            let node = disk.get_now::<u64>("node")?.unwrap_or(random);
            let starts = disk.get_now::<u64>("starts")?.unwrap_or(0) + 1;
            disk.write_now(|transaction| {
                transaction.open_table(LOG)?;
                put(transaction, "node", &node)?;
                put(transaction, "starts", &starts)
            })?;
            (disk.node, disk.starts) = (NodeId(node), starts);
            Ok(disk)
        })
        .await
    }

    /// Give the file back; whoever still comes is refused.
    pub async fn close(&self) -> Result<(), DiskError> {
        let disk = self.clone();
        self.on_executor(move || {
            drop(
                disk.shared
                    .database
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take(),
            );
            Ok(())
        })
        .await
    }

    async fn on_executor<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
    ) -> Result<T, DiskError> {
        on(self.shared.executor.as_ref(), work).await
    }

    fn database(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.shared
            .database
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn read_now<T>(
        &self,
        read: impl FnOnce(&redb::ReadTransaction) -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        let database = self.database();
        read(&database.as_ref().ok_or(DiskError::Closed)?.begin_read()?)
    }

    /// Write durably: when it returns, a power cut changes nothing.
    pub async fn write(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), DiskError> + Send + 'static,
    ) -> Result<(), DiskError> {
        let disk = self.clone();
        self.on_executor(move || disk.write_now(change)).await
    }

    fn write_now(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        if self.shared.poisoned.load(Ordering::Acquire) {
            return Err(DiskError::Poisoned);
        }
        let written = (|| {
            let database = self.database();
            let transaction = database.as_ref().ok_or(DiskError::Closed)?.begin_write()?;
            change(&transaction)?;
            transaction.commit()?;
            Ok(())
        })();
        if let Err(error) = &written {
            self.shared.poisoned.store(true, Ordering::Release);
            tracing::error!(%error, "the replicated log can't be written; no more commands are taken");
        }
        written
    }

    /// Read one value of `meta`.
    pub async fn get<T: DeserializeOwned + Send + 'static>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>, DiskError> {
        let disk = self.clone();
        self.on_executor(move || disk.get_now(name)).await
    }

    fn get_now<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, DiskError> {
        let [bytes] = self.get_bytes_now([name])?;
        bytes.map(|bytes| Ok(encoding::decode(&bytes)?)).transpose()
    }

    /// Read some values of `meta`, as they are and as they were at one moment.
    pub async fn get_bytes<const N: usize>(
        &self,
        names: [&'static str; N],
    ) -> Result<[Option<Vec<u8>>; N], DiskError> {
        let disk = self.clone();
        self.on_executor(move || disk.get_bytes_now(names)).await
    }

    fn get_bytes_now<const N: usize>(
        &self,
        names: [&str; N],
    ) -> Result<[Option<Vec<u8>>; N], DiskError> {
        self.read_now(|transaction| {
            let mut values = [const { None }; N];
            let table = match transaction.open_table(META) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(values),
                Err(error) => return Err(error.into()),
            };
            for (name, value) in names.into_iter().zip(&mut values) {
                *value = table.get(name)?.map(|found| found.value().to_vec());
            }
            Ok(values)
        })
    }

    /// Read entries of the log, undecoded, in order.
    pub async fn entries(
        &self,
        range: (Bound<u64>, Bound<u64>),
    ) -> Result<Vec<Vec<u8>>, DiskError> {
        self.read_log(move |table| {
            let mut entries = Vec::new();
            for entry in table.range(range)? {
                entries.push(entry?.1.value().to_vec());
            }
            Ok(entries)
        })
        .await
    }

    /// The log's newest entry, undecoded.
    pub async fn newest(&self) -> Result<Option<Vec<u8>>, DiskError> {
        self.read_log(|table| Ok(table.last()?.map(|(_, value)| value.value().to_vec())))
            .await
    }

    async fn read_log<T: Send + 'static>(
        &self,
        read: impl FnOnce(&ReadOnlyTable<u64, &'static [u8]>) -> Result<T, DiskError> + Send + 'static,
    ) -> Result<T, DiskError> {
        let disk = self.clone();
        self.on_executor(move || disk.read_now(|transaction| read(&transaction.open_table(LOG)?)))
            .await
    }
}

/// Takes the file's room beforehand, and has it overwritten in place: on a disk that containers have filled, commands are what makes room
/// again. On file systems that never write in place (or can't be told to) nothing is done; redb's own checksums cover the file.
fn reserve(path: &Path) -> std::io::Result<()> {
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
            rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, RESERVED_BYTES)?;
        }
    }
    Ok(())
}

/// Set one value of `meta` within a transaction.
pub(super) fn put<T: Serialize>(
    transaction: &WriteTransaction,
    name: &str,
    value: &T,
) -> Result<(), DiskError> {
    put_bytes(transaction, name, &encoding::encode(value)?)
}

/// As [`put`], for bytes that are encoded already.
pub(super) fn put_bytes(
    transaction: &WriteTransaction,
    name: &str,
    value: &[u8],
) -> Result<(), DiskError> {
    transaction.open_table(META)?.insert(name, value)?;
    Ok(())
}

/// Has `work` done by the executor, and waits for it.
async fn on<T: Send + 'static>(
    executor: &dyn Executor,
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    let (sender, done) = oneshot::channel();
    executor.execute(Box::new(move || {
        // Whoever asked may have gone.
        let _ = sender.send(work());
    }));
    done.await.unwrap_or_else(|_| {
        Err(DiskError::Access(
            "the thread that reads and writes it has ended".to_owned(),
        ))
    })
}
