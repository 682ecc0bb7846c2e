//! A node's own lease: asked for at whoever leads, put where monitors see it, and what is due when it is over.
//!
//! | the node | so |
//! |---|---|
//! | is the only one | the lease has no end, and nobody is asked |
//! | is to take in a second one | its lease gets an end first, and every monitor hears of that |
//! | is one of several | asks every [`Timing::renew`] |
//! | is out, as the leader or the state says | what kept to the lease ends, the page is made anew, and the node comes in again |
//!
//! `crate::lease` says why in this order. A control that starts again, whenever the one before ended, finds the page and the state as
//! they are, and goes on from there.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use crate::agent::keeper::Keeper;
use crate::agent::local::LocalAgent;
use crate::clock::now_ns;
use crate::entropy;
use crate::lease::{Answer, BootTime, Deadline, Holder, NodeLease, Timing};
use crate::raft::{Replica, ReplicaError, Standing};
use crate::state::{Command, Health};

/// How long a second node waits for this one's lease to get an end: a request that this node answers itself, and more of them where its
/// disk is slow.
const SECOND_PATIENCE: Duration = Duration::from_secs(10);

/// The way to whoever leads, this node included.
#[async_trait]
pub trait Ask: Send + Sync + 'static {
    /// Asks for this node's lease, at the node that leads as far as is known. An error: nothing came back.
    async fn ask(&self) -> Result<Answer, String>;
}

/// What keeps to the lease.
#[async_trait]
pub trait Leased: Send + Sync + 'static {
    /// Every monitor with a lease looks at its page again.
    fn look_again(&self);
    /// Ends every monitor with a lease. Returns once none is left.
    async fn end(&self);
    /// The lease holds: what could not start for want of it is looked at again, soon.
    fn may_start(&self);
}

/// What keeps to the lease on a node.
pub struct Pods {
    /// Has the monitors.
    pub agent: Arc<LocalAgent>,
    /// Starts them.
    pub keeper: Keeper,
}

#[async_trait]
impl Leased for Pods {
    fn look_again(&self) {
        self.agent.look_at_lease_again();
    }

    async fn end(&self) {
        self.agent.end_leased().await;
    }

    fn may_start(&self) {
        self.keeper.look_at_all_soon();
    }
}

/// See the module's page.
pub struct Tenant {
    replica: Replica,
    lease: NodeLease,
    ask: Arc<dyn Ask>,
    pods: Arc<dyn Leased>,
    timing: Timing,
    /// Its lock also orders who makes the lease endless and who needs it to have an end.
    mode: watch::Sender<Mode>,
}

#[derive(Debug, Default)]
struct Mode {
    /// Nodes that are being taken in, or may have been.
    admitting: usize,
    /// The lease has an end, and everybody knows.
    ends: bool,
}

/// While it is there, this node's lease has an end.
#[must_use = "say that it is settled once it is known whether the node was taken in"]
pub struct Admission {
    tenant: Arc<Tenant>,
}

impl Admission {
    /// The command that takes the node in was applied here, or refused. Never called where neither is known: then the lease has an end
    /// until control starts again.
    pub fn settled(self) {
        self.tenant.mode.send_modify(|mode| mode.admitting -= 1);
    }
}

enum Ended {
    Out,
    Alone,
}

impl Tenant {
    /// Of the node that `replica` is on, whose pods keep to `lease`.
    pub fn new(
        replica: Replica,
        lease: NodeLease,
        ask: Arc<dyn Ask>,
        pods: Arc<dyn Leased>,
        timing: Timing,
    ) -> Arc<Self> {
        Arc::new(Self {
            replica,
            lease,
            ask,
            pods,
            timing,
            mode: watch::Sender::default(),
        })
    }

    /// Keeps the lease, for ever. Begun once a command of this start of control was committed, lest one of the start before does anything
    /// after that, and once what ran here has been taken up.
    pub async fn run(self: Arc<Self>) {
        loop {
            if self.is_out() {
                self.come_in().await;
                continue;
            }
            let standing = self.replica.standing();
            if self.is_alone(&standing) {
                if standing.leader == Some(self.replica.node()) {
                    self.needs_no_end();
                }
                let mut mode = self.mode.subscribe();
                tokio::select! {
                    () = self.replica.standing_other_than(&standing) => {}
                    // An error: the sender is this node's own, and lives.
                    _ = mode.wait_for(|mode| mode.admitting > 0) => {}
                }
                continue;
            }
            match self.hold().await {
                Ended::Out => self.come_in().await,
                Ended::Alone => {}
            }
        }
    }

    /// To be called before a node is taken in, by whoever leads. Returns once pods that may run elsewhere end without this node's word. An
    /// error: the node can't be taken in now.
    pub async fn before_second_node(self: &Arc<Self>) -> Result<Admission, String> {
        let mut mode = self.mode.subscribe();
        self.mode.send_modify(|mode| mode.admitting += 1);
        let admission = Admission {
            tenant: Arc::clone(self),
        };
        let ends = mode.wait_for(|mode| mode.ends);
        let ends = tokio::time::timeout(SECOND_PATIENCE, ends).await.is_ok();
        match ends {
            true => Ok(admission),
            false => {
                admission.settled();
                Err("this node could not give its own lease an end: try again".to_owned())
            }
        }
    }

    /// The state says that it is, and nobody but this node can change that.
    fn is_out(&self) -> bool {
        let state = self.replica.state();
        let own = state.nodes.get(&self.replica.node());
        own.is_some_and(|node| !node.is_ready())
    }

    /// There is no other node, and none that is about to be.
    fn is_alone(&self, standing: &Standing) -> bool {
        let own = self.replica.node();
        let state = self.replica.state();
        standing.members.keys().all(|node| *node == own)
            && state.nodes.keys().all(|node| *node == own)
            && self.mode.borrow().admitting == 0
    }

    /// The lease has no end from now on; unless somebody needs one meanwhile.
    fn needs_no_end(&self) {
        let mut refused = false;
        self.mode.send_if_modified(|mode| {
            let free = mode.admitting == 0;
            if free {
                mode.ends = false;
                refused = self.lease.extend(Deadline::Never);
            }
            free
        });
        if refused {
            self.pods.may_start();
        }
    }

    /// Gives a lease without an end this one.
    fn limit(&self, deadline: BootTime) {
        if self.lease.limit(deadline) {
            self.pods.look_again();
        }
        self.mode.send_modify(|mode| mode.ends = true);
    }

    /// Asks for it again and again.
    async fn hold(&self) -> Ended {
        let now = self.lease.now();
        let deadline = match self.lease.deadline() {
            Deadline::At(deadline) => {
                self.limit(deadline);
                deadline
            }
            // It gets one once this node is granted one: what runs goes on.
            Deadline::Never if self.mode.borrow().admitting > 0 => BootTime::default(),
            // It was another cluster's, of which nothing is left.
            Deadline::Never => {
                self.limit(now);
                now
            }
        };
        let first = u64::from_le_bytes(entropy::random());
        let mut holder = Holder::new(self.timing, first, deadline);
        let patience = Duration::from_nanos(self.timing.renew);
        let mut asked = FuturesUnordered::new();
        while let Some(next) = holder.asks_at() {
            if self.is_out() {
                return Ended::Out;
            }
            if self.is_alone(&self.replica.standing()) {
                return Ended::Alone;
            }
            let now = self.lease.now();
            if let Some(id) = holder.ask(now) {
                let ask = self.replica.asking_leader(self.ask.ask());
                let answer = tokio::time::timeout(patience, ask);
                asked.push(async move { (id, answer.await) });
                continue;
            }
            tokio::select! {
                Some((id, answer)) = asked.next() => {
                    let now = self.lease.now();
                    match answer {
                        Ok(Ok(answer)) => {
                            if let Some(deadline) = holder.answered(id, answer, now) {
                                self.extend(deadline);
                                if self.replica.rests() {
                                    holder.ask_together(now);
                                }
                            }
                        }
                        Ok(Err(why)) => {
                            tracing::debug!(why, "the lease is asked for again");
                            holder.failed(id, now);
                        }
                        Err(_) => holder.failed(id, now),
                    }
                }
                () = tokio::time::sleep(next.after(now)) => {}
            }
        }
        Ended::Out
    }

    fn extend(&self, deadline: BootTime) {
        self.limit(deadline);
        if self.lease.extend(Deadline::At(deadline)) {
            tracing::info!("the node's lease holds");
            self.pods.may_start();
        }
    }

    /// This node is out. Its pods may run elsewhere: what is left of them here ends, and nothing of them starts, until it is in again.
    async fn come_in(&self) {
        tracing::warn!("this node is out: pods that may run elsewhere end here");
        self.lease.go_out();
        self.limit(self.lease.now());
        while let Deadline::At(deadline) = self.lease.deadline() {
            let left = deadline.after(self.lease.now());
            if left.is_zero() {
                break;
            }
            tokio::time::sleep(left).await;
        }
        self.pods.end().await;
        let again = Duration::from_nanos(self.timing.retry);
        while let Err(error) = self.lease.anew() {
            tracing::error!(%error, "no pod that may run elsewhere starts here");
            tokio::time::sleep(again).await;
        }
        // Until it is known what came of it: one that is still under way must not call in a node that has a lease by then.
        while self.propose_to_come_in().await.is_err() {
            tokio::time::sleep(again).await;
        }
        self.pods.may_start();
    }

    async fn propose_to_come_in(&self) -> Result<(), ReplicaError> {
        // Nobody else changes this node's tenure: as it is here then, it is.
        self.replica.barrier().await?;
        let node = self.replica.node();
        let known = self.replica.state().nodes.get(&node).cloned();
        let Some(known) = known else {
            tracing::warn!("this node is no member of the cluster any more");
            tokio::time::sleep(Duration::from_nanos(self.timing.renew)).await;
            return Ok(());
        };
        let comes_in = Command::NodeHealth {
            at_ns: now_ns(),
            node,
            health: Health::Ready,
            tenure: known.tenure,
            term: None,
        };
        match self.replica.propose(comes_in).await? {
            Ok(_) => tracing::info!("this node is in again"),
            // It is to be removed, and may be kept after all.
            Err(refusal) => {
                tracing::warn!(%refusal, "coming in");
                tokio::time::sleep(Duration::from_nanos(self.timing.renew)).await;
            }
        }
        Ok(())
    }
}
