//! Whether the replica's file is what this node has left: looked at once, when it is opened.

use openraft::BasicNode;
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableError};
use serde::de::DeserializeOwned;

use super::disk::{DiskError, LOG, META, entry_at, unsealed};
use super::mark::Written;
use crate::state::NodeId;
use crate::state::encoding;

/// What is in a file.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// None: it was never used.
    pub node: Option<NodeId>,
    pub starts: u64,
    pub commits: u64,
    has_vote: bool,
    /// The last entry that it stands for.
    pub snapshot: Option<u64>,
    purged: Option<u64>,
    /// As it is told.
    last: Option<u64>,
    /// The log's first index and its last, as they are.
    log: Option<(u64, u64)>,
}

/// Reads everything once.
pub(super) fn found(database: &Database) -> Result<Found, DiskError> {
    let transaction = database.begin_read()?;
    let mut found = Found::default();
    let (meta, log) = match (transaction.open_table(META), transaction.open_table(LOG)) {
        (Ok(meta), Ok(log)) => (meta, log),
        (Err(TableError::TableDoesNotExist(_)), Err(TableError::TableDoesNotExist(_))) => {
            return Ok(found);
        }
        (Err(TableError::TableDoesNotExist(_)), _) | (_, Err(TableError::TableDoesNotExist(_))) => {
            return Err(DiskError::Damaged(
                "one of its tables is missing".to_owned(),
            ));
        }
        (Err(error), _) | (_, Err(error)) => return Err(error.into()),
    };
    for value in meta.iter()? {
        let (name, value) = value?;
        unsealed(name.value().as_bytes(), value.value(), name.value())?;
    }
    found.node = get::<u64>(&meta, "node")?.map(NodeId);
    found.starts = get(&meta, "starts")?.unwrap_or(0);
    found.commits = get(&meta, "commits")?.unwrap_or(0);
    found.has_vote = meta.get("vote")?.is_some();
    let has_bytes = meta.get("snapshot")?.is_some();
    let snapshot = get::<openraft::SnapshotMeta<u64, BasicNode>>(&meta, "snapshot-of")?;
    let snapshot = snapshot.filter(|_| has_bytes);
    found.snapshot = snapshot
        .and_then(|meta| meta.last_log_id)
        .map(|id| id.index);
    found.purged = get::<openraft::LogId<u64>>(&meta, "purged")?.map(|id| id.index);
    found.last = get(&meta, "last")?;
    for entry in log.iter()? {
        let (index, value) = entry?;
        let index = index.value();
        entry_at(index, value.value())?;
        found.log = match found.log {
            None => Some((index, index)),
            Some((first, last)) if last + 1 == index => Some((first, index)),
            Some((_, last)) => {
                let words = format!("entry {index} comes after {last}");
                return Err(DiskError::Damaged(words));
            }
        };
    }
    Ok(found)
}

fn get<T: DeserializeOwned>(
    meta: &ReadOnlyTable<&'static str, &'static [u8]>,
    name: &'static str,
) -> Result<Option<T>, DiskError> {
    let Some(found) = meta.get(name)? else {
        return Ok(None);
    };
    let value = unsealed(name.as_bytes(), found.value(), name)?;
    Ok(Some(encoding::decode(&value)?))
}

/// Refuses what can't be all that this node had.
pub(super) fn check(found: &Found, mark: Option<Written>) -> Result<(), DiskError> {
    #[cfg(feature = "simulation")]
    if crate::simulation::hooks::trusts_the_disk() {
        return Ok(());
    }
    let damaged = |words: String| Err(DiskError::Damaged(words));
    if let Some(mark) = mark {
        match found.node {
            None => return damaged("there is nothing in it, and was".to_owned()),
            Some(node) if node == mark.node && found.commits < mark.commits => {
                let words = format!(
                    "{} writes are known, and {} were",
                    found.commits, mark.commits
                );
                return damaged(words);
            }
            Some(_) => {}
        }
    }
    if let (Some((first, _)), Some(purged)) = (found.log, found.purged)
        && first != purged + 1
    {
        return damaged(format!(
            "it begins with entry {first}, and {purged} was the last to go"
        ));
    }
    if found.purged.is_some() && found.snapshot.is_none() {
        return damaged("its snapshot is missing".to_owned());
    }
    if let (Some(purged), Some(snapshot)) = (found.purged, found.snapshot)
        && snapshot < purged
    {
        return damaged(format!(
            "its snapshot ends with entry {snapshot}, and {purged} was the last to go"
        ));
    }
    let last = found.log.map(|(_, last)| last).max(found.purged);
    // Versions before this one don't tell which is the last.
    if found.last.is_some() && found.last != last {
        return damaged(format!(
            "its last entry is {last:?}, and {:?} was",
            found.last
        ));
    }
    // The first one of a founder is written before there is any vote.
    if last.is_some_and(|last| last > 0) && !found.has_vote {
        return damaged("the vote is missing".to_owned());
    }
    Ok(())
}
