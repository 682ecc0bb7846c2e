//! What the leader sees to, for all: votes are given to 1, 3 or 5; who was taken out of the state is expelled; pods that need a node
//! get one. Whose lease is over is [`super::leases`]' business.
//!
//! Every node has one of these, and only the leader's does anything. It has no memory: each round looks at the state as it is, and what
//! a leader began, the next one finds as it left it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::moves::{self, Homeless};
use super::voters;
use crate::clock::now_ns;
use crate::entropy;
use crate::raft::{Replica, Standing, Waker};
use crate::state::{Command, NodeId, PodId, State};

/// Between two looks at what could not be done the last time. Where nothing is left to be done, nothing is looked at until something changes.
const PERIOD: Duration = Duration::from_secs(1);

/// Knows where pods fit.
pub trait Placer: Send + Sync {
    /// What is to become of those that need a node, each given what those before it have left. Called again once what came of that is
    /// in the state, or known to have come to nothing.
    fn pass(&self, state: &State, homeless: &[Homeless]) -> Vec<Decided>;
}

/// What is to become of a pod that needs a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Which.
    pub pod: PodId,
    /// The node that it goes to; or why to none, for the user.
    pub to: Result<NodeId, String>,
    /// Who must leave that node first.
    pub evicted: Vec<PodId>,
}

/// See the module's page.
pub struct Steward {
    replica: Replica,
    placer: Arc<dyn Placer>,
    woken: Arc<Notify>,
}

impl Steward {
    /// One that does nothing yet, and the observer that wakes it.
    pub fn new(replica: Replica, placer: Arc<dyn Placer>) -> (Self, Arc<Waker>) {
        let woken = Arc::<Notify>::default();
        let steward = Self {
            replica,
            placer,
            woken: Arc::clone(&woken),
        };
        (steward, Arc::new(Waker(woken)))
    }

    /// Sees to everything, for ever.
    pub async fn run(self) {
        loop {
            let standing = self.replica.standing();
            if standing.leader != Some(self.replica.node()) {
                self.replica.standing_other_than(&standing).await;
                continue;
            }
            let is_done = self.round(&standing).await;
            let tick = async {
                match is_done {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(PERIOD).await,
                }
            };
            tokio::select! {
                () = self.woken.notified() => {}
                () = self.replica.standing_other_than(&standing) => {}
                () = tick => {}
            }
        }
    }

    /// True: nothing was to be done.
    async fn round(&self, standing: &Standing) -> bool {
        let own = self.replica.node();
        let all_there = self.follow_moves(standing).await;
        let (wanted, strangers) = {
            let state = self.replica.state();
            let wanted = voters::choose(&state, own, &standing.voters);
            let members = standing.members.keys();
            let strangers: Vec<NodeId> = members
                .filter(|node| **node != own && !state.nodes.contains_key(node))
                .copied()
                .collect();
            (wanted, strangers)
        };
        // A vote of one that has never been heard of would keep the others from deciding anything.
        let heard = |node: &NodeId| {
            *node == own || standing.voters.contains(node) || self.replica.follows(*node)
        };
        let wanted_is_so = wanted == standing.voters;
        if !wanted_is_so && wanted.iter().all(heard) {
            tracing::info!(?wanted, "other nodes vote");
            if let Err(error) = self.replica.set_voters(wanted).await {
                tracing::warn!(%error, "giving nodes their votes");
            }
        }
        let is_done = all_there && wanted_is_so && strangers.is_empty();
        for node in strangers {
            if !standing.voters.contains(&node) {
                match self.replica.expel(node).await {
                    Ok(()) => tracing::info!(%node, "expelled"),
                    Err(error) => tracing::warn!(%node, %error, "expelling a node"),
                }
            }
        }
        self.place().await && is_done
    }

    /// Members whose addresses have changed are reached there. True: there were none.
    async fn follow_moves(&self, standing: &Standing) -> bool {
        let moved: Vec<(NodeId, String)> = {
            let state = self.replica.state();
            let members = standing.members.iter();
            members
                .filter_map(|(node, address)| {
                    let told = state.nodes.get(node)?.is.address?.to_string();
                    (told != *address).then_some((*node, told))
                })
                .collect()
        };
        let all_there = moved.is_empty();
        for (node, address) in moved {
            tracing::info!(%node, address, "a node is somewhere else now");
            if let Err(error) = self.replica.moved(node, address).await {
                tracing::warn!(%node, %error, "telling where a node is now");
            }
        }
        all_there
    }

    /// Gives a node to each pod that needs one. True: there were none.
    async fn place(&self) -> bool {
        if moves::homeless(&self.replica.state()).next().is_none() {
            return true;
        }
        // A copy, and a thread of its own: a pass over a full queue takes as long as hundreds of commands.
        let state = State::clone(&self.replica.state());
        let placer = Arc::clone(&self.placer);
        let decided = apart(move || moves::commands(&state, &*placer, now_ns(), entropy::random));
        let commands = decided.await.unwrap_or_else(|error| {
            tracing::error!(%error, "looking for nodes");
            Vec::new()
        });
        let all = commands.into_iter().map(|command| self.commit(command));
        futures_util::future::join_all(all).await;
        false
    }

    async fn commit(&self, command: Command) {
        match self.replica.propose(command).await {
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) => tracing::debug!(%refusal, "another has changed it first"),
            Err(error) => tracing::warn!(%error, "what is to be seen to waits"),
        }
    }
}

/// Works on a thread of its own. A simulation is one thread, whose clock and luck no other has.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    #[cfg(feature = "simulation")]
    if crate::simulation::hooks::simulates() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}
