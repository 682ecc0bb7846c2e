//! openraft's log and vote on [`Disk`].

use std::collections::VecDeque;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    Entry, LogId, LogState, OptionalSend, RaftLogReader, StorageError, StorageIOError, Vote,
};

use super::Types;
use super::disk::{self, Disk, DiskError, LOG};
use super::rest::Rest;
use crate::state::encoding;

/// Of the newest entries, so many bytes are kept in memory: each is read once to be applied and once for each follower, mostly as soon as it is
/// written.
const RECENT_BYTES_MAX: usize = 1 << 20;

/// The log.
#[derive(Clone)]
pub(super) struct LogStore {
    disk: Disk,
    /// What openraft asks for at start and after each change; the disk has the same.
    ends: Arc<Mutex<Ends>>,
    recent: Arc<Mutex<Recent>>,
    rest: Arc<Rest>,
}

/// The newest entries, one after the other.
#[derive(Default)]
struct Recent {
    /// And the bytes of each.
    entries: VecDeque<(Entry<Types>, usize)>,
    bytes: usize,
}

impl Recent {
    fn add(&mut self, entry: Entry<Types>, bytes: usize) {
        let last = self.entries.back().map(|(last, _)| last.log_id.index);
        if last.is_some_and(|last| last + 1 != entry.log_id.index) {
            self.keep(|_| false);
        }
        self.entries.push_back((entry, bytes));
        self.bytes += bytes;
        while self.bytes > RECENT_BYTES_MAX && self.entries.len() > 1 {
            let first = self.entries.pop_front();
            self.bytes -= first.map_or(0, |(_, bytes)| bytes);
        }
    }

    /// Those of these indices that are still in the log.
    fn keep(&mut self, is_in: impl Fn(u64) -> bool) {
        self.entries.retain(|(entry, _)| is_in(entry.log_id.index));
        self.bytes = self.entries.iter().map(|(_, bytes)| bytes).sum();
    }

    /// None: not all of them are here, and it is for the disk to tell.
    fn range(&self, range: &impl RangeBounds<u64>) -> Option<Vec<Entry<Types>>> {
        let first = self.entries.front()?.0.log_id.index;
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(_) | Bound::Unbounded => return None,
        };
        let until = match range.end_bound() {
            Bound::Excluded(until) => *until,
            Bound::Included(last) => last.checked_add(1)?,
            Bound::Unbounded => return None,
        };
        let skipped = usize::try_from(from.checked_sub(first)?).ok()?;
        let count = usize::try_from(until.checked_sub(from)?).ok()?;
        let is_here = skipped.checked_add(count)? <= self.entries.len();
        let entries = self.entries.iter().skip(skipped).take(count);
        is_here.then(|| entries.map(|(entry, _)| entry.clone()).collect())
    }
}

#[derive(Clone, Copy, Default)]
struct Ends {
    purged: Option<LogId<u64>>,
    last: Option<LogId<u64>>,
    /// Not worth an `fsync` of its own: written with the next entries. An older one only means more to be committed again at start.
    committed: Option<LogId<u64>>,
}

impl LogStore {
    /// Reads where the log begins and ends. `rest`: ends with each entry.
    pub async fn new(disk: Disk, rest: Arc<Rest>) -> Result<Self, DiskError> {
        let purged = disk.get::<LogId<u64>>("purged").await?;
        let committed = disk.get::<LogId<u64>>("committed").await?;
        let newest = disk.newest().await?;
        let last = newest
            .map(|bytes| encoding::decode::<Entry<Types>>(&bytes))
            .transpose()?
            .map(|entry| entry.log_id);
        let ends = Ends {
            purged,
            last: last.max(purged),
            committed,
        };
        Ok(Self {
            disk,
            ends: Arc::new(Mutex::new(ends)),
            recent: Arc::default(),
            rest,
        })
    }

    /// Of the last entry; None: nothing was ever written.
    pub fn last_index(&self) -> Option<u64> {
        self.ends().last.map(|id| id.index)
    }

    fn ends(&self) -> Ends {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_ends(&self, change: impl FnOnce(&mut Ends)) {
        change(&mut self.ends.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<Types>>, StorageError<u64>> {
        let found = self.recent().range(&range);
        if let Some(found) = found {
            return Ok(found);
        }
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        let entries = self
            .disk
            .entries(range)
            .await
            .map_err(|e| StorageIOError::read_logs(&e))?;
        let decoded: Result<Vec<_>, _> = entries
            .iter()
            .map(|bytes| encoding::decode(bytes))
            .collect();
        Ok(decoded.map_err(|e| StorageIOError::read_logs(&e))?)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError<u64>> {
        let ends = self.ends();
        Ok(LogState {
            last_purged_log_id: ends.purged,
            last_log_id: ends.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        let vote = *vote;
        let written = self.disk.write(move |t| disk::put(t, "vote", &vote)).await;
        Ok(written.map_err(|e| StorageIOError::write_vote(&e))?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        Ok(self
            .disk
            .get("vote")
            .await
            .map_err(|e| StorageIOError::read_vote(&e))?)
    }

    async fn save_committed(
        &mut self,
        committed: Option<LogId<u64>>,
    ) -> Result<(), StorageError<u64>> {
        self.set_ends(|ends| ends.committed = committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<u64>>, StorageError<u64>> {
        Ok(self.ends().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Types>,
    ) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.rest.ends();
        let mut last = None;
        let (mut encoded, mut recent) = (Vec::new(), Vec::new());
        for entry in entries {
            let bytes = encoding::encode(&entry)
                .map_err(|e| StorageIOError::write_log_entry(entry.log_id, &e))?;
            last = Some(entry.log_id);
            recent.push((bytes.len(), entry.clone()));
            let index = entry.log_id.index;
            encoded.push((index, disk::sealed_entry(index, bytes)));
        }
        let committed = self.ends().committed;
        let written = self
            .disk
            .write(move |transaction| {
                let mut table = transaction.open_table(LOG)?;
                for (index, bytes) in &encoded {
                    table.insert(index, bytes.as_slice())?;
                }
                drop(table);
                if let Some(last) = last {
                    disk::put(transaction, "last", &last.index)?;
                }
                committed.map_or(Ok(()), |id| disk::put(transaction, "committed", &id))
            })
            .await;
        match written {
            Ok(()) => {
                self.set_ends(|ends| ends.last = last.max(ends.last));
                for (bytes, entry) in recent {
                    self.recent().add(entry, bytes);
                }
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.log_io_completed(Err(std::io::Error::other(error.clone())));
                Err(StorageIOError::write_logs(&error).into())
            }
        }
    }

    async fn truncate(&mut self, from: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.recent().keep(|index| index < from.index);
        let removed = self
            .disk
            .write(move |transaction| {
                transaction
                    .open_table(LOG)?
                    .retain_in(from.index.., |_, _| false)?;
                match from.index.checked_sub(1) {
                    Some(last) => disk::put(transaction, "last", &last),
                    None => disk::remove(transaction, "last"),
                }
            })
            .await;
        removed.map_err(|e| StorageIOError::write_logs(&e))?;
        let before = match from.index.checked_sub(1) {
            Some(index) => self
                .try_get_log_entries(index..=index)
                .await?
                .pop()
                .map(|entry| entry.log_id),
            None => None,
        };
        self.set_ends(|ends| ends.last = before.max(ends.purged));
        Ok(())
    }

    /// Waits until the snapshot is on disk that stands for what goes: openraft (0.9.25) doesn't, where it comes from a peer, and a node that lost its
    /// power between the two would have neither.
    async fn purge(&mut self, upto: LogId<u64>) -> Result<(), StorageError<u64>> {
        let has_snapshot = self.disk.has_snapshot_of(upto.index).await;
        has_snapshot.map_err(|e| StorageIOError::write_logs(&e))?;
        self.recent().keep(|index| index > upto.index);
        let last = self.last_index().max(Some(upto.index));
        let purged = self
            .disk
            .write(move |transaction| {
                transaction
                    .open_table(LOG)?
                    .retain_in(..=upto.index, |_, _| false)?;
                disk::put(transaction, "last", &last)?;
                disk::put(transaction, "purged", &upto)
            })
            .await;
        purged.map_err(|e| StorageIOError::write_logs(&e))?;
        self.set_ends(|ends| {
            ends.purged = Some(upto);
            ends.last = ends.last.max(Some(upto));
        });
        Ok(())
    }
}
