//! The replicated log, hidden: commands go in, applied state and events come out. Nothing outside this folder knows openraft.
//!
//! Durable: a command is answered after its entry is on disk (one `fsync` for all that arrive meanwhile, [`batch`]). Everything is in one file, `/data/raft/replica.redb`: this
//! node's id, vote, log, and the last snapshot. The state lives in memory and is rebuilt at start from the snapshot and the log.
//!
//! The file is read and written by a thread of its own ([`DiskThread`]): nothing that clients do on the node can hold commands up.
//!
//! After the first write that fails, this replica takes no more commands: what the disk holds is then unknown, and only a restart,
//! which reads it again, can tell.

mod batch;
mod disk;
mod executor;
mod log;
mod machine;
mod peers;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use openraft::{BasicNode, Config, Raft, SnapshotPolicy};

use crate::state::{Command, Event, NodeId, Outcome, Refusal, State};

use batch::{Answers, Batch, Proposals};

pub use disk::DiskError;
pub use executor::{DiskThread, Executor, Work};

/// A leader that is silent for this long (to twice this) is replaced. Far above a home disk's slowest `fsync`, which delays heartbeats too.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(1500);
/// Between a leader's signs of life: three may be lost before an election. Also how often an idle replica wakes up.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Entries between snapshots: replaying this many takes some 10 ms, writing a snapshot of a thousand containers about as long.
const ENTRIES_PER_SNAPSHOT: u64 = 2000;
/// Entries kept behind a snapshot for peers that lag a little.
const ENTRIES_KEPT: u64 = 500;
/// One node alone leads at once; this bounds the wait on a disk that hangs.
const LEADER_PATIENCE: Duration = Duration::from_secs(60);

openraft::declare_raft_types!(
    /// The types that openraft is used with.
    pub(crate) Types:
        D = Batch,
        R = Answers,
        NodeId = u64,
        Node = BasicNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = std::io::Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

/// Why a replica could not do something. A refusal by the state machine is not among these.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The file could not be opened or read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The log takes no commands: the disk failed, or there is no leader.
    #[error("{0}")]
    Unavailable(String),
}

/// Hears of every change, in order, while the state is still as that change left it. Called with the state locked: it must not wait.
pub trait Observer: Send + Sync + 'static {
    /// `events` are one command's.
    fn applied(&self, state: &State, events: Vec<Event>);
}

/// What the state machine shares with those who read it.
struct Shared {
    /// Written by the state machine only.
    state: RwLock<State>,
    observer: Arc<dyn Observer>,
}

/// This node's copy of the cluster's state. Cheap to clone.
#[derive(Clone)]
pub struct Replica {
    node: NodeId,
    raft: Raft<Types>,
    proposals: Proposals,
    disk: disk::Disk,
    shared: Arc<Shared>,
}

impl Replica {
    /// Opens (or, at the first boot, founds: a cluster of one) what is under `dir`. `random` becomes the node's id when it has none.
    /// Returns when everything that was ever acknowledged here has been applied.
    pub async fn open(
        dir: &Path,
        random: u64,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, ReplicaError> {
        let thread = DiskThread::start().map_err(|e| DiskError::Access(e.to_string()))?;
        Self::open_on(dir, random, observer, Arc::new(thread)).await
    }

    /// As [`Replica::open`], its file read and written by `executor`.
    pub async fn open_on(
        dir: &Path,
        random: u64,
        observer: Arc<dyn Observer>,
        executor: Arc<dyn Executor>,
    ) -> Result<Self, ReplicaError> {
        let disk = disk::Disk::open(dir, random, executor).await?;
        let node = disk.node;
        let shared = Arc::new(Shared {
            state: RwLock::default(),
            observer,
        });
        let log = log::LogStore::new(disk.clone()).await?;
        let last = log.last_index();
        let machine = machine::Machine::restore(disk.clone(), Arc::clone(&shared)).await?;
        let millis = |duration: Duration| duration.as_millis() as u64;
        let config = Config {
            cluster_name: "hearth".into(),
            heartbeat_interval: millis(HEARTBEAT),
            election_timeout_min: millis(ELECTION_TIMEOUT),
            election_timeout_max: 2 * millis(ELECTION_TIMEOUT),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(ENTRIES_PER_SNAPSHOT),
            max_in_snapshot_log_to_keep: ENTRIES_KEPT,
            ..Config::default()
        };
        let config = config
            .validate()
            .map_err(|e| ReplicaError::Unavailable(e.to_string()))?;
        let raft = Raft::new(node.0, Arc::new(config), peers::NoPeers, log, machine)
            .await
            .map_err(|e| ReplicaError::Unavailable(e.to_string()))?;
        let replica = Self {
            node,
            proposals: Proposals::to(raft.clone()),
            raft,
            disk,
            shared,
        };
        replica.lead(last).await?;
        Ok(replica)
    }

    /// Founds the cluster where there is none, stands for election where nobody leads, waits for the log's end to be applied.
    async fn lead(&self, last: Option<u64>) -> Result<(), ReplicaError> {
        let unavailable = |e: &dyn std::fmt::Display| ReplicaError::Unavailable(e.to_string());
        if last.is_none() {
            let members = BTreeMap::from([(self.node.0, BasicNode::default())]);
            self.raft
                .initialize(members)
                .await
                .map_err(|e| unavailable(&e))?;
        } else if self.raft.metrics().borrow().current_leader != Some(self.node.0) {
            self.raft
                .trigger()
                .elect()
                .await
                .map_err(|e| unavailable(&e))?;
        }
        let node = self.node.0;
        self.raft
            .wait(Some(LEADER_PATIENCE))
            .metrics(
                |m| {
                    m.current_leader == Some(node)
                        && m.last_applied.map(|id| id.index) >= last.max(Some(0))
                },
                "leading, and the log applied",
            )
            .await
            .map_err(|e| unavailable(&e))?;
        Ok(())
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Commit a command. Returns once it is on disk and applied here.
    pub async fn propose(
        &self,
        command: Command,
    ) -> Result<Result<Outcome, Refusal>, ReplicaError> {
        self.proposals.propose(command).await
    }

    /// The state as it is here, for as long as the guard lives. Never hold it across an await.
    pub fn state(&self) -> impl Deref<Target = State> + '_ {
        self.shared
            .state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until this replica can't go on: a write has failed. Only a new process, which reads what the disk really holds, can.
    pub async fn failed(&self) -> ReplicaError {
        let mut metrics = self.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_and_update().running_state {
                return ReplicaError::Unavailable(fatal.to_string());
            }
            if metrics.changed().await.is_err() {
                return ReplicaError::Unavailable("raft has stopped".into());
            }
        }
    }

    /// Write what is still in memory and stop.
    pub async fn close(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop in order");
        }
        if let Err(error) = self.disk.close().await {
            tracing::warn!(%error, "closing the replica's file");
        }
    }
}

#[cfg(test)]
mod tests;
