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

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use openraft::{BasicNode, ChangeMembers, Config, Raft, SnapshotPolicy};

use crate::state::{Command, Event, NodeId, Outcome, Refusal, State, encoding};

use batch::{Answers, Batch, Leader, Proposals};
use peers::{Peers, Reply, Request};

pub use disk::DiskError;
pub use executor::{DiskThread, Executor, Work};
pub use peers::{NoPeers, Transport, TransportError};

/// A leader that is silent for this long (to twice this) is replaced. Far above a home disk's slowest `fsync`, which delays heartbeats too.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(1500);
/// Between a leader's signs of life: three may be lost before an election. Also how often an idle replica wakes up.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Entries between snapshots: replaying this many takes some 10 ms, writing a snapshot of a thousand containers about as long.
const ENTRIES_PER_SNAPSHOT: u64 = 2000;
/// Entries kept behind a snapshot for peers that lag a little.
const ENTRIES_KEPT: u64 = 500;
/// A part of a snapshot is taken by a peer within this: 3 MiB through a slow link, and written to a slow disk with the last.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a start waits for a leader. One node alone leads at once, and this bounds the wait on a disk that hangs.
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
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReplicaError {
    /// The file could not be opened or read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The log takes no commands now: there is no leader.
    #[error("{0}")]
    Unavailable(String),
    /// This replica takes no more commands: a write has failed, or it was closed.
    #[error("the node's replica has stopped: {0}")]
    Stopped(String),
}

/// Hears of every change, in order, while the state is still as that change left it. Called with the state locked: it must not wait.
pub trait Observer: Send + Sync + 'static {
    /// `events` are one command's.
    fn applied(&self, state: &State, events: Vec<Event>);

    /// The state is another: one that was read from the disk at start, or a later one that has come from a peer. What happened in
    /// between is known by its result only.
    fn replaced(&self, state: &State);
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
    leader: Leader,
    proposals: Proposals,
    disk: disk::Disk,
    shared: Arc<Shared>,
}

/// How a replica begins, and reaches others.
pub struct Start {
    /// Where the file is.
    pub dir: PathBuf,
    /// Becomes the node's id when it has none.
    pub random: u64,
    /// Where others reach this node, which founds a cluster unless it is in one; None: it waits for one to take it in.
    pub founds: Option<String>,
    /// Reads and writes the file.
    pub executor: Arc<dyn Executor>,
    /// Leads to the others.
    pub transport: Arc<dyn Transport>,
}

impl Replica {
    /// Opens (or, at the first boot, founds: a cluster of one) what is under `dir`, for a node that has no peers. `random` becomes the
    /// node's id when it has none. Returns when everything that was ever acknowledged here has been applied.
    pub async fn open(
        dir: &Path,
        random: u64,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, ReplicaError> {
        let thread = DiskThread::start().map_err(|e| DiskError::Access(e.to_string()))?;
        let start = Start {
            dir: dir.to_owned(),
            random,
            founds: Some(String::new()),
            executor: Arc::new(thread),
            transport: Arc::new(NoPeers),
        };
        let replica = Self::start(start, observer).await?;
        replica.led().await?;
        Ok(replica)
    }

    /// Opens what is there, founds a cluster if that is asked for and there is none, and takes part. There may be no leader yet
    /// ([`Replica::led`]); the state is the one of the last snapshot, and what is known to be committed after it follows.
    pub async fn start(start: Start, observer: Arc<dyn Observer>) -> Result<Self, ReplicaError> {
        let disk = disk::Disk::open(&start.dir, start.random, start.executor).await?;
        let node = disk.node;
        let shared = Arc::new(Shared {
            state: RwLock::default(),
            observer,
        });
        let log = log::LogStore::new(disk.clone()).await?;
        let is_new = log.last_index().is_none();
        let machine = machine::Machine::restore(disk.clone(), Arc::clone(&shared)).await?;
        let millis = |duration: Duration| duration.as_millis() as u64;
        let config = Config {
            cluster_name: "hearth".into(),
            heartbeat_interval: millis(HEARTBEAT),
            election_timeout_min: millis(ELECTION_TIMEOUT),
            election_timeout_max: 2 * millis(ELECTION_TIMEOUT),
            install_snapshot_timeout: millis(CHUNK_TIMEOUT),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(ENTRIES_PER_SNAPSHOT),
            max_in_snapshot_log_to_keep: ENTRIES_KEPT,
            ..Config::default()
        };
        let unavailable = |e: &dyn std::fmt::Display| ReplicaError::Unavailable(e.to_string());
        let config = config.validate().map_err(|e| unavailable(&e))?;
        let peers = Peers(start.transport);
        let raft = Raft::new(node.0, Arc::new(config), peers.clone(), log, machine)
            .await
            .map_err(|e| unavailable(&e))?;
        if let Some(address) = start.founds.filter(|_| is_new) {
            let members = BTreeMap::from([(node.0, BasicNode::new(address))]);
            raft.initialize(members)
                .await
                .map_err(|e| unavailable(&e))?;
        }
        let leader = Leader { node, raft, peers };
        if leader.is_alone() && !is_new {
            // Nobody to wait for.
            let elected = leader.raft.trigger().elect().await;
            elected.map_err(|e| unavailable(&e))?;
        }
        Ok(Self {
            proposals: Proposals::to(leader.clone(), disk.starts),
            leader,
            disk,
            shared,
        })
    }

    /// Waits for a leader, and until everything that was ever acknowledged anywhere has been applied here.
    pub async fn led(&self) -> Result<(), ReplicaError> {
        let led = self.leader.raft.wait(Some(LEADER_PATIENCE));
        led.metrics(|m| m.current_leader.is_some(), "a leader")
            .await
            .map_err(|e| ReplicaError::Unavailable(e.to_string()))?;
        self.leader.barrier().await
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.leader.node
    }

    /// Answers what the replica of the node `from` has asked through its transport, which knows that it is this node.
    pub async fn answer(&self, from: NodeId, request: &[u8]) -> Bytes {
        let reply = match peers::decode::<Request>(request) {
            Ok(request) if request.speaks_for().is_none_or(|node| node == from.0) => {
                self.reply(request).await
            }
            Ok(_) => Reply::Refused("it speaks for another node".into()),
            Err(error) => Reply::Refused(error.to_string()),
        };
        encoding::encode(&reply).unwrap_or_default().into()
    }

    async fn reply(&self, request: Request) -> Reply {
        let raft = &self.leader.raft;
        match request {
            Request::Append(request) => Reply::Append(raft.append_entries(request).await),
            Request::Vote(request) => Reply::Vote(raft.vote(request).await),
            Request::Snapshot(chunk) => Reply::Snapshot(raft.install_snapshot(chunk.into()).await),
            Request::Propose(batch) => Reply::Proposed(self.leader.commit_here(batch).await),
            Request::Committed => Reply::Committed(self.leader.committed_here().await),
        }
    }

    /// Waits until everything is applied here that was acknowledged anywhere before: what is read then is no older than that.
    pub async fn barrier(&self) -> Result<(), ReplicaError> {
        self.leader.barrier().await
    }

    /// Takes a node in, or tells where it is now: it gets everything, and has no vote. Only where this node leads.
    pub async fn admit(&self, node: NodeId, address: String) -> Result<(), ReplicaError> {
        let admitted = self
            .leader
            .raft
            .add_learner(node.0, BasicNode::new(address), false);
        admitted
            .await
            .map(drop)
            .map_err(|e| ReplicaError::Unavailable(e.to_string()))
    }

    /// Gives these members, and nobody else, a vote. Only where this node leads.
    pub async fn set_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), ReplicaError> {
        let voters: BTreeSet<u64> = voters.into_iter().map(|node| node.0).collect();
        let changed = self.leader.raft.change_membership(voters, true);
        changed
            .await
            .map(drop)
            .map_err(|e| ReplicaError::Unavailable(e.to_string()))
    }

    /// Throws a node without a vote out. Its id is never used again. Only where this node leads.
    pub async fn expel(&self, node: NodeId) -> Result<(), ReplicaError> {
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
        let changed = self.leader.raft.change_membership(change, true);
        changed
            .await
            .map(drop)
            .map_err(|e| ReplicaError::Unavailable(e.to_string()))
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
        let mut metrics = self.leader.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_and_update().running_state {
                return ReplicaError::Stopped(fatal.to_string());
            }
            if metrics.changed().await.is_err() {
                return ReplicaError::Stopped("it has been closed".into());
            }
        }
    }

    /// Write what is still in memory and stop.
    pub async fn close(&self) {
        if let Err(error) = self.leader.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop in order");
        }
        if let Err(error) = self.disk.close().await {
            tracing::warn!(%error, "closing the replica's file");
        }
    }
}

#[cfg(test)]
mod tests;
