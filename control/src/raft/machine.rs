//! The state machine as openraft sees it: [`State`] and [`Proposers`] in memory, snapshots of both on [`Disk`].

use std::io::Cursor;
use std::sync::{Arc, PoisonError};

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{
    BasicNode, Entry, EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, SnapshotMeta,
    StorageError, StorageIOError, StoredMembership,
};

use serde::{Deserialize, Serialize};

use super::batch::{Answers, Proposers, Verdict};
use super::disk::{Disk, DiskError};
use super::{Shared, Types};
use crate::state::encoding;
use crate::state::{Command, NodeId, State};

/// Applies what is committed.
pub(super) struct Machine {
    disk: Disk,
    shared: Arc<Shared>,
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
    proposers: Proposers,
}

/// What a snapshot holds.
#[derive(Serialize, Deserialize)]
struct Contents {
    state: State,
    proposers: Proposers,
}

impl Machine {
    /// The state of the last snapshot; the log's entries after it are applied by openraft.
    pub async fn restore(disk: Disk, shared: Arc<Shared>) -> Result<Self, DiskError> {
        let mut machine = Self {
            disk,
            shared,
            applied: None,
            membership: StoredMembership::default(),
            proposers: Proposers::default(),
        };
        if let Some((meta, bytes)) = machine.stored().await? {
            machine.replace(&meta, encoding::decode(&bytes)?);
        }
        Ok(machine)
    }

    async fn stored(&self) -> Result<Option<(SnapshotMeta<u64, BasicNode>, Vec<u8>)>, DiskError> {
        let [meta, bytes] = self.disk.get_bytes(["snapshot-of", "snapshot"]).await?;
        let stored = meta.zip(bytes);
        stored
            .map(|(meta, bytes)| Ok((encoding::decode(&meta)?, bytes)))
            .transpose()
    }

    fn apply_one(&self, command: &Command) -> Verdict {
        let mut state = self
            .shared
            .state
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let applied = state.apply(command);
        self.shared.observer.applied(&state, &applied.changes);
        applied.result
    }

    fn replace(&mut self, meta: &SnapshotMeta<u64, BasicNode>, contents: Contents) {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.proposers = contents.proposers;
        let mut state = self
            .shared
            .state
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *state = contents.state;
        self.shared.observer.replaced(&state);
    }

    fn is_member(&self, node: NodeId) -> bool {
        self.membership.membership().get_node(&node.0).is_some()
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>), StorageError<u64>> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answers>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut answers = Vec::new();
        for entry in entries {
            self.applied = Some(entry.log_id);
            answers.push(match entry.payload {
                EntryPayload::Blank => Answers::default(),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    let mut proposers = std::mem::take(&mut self.proposers);
                    proposers.keep(|node| self.is_member(node));
                    self.proposers = proposers;
                    Answers::default()
                }
                // It was thrown out while its batch was under way, and waits for no answer any more.
                EntryPayload::Normal(batch) if !self.is_member(batch.proposer) => {
                    Answers::default()
                }
                EntryPayload::Normal(batch) => {
                    let mut proposers = std::mem::take(&mut self.proposers);
                    let answers = proposers.apply(&batch, |command| self.apply_one(command));
                    self.proposers = proposers;
                    answers
                }
            });
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let state = self
            .shared
            .state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id: self.applied.map_or_else(
                || "0".into(),
                |id| format!("{}-{}", id.leader_id.term, id.index),
            ),
        };
        Builder {
            disk: self.disk.clone(),
            meta,
            contents: Contents {
                state,
                proposers: self.proposers.clone(),
            },
        }
    }

    async fn begin_receiving_snapshot(
        &mut self,
    ) -> Result<Box<Cursor<Vec<u8>>>, StorageError<u64>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<u64>> {
        let bytes = snapshot.into_inner();
        let contents = encoding::decode(&bytes).map_err(|e| {
            // Whoever waits for it to be written must not wait for ever.
            self.disk.poison();
            StorageIOError::read_snapshot(Some(meta.signature()), &e)
        })?;
        save(&self.disk, meta, bytes).await?;
        self.replace(meta, contents);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError<u64>> {
        let stored = self
            .stored()
            .await
            .map_err(|e| StorageIOError::read_snapshot(None, &e))?;
        Ok(stored.map(|(meta, bytes)| Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(bytes)),
        }))
    }
}

/// The state at one moment, to be written.
pub(super) struct Builder {
    disk: Disk,
    meta: SnapshotMeta<u64, BasicNode>,
    contents: Contents,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError<u64>> {
        let failed = |e: &encoding::EncodingError| {
            StorageIOError::write_snapshot(Some(self.meta.signature()), e)
        };
        let bytes = encoding::encode(&self.contents).map_err(|e| failed(&e))?;
        save(&self.disk, &self.meta, bytes.clone()).await?;
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: Box::new(Cursor::new(bytes)),
        })
    }
}

async fn save(
    disk: &Disk,
    meta: &SnapshotMeta<u64, BasicNode>,
    bytes: Vec<u8>,
) -> Result<(), StorageError<u64>> {
    let last = meta.last_log_id.map(|id| id.index);
    let written = disk.write_snapshot(last, meta.clone(), bytes).await;
    Ok(written.map_err(|e| StorageIOError::write_snapshot(Some(meta.signature()), &e))?)
}
