//! The one file, and the rule that nothing is written after a write has failed.
//!
//! Two redb tables, all values CBOR ([`crate::state::encoding`]) with a checksum ([`super::seal`]):
//!
//! ```text
//! log   index (u64)   -> Entry
//! meta  "node"        -> u64, this node's id; written once
//!       "starts"      -> u64, how often the file was opened
//!       "commits"     -> u64, how often it was written ([`super::mark`])
//!       "vote"        -> Vote
//!       "committed"   -> LogId known to be committed (may lag: it is written along with the next entries)
//!       "purged"      -> LogId, the last entry that was dropped from the log's head
//!       "last"        -> u64, the newest entry's index; absent where there never was one
//!       "snapshot-of" -> SnapshotMeta
//!       "snapshot"    -> State and proposers
//! ```
//!
//! What is damaged, or isn't all that was acknowledged, is not used ([`audit`]): a node that has forgotten an entry or a vote would have
//! others believe that it has it.

use std::ops::Bound;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use redb::{
    Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{oneshot, watch};

use super::executor::Executor;
use super::file::{Opened, Storage};
use super::mark::{Mark, Written};
use super::{audit, earlier, seal};
use crate::state::NodeId;
use crate::state::encoding::{self, EncodingError};

/// The log's entries by index.
pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// Everything else by name.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

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
    /// What this node has promised others may not be in it any more.
    #[error(
        "the replica's file is damaged ({0}): this node must not vote under its id again. Remove it from its cluster (docker node rm --force) and \
         have it begin with an empty data disk: it joins as a new node"
    )]
    Damaged(String),
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
    mark: Mark,
    /// As in `meta`.
    commits: AtomicU64,
    /// Set by the first write that fails, never cleared.
    poisoned: AtomicBool,
    /// The last entry that the snapshot in the file stands for. Told as well where the file is poisoned.
    snapshot: watch::Sender<Option<u64>>,
}

impl Disk {
    /// Opens what is there, making it where needed.
    pub async fn open(
        storage: Storage,
        random: u64,
        executor: Arc<dyn Executor>,
    ) -> Result<Self, DiskError> {
        let kept = Arc::clone(&executor);
        on(executor.as_ref(), move || {
            let Opened { database, mark } = storage.open()?;
            earlier::bring_up_to_date(&database)?;
            let found = audit::found(&database)?;
            audit::check(&found, mark.read())?;
            let shared = Arc::new(Shared {
                executor: kept,
                database: RwLock::new(Some(database)),
                mark,
                commits: AtomicU64::new(found.commits),
                poisoned: AtomicBool::new(false),
                snapshot: watch::Sender::new(found.snapshot),
            });
            let disk = Self {
                node: found.node.unwrap_or(NodeId(random)),
                starts: found.starts + 1,
                shared,
            };
            let (node, starts) = (disk.node.0, disk.starts);
            disk.write_now(|transaction| {
                transaction.open_table(LOG)?;
                put(transaction, "node", &node)?;
                put(transaction, "starts", &starts)
            })?;
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
            if let Err(error) = disk.shared.mark.sync() {
                tracing::debug!(%error, "syncing the mark");
            }
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
        let commits = self.shared.commits.load(Ordering::Acquire) + 1;
        let written = (|| {
            let database = self.database();
            #[cfg_attr(not(feature = "simulation"), expect(unused_mut))]
            let mut transaction = database.as_ref().ok_or(DiskError::Closed)?.begin_write()?;
            #[cfg(feature = "simulation")]
            if crate::simulation::hooks::acknowledges_before_fsync() {
                let planted = transaction.set_durability(redb::Durability::None);
                planted.map_err(|e| DiskError::Access(e.to_string()))?;
            }
            change(&transaction)?;
            put(&transaction, "commits", &commits)?;
            transaction.commit()?;
            Ok(())
        })();
        match &written {
            Ok(()) => {
                self.shared.commits.store(commits, Ordering::Release);
                let mark = Written {
                    node: self.node,
                    commits,
                };
                // An older one is true as well, only less is known by it.
                if let Err(error) = self.shared.mark.write(mark) {
                    tracing::debug!(%error, "writing the mark");
                }
            }
            Err(error) => {
                self.poison();
                tracing::error!(%error, "the replicated log can't be written; no more commands are taken");
            }
        }
        written
    }

    /// Nothing is written any more.
    pub fn poison(&self) {
        self.shared.poisoned.store(true, Ordering::Release);
        self.shared.snapshot.send_modify(|_| ());
    }

    /// Writes a snapshot durably, which stands for everything up to the entry `last`.
    pub async fn write_snapshot<M: Serialize + Send + 'static>(
        &self,
        last: Option<u64>,
        meta: M,
        bytes: Vec<u8>,
    ) -> Result<(), DiskError> {
        self.write(move |transaction| {
            put(transaction, "snapshot-of", &meta)?;
            put_bytes(transaction, "snapshot", bytes)
        })
        .await?;
        self.shared
            .snapshot
            .send_modify(|kept| *kept = last.max(*kept));
        Ok(())
    }

    /// For openraft's own suite, which purges what no snapshot stands for.
    #[cfg(test)]
    pub fn needs_no_snapshot(&self) {
        self.shared.snapshot.send_replace(Some(u64::MAX));
    }

    /// Waits until the snapshot in the file stands for the entry at `index`.
    pub async fn has_snapshot_of(&self, index: u64) -> Result<(), DiskError> {
        let mut snapshot = self.shared.snapshot.subscribe();
        loop {
            if *snapshot.borrow_and_update() >= Some(index) {
                return Ok(());
            }
            if self.shared.poisoned.load(Ordering::Acquire) {
                return Err(DiskError::Poisoned);
            }
            if snapshot.changed().await.is_err() {
                return Err(DiskError::Closed);
            }
        }
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
                let found = table.get(name)?;
                *value = found
                    .map(|found| unsealed(name.as_bytes(), found.value(), name))
                    .transpose()?;
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
                let (index, value) = entry?;
                entries.push(entry_at(index.value(), value.value())?);
            }
            Ok(entries)
        })
        .await
    }

    /// The log's newest entry, undecoded.
    pub async fn newest(&self) -> Result<Option<Vec<u8>>, DiskError> {
        self.read_log(|table| {
            let last = table.last()?;
            last.map(|(index, value)| entry_at(index.value(), value.value()))
                .transpose()
        })
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

/// Set one value of `meta` within a transaction.
pub(super) fn put<T: Serialize>(
    transaction: &WriteTransaction,
    name: &str,
    value: &T,
) -> Result<(), DiskError> {
    put_bytes(transaction, name, encoding::encode(value)?)
}

/// Takes one value out of `meta` within a transaction.
pub(super) fn remove(transaction: &WriteTransaction, name: &str) -> Result<(), DiskError> {
    transaction.open_table(META)?.remove(name)?;
    Ok(())
}

/// As [`put`], for bytes that are encoded already.
pub(super) fn put_bytes(
    transaction: &WriteTransaction,
    name: &str,
    value: Vec<u8>,
) -> Result<(), DiskError> {
    let sealed = seal::seal(name.as_bytes(), value);
    transaction
        .open_table(META)?
        .insert(name, sealed.as_slice())?;
    Ok(())
}

/// An entry as it is kept at its index.
pub(super) fn sealed_entry(index: u64, value: Vec<u8>) -> Vec<u8> {
    seal::seal(&index.to_be_bytes(), value)
}

/// An entry as it was before it was kept.
pub(super) fn entry_at(index: u64, found: &[u8]) -> Result<Vec<u8>, DiskError> {
    unsealed(&index.to_be_bytes(), found, index)
}

/// What is in a value of `meta` or the log, which is `what` in words.
pub(super) fn unsealed(
    name: &[u8],
    found: &[u8],
    what: impl std::fmt::Display,
) -> Result<Vec<u8>, DiskError> {
    let value = seal::unseal(name, found);
    let value = value.map_err(|error| DiskError::Damaged(format!("{what}: {error}")))?;
    Ok(value.to_vec())
}

/// Has `work` done by the executor, and waits for it.
async fn on<T: Send + 'static>(
    executor: &dyn Executor,
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    let (sender, done) = oneshot::channel();
    executor.execute(Box::new(move || {
        // redb panics at some pages that it can't have written.
        let done = std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            Err(DiskError::Damaged(
                "reading or writing it has panicked".to_owned(),
            ))
        });
        // Whoever asked may have gone.
        let _ = sender.send(done);
    }));
    done.await.unwrap_or_else(|_| {
        Err(DiskError::Access(
            "the thread that reads and writes it has ended".to_owned(),
        ))
    })
}
