//! The replicated log, hidden: commands go in, applied state and events come out. Nothing outside this folder knows openraft.
//!
//! Durable: a command is answered after its entry is on disk (one `fsync` for all that arrive meanwhile, [`batch`]). Everything is in one file, `/data/raft/replica.redb`: this
//! node's id, vote, log, and the last snapshot. The state lives in memory and is rebuilt at start from the snapshot and the log.
//!
//! The file is read and written by a thread of its own ([`DiskThread`]): nothing that clients do on the node can hold commands up.
//!
//! After the first write that fails, this replica takes no more commands: what the disk holds is then unknown, and only a restart,
//! which reads it again, can tell. A file that is damaged, or lacks something that was acknowledged, is not used at all ([`seal`], [`mark`],
//! [`audit`]): its node has promised things that it doesn't know of any more.

mod audit;
mod batch;
mod disk;
mod earlier;
mod election;
mod executor;
mod file;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod log;
mod machine;
mod mark;
mod members;
mod peers;
mod rest;
mod seal;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use openraft::raft::InstallSnapshotRequest;
use openraft::{BasicNode, Config, Raft, SnapshotPolicy, Vote};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::state::{Change, Command, NodeId, Outcome, Refusal, State, encoding};

use batch::{Answers, Batch, Leader, Proposals};
use election::{Behind, Heard, Signs};
use peers::{Peers, Reply, Request};
use rest::Rest;

pub use disk::DiskError;
pub use executor::{DiskThread, Executor, Work};
pub use file::Storage;
pub use members::Standing;
pub use peers::{NoPeers, Transport, TransportError};

/// For as long after a leader's last sign of life a node votes for nobody else. Then it asks for votes itself, soon ([`election`] has the sum):
/// writes go on within two seconds of a leader's death. Two signs may be lost before that; and it is as long as those two seconds allow, for
/// whatever delays a sign by more, a slow disk or a node that has too much to do, costs an election.
pub(crate) const LEASE: Duration = Duration::from_millis(1_100);
/// Between a leader's signs of life, unless it rests ([`rest`]).
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(360);
/// A peer takes entries within this, or they are sent again: a write to a slow disk. openraft looks whether a leader that was removed is to step
/// down at one and a half times this.
const APPEND_TIMEOUT: Duration = Duration::from_millis(500);
/// Entries between snapshots: replaying this many takes some 10 ms, writing a snapshot of a thousand containers about as long.
pub(crate) const ENTRIES_PER_SNAPSHOT: u64 = 2000;
/// Entries kept behind a snapshot for peers that lag a little.
pub(crate) const ENTRIES_KEPT: u64 = 500;
/// A part of a snapshot is taken by a peer within this: 3 MiB through a slow link, and written to a slow disk with the last.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a start waits for a leader. One node alone leads at once, and this bounds the wait on a disk that hangs.
const LEADER_PATIENCE: Duration = Duration::from_secs(60);

#[cfg(not(feature = "simulation"))]
type Runtime = openraft::TokioRuntime;
#[cfg(feature = "simulation")]
type Runtime = crate::simulation::runtime::Seeded;

openraft::declare_raft_types!(
    /// The types that openraft is used with.
    pub(crate) Types:
        D = Batch,
        R = Answers,
        NodeId = u64,
        Node = BasicNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = std::io::Cursor<Vec<u8>>,
        AsyncRuntime = Runtime,
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
    /// `changes` are one command's.
    fn applied(&self, state: &State, changes: &[Change]);

    /// The state is another: one that was read from the disk at start, or a later one that has come from a peer. What happened in
    /// between is known by its result only.
    fn replaced(&self, state: &State);
}

/// Wakes a task at each change.
pub struct Waker(pub Arc<Notify>);

impl Observer for Waker {
    fn applied(&self, _: &State, changes: &[Change]) {
        if !changes.is_empty() {
            self.0.notify_one();
        }
    }

    fn replaced(&self, _: &State) {
        self.0.notify_one();
    }
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
    rest: Arc<Rest>,
}

/// How a replica begins, and reaches others.
pub struct Start {
    /// Where the file is.
    pub storage: Storage,
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
            storage: dir.into(),
            random,
            founds: Some(String::new()),
            executor: Arc::new(thread),
            transport: Arc::new(NoPeers),
        };
        let replica = Self::start(start, observer).await?;
        replica.led().await?;
        Ok(replica)
    }

    /// Gives up what is under `dir`, unless it is this node's: the cluster that a node had for itself, once another has taken it in by
    /// another id. Called before that is opened. Blocks.
    pub fn forget_other(dir: &Path, node: NodeId) -> Result<(), ReplicaError> {
        file::forget(dir, |known| known != Some(node))?;
        Ok(())
    }

    /// Gives up what is under `dir`, if it is this node's: one that has left its cluster. True: it was. As above.
    pub fn forget_own(dir: &Path, node: NodeId) -> Result<bool, ReplicaError> {
        Ok(file::forget(dir, |known| known == Some(node))?)
    }

    /// Opens what is there, founds a cluster if that is asked for and there is none, and takes part. There may be no leader yet
    /// ([`Replica::led`]); the state is the one of the last snapshot, and what is known to be committed after it follows.
    pub async fn start(start: Start, observer: Arc<dyn Observer>) -> Result<Self, ReplicaError> {
        let disk = disk::Disk::open(start.storage, start.random, start.executor).await?;
        let node = disk.node;
        let shared = Arc::new(Shared {
            state: RwLock::default(),
            observer,
        });
        let rest = Rest::new();
        let log = log::LogStore::new(disk.clone(), Arc::clone(&rest)).await?;
        let is_new = log.last_index().is_none();
        let machine = machine::Machine::restore(disk.clone(), Arc::clone(&shared)).await?;
        let millis = |duration: Duration| duration.as_millis() as u64;
        let (per_snapshot, kept) = snapshots();
        let config = Config {
            cluster_name: "hearth".into(),
            heartbeat_interval: millis(APPEND_TIMEOUT),
            enable_heartbeat: false,
            enable_elect: false,
            // How long a vote is waited for; and how long voters refuse others.
            election_timeout_min: millis(LEASE) - 1,
            election_timeout_max: millis(LEASE),
            install_snapshot_timeout: millis(CHUNK_TIMEOUT),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(per_snapshot),
            max_in_snapshot_log_to_keep: kept,
            ..Config::default()
        };
        let unavailable = |e: &dyn std::fmt::Display| ReplicaError::Unavailable(e.to_string());
        let config = config.validate().map_err(|e| unavailable(&e))?;
        let behind = Behind::default();
        let peers = Peers::new(start.transport, Arc::clone(&behind), Arc::clone(&rest));
        let raft = Raft::new(node.0, Arc::new(config), peers.clone(), log, machine)
            .await
            .map_err(|e| unavailable(&e))?;
        if let Some(address) = start.founds.filter(|_| is_new) {
            let members = BTreeMap::from([(node.0, BasicNode::new(address))]);
            raft.initialize(members)
                .await
                .map_err(|e| unavailable(&e))?;
        }
        let leader = Leader {
            node,
            raft,
            peers,
            signs: Signs::default(),
            last_moment: Arc::default(),
        };
        if leader.is_alone() && !is_new {
            // Nobody to wait for.
            let elected = leader.raft.trigger().elect().await;
            elected.map_err(|e| unavailable(&e))?;
        }
        let signs = leader.signs.subscribe();
        tokio::spawn(election::elect_in_time(leader.clone(), signs, behind));
        tokio::spawn(rest::give_signs(leader.clone(), Arc::clone(&rest)));
        leader.ask_for_signs();
        Ok(Self {
            rest,
            proposals: Proposals::to(leader.clone(), disk.starts),
            leader,
            disk,
            shared,
        })
    }

    /// Waits for a leader, and until everything that was ever acknowledged anywhere has been applied here. `Unavailable`: not within a minute.
    /// `Stopped`: never any more.
    pub async fn led(&self) -> Result<(), ReplicaError> {
        let led = self.leader.raft.wait(Some(LEADER_PATIENCE));
        let led = async {
            led.metrics(|m| m.current_leader.is_some(), "a leader")
                .await
                .map_err(|e| ReplicaError::Unavailable(e.to_string()))?;
            self.leader.barrier().await
        };
        tokio::select! {
            biased;
            failure = self.failed() => Err(failure),
            led = led => led,
        }
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
            Request::Append(request, rests) => {
                let vote = request.vote;
                self.heard(vote, rests);
                let appended = raft.append_entries(request).await;
                self.heard(vote, rests);
                Reply::Append(appended)
            }
            Request::Vote(request) => Reply::Vote(raft.vote(request).await),
            Request::Snapshot(chunk) => {
                let request = InstallSnapshotRequest::from(chunk);
                let vote = request.vote;
                self.heard(vote, false);
                let installed = raft.install_snapshot(request).await;
                self.heard(vote, false);
                Reply::Snapshot(installed)
            }
            Request::Propose(batch) => Reply::Proposed(self.leader.commit_here(batch).await),
            Request::Committed => {
                let committed = self.leader.committed_here().await;
                if committed.is_ok() && self.rest.rests() {
                    // Whoever asks waits until it has heard of that.
                    if let Err(error) = raft.trigger().heartbeat().await {
                        tracing::debug!(%error, "telling what is committed");
                    }
                }
                Reply::Committed(committed)
            }
            Request::Started => {
                self.rest.ends();
                Reply::Heard
            }
            Request::Look => {
                if let Err(error) = self.leader.barrier().await {
                    tracing::debug!(%error, "looking whether the leader answers");
                }
                Reply::Heard
            }
        }
    }

    /// A sign of life, of the leader if that is its vote: before its entries are written and after, since a slow disk isn't the leader's death.
    fn heard(&self, vote: Vote<u64>, rests: bool) {
        if self.leader.raft.server_metrics().borrow().vote == vote {
            let at = Instant::now();
            self.leader.signs.heard(Heard { vote, at, rests });
        }
    }

    /// Asks something of the leader. Where no answer comes, its silence counts, though it may rest.
    pub async fn asking_leader<T, E>(
        &self,
        ask: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.leader.signs.asking(ask).await
    }

    /// Whoever leads has had nothing to do for a while, as far as this node knows.
    pub fn rests(&self) -> bool {
        self.rest.rests() || self.leader.follows_one_that_rests()
    }

    /// Waits until everything is applied here that was acknowledged anywhere before: what is read then is no older than that.
    pub async fn barrier(&self) -> Result<(), ReplicaError> {
        self.leader.barrier().await
    }

    /// Asks the voters whether this node leads, once and only here. After it, everything is applied here that was committed in earlier terms,
    /// and its own term's first entry.
    pub async fn confirm(&self) -> Result<(), ReplicaError> {
        let index = self.leader.committed_here().await;
        let index = index.map_err(|e| ReplicaError::Unavailable(e.to_string()))?;
        self.leader.applied(index).await
    }

    /// Commit a command. Returns once it is on disk and applied here.
    pub async fn propose(
        &self,
        command: Command,
    ) -> Result<Result<Outcome, Refusal>, ReplicaError> {
        // Before it is in the log, which every member reads.
        if !self.state().understands(command.features()) {
            return Ok(Err(Refusal::TooNew));
        }
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

    /// The node goes down. What can be decided still is; but where nobody leads, a moment is all that anybody waits for from now on.
    pub fn hurry(&self) {
        self.leader.hurry();
    }

    /// [`Replica::hurry`] was called.
    pub fn hurries(&self) -> bool {
        self.leader.last_moment.get().is_some()
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

/// After how many entries a snapshot is made, and how many stay behind it.
fn snapshots() -> (u64, u64) {
    #[cfg(feature = "simulation")]
    if let Some(drawn) = crate::simulation::hooks::snapshots() {
        return drawn;
    }
    (ENTRIES_PER_SNAPSHOT, ENTRIES_KEPT)
}

#[cfg(test)]
pub(crate) mod tests;
