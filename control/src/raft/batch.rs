//! One entry of the log, and one write to the disk, for all commands that arrive while the entry before is written.
//!
//! openraft writes entries one after the other and waits for the disk each time, so that a thousand clients would wait for a thousand
//! writes. A command that comes alone waits for nobody.
//!
//! A batch goes to whoever leads, and again to the next leader when no answer comes. It is numbered, and the state machine remembers
//! each proposer's last: what is asked twice is done once.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openraft::error::{CheckIsLeaderError, ClientWriteError, RaftError};
use openraft::metrics::{RaftServerMetrics, WaitError};
use openraft::{BasicNode, Raft};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::disk::DiskError;
use super::election::Signs;
use super::peers::{Peer, Peers, Reply, Request};
use super::{ReplicaError, Types};
use crate::state::{Command, NodeId, Outcome, Refusal, encoding};

/// Commands in one entry: at about 10 µs each to apply, what one of them waits for the others stays below a disk's write.
const COMMANDS_MAX: usize = 256;
/// Bytes in one entry, but for a command that is larger by itself: entries go to other nodes whole.
const BYTES_MAX: usize = 1 << 20;
/// How long a command waits for a leader: several elections, and less than the minute after which clients give up.
const LEADER_PATIENCE: Duration = Duration::from_secs(20);
/// A node that goes down waits no longer than this for somebody to lead: two elections. Where all nodes of a cluster go down, the last have
/// nobody any more.
const LAST_PATIENCE: Duration = Duration::from_secs(5);
/// A node without a vote has the voters look whether the leader is there, once that hasn't answered for this long: a command to a home's disks takes less,
/// mostly.
const LOOK_AFTER: Duration = Duration::from_millis(300);
/// Before the next attempt, unless the cluster changes earlier.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What the state machine said to a command.
pub(crate) type Verdict = Result<Outcome, Refusal>;

/// What an entry holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Batch {
    /// Where the commands were proposed.
    pub proposer: NodeId,
    /// The proposer's starts and, since the last, batches: never used twice, and growing.
    pub number: (u64, u64),
    /// In the order in which they came.
    pub commands: Vec<Command>,
}

/// What applying an entry gave, for each of its commands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answers(pub Vec<Verdict>);

/// A batch is in the log for good.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Committed {
    pub index: u64,
    pub answers: Answers,
}

/// The node that was asked doesn't lead, or not any more; another one does, or soon will.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
#[error("{0}")]
pub(crate) struct NotNow(pub String);

struct Proposal {
    command: Command,
    bytes: usize,
    answer: oneshot::Sender<Result<Verdict, ReplicaError>>,
}

/// Where commands go in. Cheap to clone.
#[derive(Clone)]
pub(super) struct Proposals(mpsc::UnboundedSender<Proposal>);

impl Proposals {
    /// Hands over what is proposed to `leader` until the last clone is gone. `start`: how often this node has started.
    pub fn to(leader: Leader, start: u64) -> Self {
        // Each waits for its answer: there are as many as requests that the API admits, and agents' reports.
        let (sender, proposals) = mpsc::unbounded_channel();
        tokio::spawn(propose_all(leader, start, proposals));
        Self(sender)
    }

    /// Returns once the command is on disk and applied here.
    pub async fn propose(&self, command: Command) -> Result<Verdict, ReplicaError> {
        let bytes = encoding::size(&command).map_err(DiskError::from)?;
        let (answer, answered) = oneshot::channel();
        let proposal = Proposal {
            command,
            bytes,
            answer,
        };
        let stopped = || ReplicaError::Stopped("it has been closed".into());
        self.0.send(proposal).map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

async fn propose_all(leader: Leader, start: u64, mut proposals: mpsc::UnboundedReceiver<Proposal>) {
    let (mut number, mut held) = (0, None);
    loop {
        let first = match held.take() {
            Some(proposal) => proposal,
            None => match proposals.recv().await {
                Some(proposal) => proposal,
                None => return,
            },
        };
        let mut bytes = first.bytes;
        let (mut commands, mut answers) = (vec![first.command], vec![first.answer]);
        while commands.len() < COMMANDS_MAX {
            let Ok(next) = proposals.try_recv() else {
                break;
            };
            bytes += next.bytes;
            if bytes > BYTES_MAX {
                held = Some(next);
                break;
            }
            commands.push(next.command);
            answers.push(next.answer);
        }
        number += 1;
        let batch = Batch {
            proposer: leader.node,
            number: (start, number),
            commands,
        };
        match leader.commit(&batch).await {
            Ok(verdicts) => {
                for (answer, verdict) in answers.into_iter().zip(verdicts.0) {
                    // Whoever proposed it may have gone: what it did stands.
                    let _ = answer.send(Ok(verdict));
                }
            }
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }
}

/// Whoever leads, here or on another node.
#[derive(Clone)]
pub(super) struct Leader {
    pub node: NodeId,
    pub raft: Raft<Types>,
    pub peers: Peers,
    pub signs: Signs,
    /// Set when this node goes down: until when it waits for somebody to lead.
    pub last_moment: Arc<OnceLock<Instant>>,
}

impl Leader {
    /// This node is the only voter.
    pub fn is_alone(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.voter_ids().eq([self.node.0])
    }

    /// The node goes down: nobody is waited for any more for longer than a moment.
    pub fn hurry(&self) {
        // A second time changes nothing.
        let _ = self.last_moment.set(Instant::now() + LAST_PATIENCE);
    }

    /// Has a batch committed, and applied here.
    async fn commit(&self, batch: &Batch) -> Result<Answers, ReplicaError> {
        let committed = self
            .ask(
                || self.commit_here(batch.clone()),
                || Request::Propose(batch.clone()),
                |reply| match reply {
                    Reply::Proposed(answer) => Some(answer),
                    _ => None,
                },
            )
            .await?;
        self.applied(committed.index).await?;
        Ok(committed.answers)
    }

    /// Waits until everything is applied here that was committed anywhere before.
    pub async fn barrier(&self) -> Result<(), ReplicaError> {
        let index = self
            .ask(
                || self.committed_here(),
                || Request::Committed,
                |reply| match reply {
                    Reply::Committed(answer) => Some(answer),
                    _ => None,
                },
            )
            .await?;
        self.applied(index).await
    }

    /// Where this node leads.
    pub async fn commit_here(&self, batch: Batch) -> Result<Committed, NotNow> {
        match self.raft.client_write(batch).await {
            Ok(written) => Ok(Committed {
                index: written.log_id.index,
                answers: written.data,
            }),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(elsewhere(forward.leader_id))
            }
            Err(error) => Err(NotNow(error.to_string())),
        }
    }

    /// Where this node leads: up to where the log is committed. Asks the other nodes whether it does.
    pub async fn committed_here(&self) -> Result<u64, NotNow> {
        match self.raft.get_read_log_id().await {
            Ok((id, _)) => Ok(id.map_or(0, |id| id.index)),
            Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward))) => {
                Err(elsewhere(forward.leader_id))
            }
            Err(error) => Err(NotNow(error.to_string())),
        }
    }

    fn voters(&self) -> Vec<Peer> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let nodes = membership.voter_ids().filter(|id| *id != self.node.0);
        nodes
            .filter_map(|id| Some(self.peers.peer(id, membership.get_node(&id)?)))
            .collect()
    }

    /// A voter that has started waits for signs of the leader, and would soon ask to lead: whoever leads is to know, though it may rest.
    pub fn ask_for_signs(&self) {
        for voter in self.voters() {
            tokio::spawn(async move {
                if let Err(error) = voter.ask(&Request::Started).await {
                    tracing::debug!(%error, "telling that this node has started");
                }
            });
        }
    }

    /// Has the voters ask the leader something, if this node has no vote, and asks one that rests for a while already.
    async fn have_voters_look(&self) -> Infallible {
        tokio::time::sleep(LOOK_AFTER).await;
        if self.follows_one_that_rests() && !self.votes() {
            for voter in self.voters() {
                tokio::spawn(async move {
                    if let Err(error) = voter.ask(&Request::Look).await {
                        tracing::debug!(%error, "having a voter look for the leader");
                    }
                });
            }
        }
        std::future::pending().await
    }

    /// The leader has had nothing to do for a while.
    pub fn follows_one_that_rests(&self) -> bool {
        let vote = self.raft.server_metrics().borrow().vote;
        self.signs.leader_rests(vote)
    }

    fn votes(&self) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let mut voters = metrics.membership_config.voter_ids();
        voters.any(|id| id == self.node.0)
    }

    async fn ask<T, F: Future<Output = Result<T, NotNow>>>(
        &self,
        here: impl Fn() -> F,
        there: impl Fn() -> Request,
        take: impl Fn(Reply) -> Option<Result<T, NotNow>>,
    ) -> Result<T, ReplicaError> {
        tokio::select! {
            answer = self.ask_again_and_again(here, there, take) => answer,
            never = self.have_voters_look() => match never {},
        }
    }

    async fn ask_again_and_again<T, F: Future<Output = Result<T, NotNow>>>(
        &self,
        here: impl Fn() -> F,
        there: impl Fn() -> Request,
        take: impl Fn(Reply) -> Option<Result<T, NotNow>>,
    ) -> Result<T, ReplicaError> {
        let deadline = Instant::now() + LEADER_PATIENCE;
        let mut metrics = self.raft.server_metrics();
        loop {
            let (leads, peer) = {
                let now = metrics.borrow_and_update();
                let leads = now.current_leader;
                let at =
                    leads.and_then(|id| now.membership_config.membership().get_node(&id).cloned());
                (
                    leads,
                    leads.zip(at).map(|(id, at)| self.peers.peer(id, &at)),
                )
            };
            let attempt = async {
                match peer {
                    _ if leads == Some(self.node.0) => here().await,
                    Some(peer) => {
                        let request = there();
                        self.signs.asking(ask_peer(&peer, &request, &take)).await
                    }
                    None => Err(NotNow(
                        "no node leads: most of the voters are out of reach".into(),
                    )),
                }
            };
            let changes = metrics.clone();
            let why = tokio::select! {
                answer = attempt => match answer {
                    Ok(answer) => return Ok(answer),
                    Err(NotNow(why)) => why,
                },
                () = another_leads(changes, leads) => "the leader has changed".into(),
                () = tokio::time::sleep_until(deadline) => "the leader does not answer".into(),
            };
            if let Err(fatal) = &self.raft.metrics().borrow().running_state {
                return Err(ReplicaError::Stopped(fatal.to_string()));
            }
            let last_moment = self.last_moment.get();
            if last_moment.is_some_and(|at| Instant::now() >= *at) {
                return Err(ReplicaError::Unavailable(format!(
                    "{why}, and this node goes down"
                )));
            }
            if Instant::now() >= deadline {
                return Err(ReplicaError::Unavailable(format!(
                    "{why}; this has been tried for {} s, and whether it was done is unknown",
                    LEADER_PATIENCE.as_secs()
                )));
            }
            // An error: raft has stopped, and hasn't said so where it has panicked.
            if let Ok(Err(_)) = tokio::time::timeout(RETRY_PAUSE, metrics.changed()).await {
                return Err(ReplicaError::Stopped(why));
            }
        }
    }

    /// Waits until an entry is applied here.
    pub async fn applied(&self, index: u64) -> Result<(), ReplicaError> {
        self.raft
            .wait(Some(LEADER_PATIENCE))
            .applied_index_at_least(Some(index), "what is committed is applied here")
            .await
            .map(drop)
            .map_err(|error| match error {
                // Nobody is to ask again: another node leads, and would commit it each time.
                WaitError::ShuttingDown => ReplicaError::Stopped(error.to_string()),
                WaitError::Timeout(..) => ReplicaError::Unavailable(error.to_string()),
            })
    }
}

/// Waits until not `leads` but another node leads. Never, if raft stops.
async fn another_leads(
    mut metrics: watch::Receiver<RaftServerMetrics<u64, BasicNode>>,
    leads: Option<u64>,
) {
    let another = |now: &RaftServerMetrics<u64, BasicNode>| {
        now.current_leader.is_some() && now.current_leader != leads
    };
    if metrics.wait_for(another).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn ask_peer<T>(
    peer: &Peer,
    request: &Request,
    take: impl Fn(Reply) -> Option<Result<T, NotNow>>,
) -> Result<T, NotNow> {
    match peer.ask(request).await {
        Ok(reply) => take(reply)
            .unwrap_or_else(|| Err(NotNow("the leader has answered something else".into()))),
        Err(error) => Err(NotNow(error.to_string())),
    }
}

fn elsewhere(leader: Option<u64>) -> NotNow {
    let leader = leader.map_or_else(|| "nobody".into(), |id| format!("node {id:x}"));
    NotNow(format!("this node does not lead, {leader} does"))
}

/// Each proposer's last batch, and what it gave. Part of what is replicated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Proposers(BTreeMap<NodeId, ((u64, u64), Answers)>);

impl Proposers {
    /// Applies a batch unless that was done before; what it gave then is what it gives.
    pub fn apply(&mut self, batch: &Batch, apply: impl FnMut(&Command) -> Verdict) -> Answers {
        match self.0.get(&batch.proposer) {
            Some((last, answers)) if *last == batch.number => return answers.clone(),
            // One that was late; its proposer has given it up.
            Some((last, _)) if *last > batch.number => return Answers::default(),
            _ => {}
        }
        let answers = Answers(batch.commands.iter().map(apply).collect());
        self.0
            .insert(batch.proposer, (batch.number, answers.clone()));
        answers
    }

    /// Forgets those that are no members any more. Their ids are never used again.
    pub fn keep(&mut self, is_member: impl Fn(NodeId) -> bool) {
        self.0.retain(|node, _| is_member(*node));
    }
}
