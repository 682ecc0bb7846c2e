//! What lies where under the store's directory, and how something gets there so that a power cut finds it whole or not
//! at all.
//!
//! ```text
//! images/<id>.json        the record that makes an image exist; written last, removed first
//! roots/<id>.erofs        its root file system
//! roots/<id>.pieces       the digests of that, piece by piece; made again where it is missing
//! blobs/sha256/<digest>   its config and manifest; its compressed layers, if they are kept
//! tmp/                    what is being made; cleared when the store is opened
//! ```
//!
//! Everything outside `tmp/` was synced before it was renamed to its name.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::{Digest, Error, ImageId};

/// The store's directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// Makes the directories if needed and empties `tmp/`.
    pub(crate) fn prepare(dir: &Path) -> Result<Self, Error> {
        let layout = Self {
            dir: dir.to_owned(),
        };
        let tmp = layout.tmp();
        match fs::remove_dir_all(&tmp) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("clearing {}", tmp.display()))(err));
            }
            _ => {}
        }
        for dir in [layout.images(), layout.roots(), layout.blobs(), tmp] {
            fs::create_dir_all(&dir).map_err(Error::io(format!("making {}", dir.display())))?;
        }
        sync_dir(&layout.dir.join("blobs"))?;
        sync_dir(&layout.dir)?;
        Ok(layout)
    }

    pub(super) fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    pub(super) fn roots(&self) -> PathBuf {
        self.dir.join("roots")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }

    fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    pub(super) fn record(&self, id: &ImageId) -> PathBuf {
        self.images().join(format!("{}.json", id.hex()))
    }

    pub(super) fn root(&self, id: &ImageId) -> PathBuf {
        self.roots().join(format!("{}.erofs", id.hex()))
    }

    pub(super) fn pieces(&self, id: &ImageId) -> PathBuf {
        self.roots().join(format!("{}.pieces", id.hex()))
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// A new file that vanishes unless it's kept.
    pub(crate) fn temporary(&self) -> Result<NamedTempFile, Error> {
        NamedTempFile::new_in(self.tmp()).map_err(Error::io("making a file in the store's tmp"))
    }

    /// A new directory that vanishes with its content.
    pub(crate) fn temporary_dir(&self) -> Result<tempfile::TempDir, Error> {
        tempfile::TempDir::new_in(self.tmp())
            .map_err(Error::io("making a directory in the store's tmp"))
    }

    /// Gives a finished file its name, for good.
    pub(super) fn keep(&self, file: NamedTempFile, to: &Path) -> Result<(), Error> {
        let action = || format!("keeping {}", to.display());
        file.as_file().sync_all().map_err(Error::io(action()))?;
        file.persist(to)
            .map_err(|err| Error::io(action())(err.error))?;
        to.parent().map_or(Ok(()), sync_dir)
    }

    /// Keeps a file of `tmp/` under a second name as well.
    pub(super) fn keep_copy(&self, file: &Path, to: &Path) -> Result<(), Error> {
        let action = || format!("keeping {}", to.display());
        File::open(file)
            .and_then(|file| file.sync_all())
            .map_err(Error::io(action()))?;
        match fs::hard_link(file, to) {
            Err(err) if err.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(Error::io(action())(err))
            }
            _ => to.parent().map_or(Ok(()), sync_dir),
        }
    }

    /// Writes a small file and keeps it.
    pub(super) fn keep_bytes(&self, bytes: &[u8], to: &Path) -> Result<(), Error> {
        let mut file = self.temporary()?;
        file.write_all(bytes)
            .map_err(Error::io(format!("writing {}", to.display())))?;
        self.keep(file, to)
    }
}

/// Makes a directory's entries as durable as the files they name.
pub(super) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::io(format!("syncing {}", dir.display())))
}

/// Removes a file; that it isn't there is as good. Returns the disk space it had.
pub(super) fn remove_file(path: &Path) -> Result<u64, Error> {
    use std::os::unix::fs::MetadataExt;
    let freed = fs::symlink_metadata(path).map_or(0, |meta| meta.blocks() * 512);
    match fs::remove_file(path) {
        Ok(()) => Ok(freed),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(err) => Err(Error::io(format!("removing {}", path.display()))(err)),
    }
}
