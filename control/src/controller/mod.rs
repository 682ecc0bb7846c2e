//! What the APIs call: reads of the replicated state, commands, and the few operations that are more than one command.

mod gathering;
mod generated_name;
mod history;
mod images;
mod lifecycle;
mod quotas;
mod reporter;
mod stock;
mod waits;
mod watchers;
mod whereabouts;

use std::ops::Deref;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::agent::{Agent, AgentError, Agents, Happening, node_of_exec};
use crate::clock::now_ns;
use crate::cluster::membership::{Alone, Membership};
use crate::entropy;
use crate::placement::{Place, Placement};
use crate::raft::{Observer, Replica, ReplicaError};
use crate::scheduler::OverQuota;
use crate::state::{
    Command, ContainerId, ContainerName, ContainerSpec, Exit, NewContainer, Outcome, Placed,
    Refusal, State, Tenant, What,
};

pub use history::{Lost, Subscriber};
pub use images::{LoadedImage, PulledImage, key_of};
pub use quotas::Quotas;
pub use reporter::Reporter;
pub use stock::Stock;
pub use watchers::Watchers;

/// Names tried before a container without one is refused: with a hundred thousand to choose from, one is nearly always enough.
const NAMES_TRIED: u64 = 16;

/// How long a creation waits at most for others to be evicted: the leader takes some commits for it.
const EVICTED_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks meanwhile: a commit's time.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state machine refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The node could not.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The image store could not.
    #[error(transparent)]
    Image(#[from] hearth_image::Error),
    /// The tenant may not have it.
    #[error(transparent)]
    Quota(#[from] OverQuota),
    /// No node will do now. Unless it was to go with its end, it is started once one will.
    #[error("{0}")]
    Pending(String),
    /// The replicated log does not take commands (its disk failed, no quorum).
    #[error("the cluster's log takes no commands: {0}")]
    Unavailable(String),
}

impl From<ReplicaError> for Error {
    fn from(error: ReplicaError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// When [`Controller::wait`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    /// At once where it isn't up, else at its exit.
    NotRunning,
    /// At its next exit.
    NextExit,
    /// When it is gone.
    Removed,
    /// When a start of this number has come to something: it runs, has failed, or is wanted no more.
    Begun(u64),
    /// The same of the first start after the one of this number.
    BegunAfter(u64),
    /// When what runs stands still, or doesn't, or nothing runs.
    Paused(bool),
}

/// The handle that every API holds. Cheap to clone.
#[derive(Clone)]
pub struct Controller {
    inner: Arc<Inner>,
}

struct Inner {
    replica: Replica,
    watchers: Arc<Watchers>,
    agents: Agents,
    images: images::Images,
    membership: OnceLock<Arc<dyn Membership>>,
    quotas: OnceLock<Quotas>,
    gathered: gathering::Gathered,
    /// The node is going down: nothing is started any more.
    closing: AtomicBool,
}

impl Controller {
    /// `watchers` is the observer that `replica` was opened with.
    pub fn new(
        replica: Replica,
        watchers: Arc<Watchers>,
        agents: Agents,
        images: hearth_image::Store,
    ) -> Self {
        let inner = Inner {
            replica,
            watchers,
            agents,
            images: images::Images::new(images),
            membership: OnceLock::new(),
            quotas: OnceLock::new(),
            gathered: gathering::Gathered::default(),
            closing: AtomicBool::new(false),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Has others on this node told of every change as well, from now on. Called once.
    pub fn observe(&self, others: Vec<Arc<dyn Observer>>) {
        // A second call has no effect, which its caller would find out at once.
        let _ = self.inner.watchers.others.set(others);
    }

    /// The node has a place in a cluster, from now on. Called once, before the APIs answer; otherwise it is alone.
    pub fn belongs(&self, membership: Arc<dyn Membership>) {
        // A second call has no effect, which its caller would find out at once.
        let _ = self.inner.membership.set(membership);
    }

    /// Tenants have bounds, from now on. Called once, before the APIs answer.
    pub fn bounded(&self, quotas: Quotas) {
        // A second call has no effect, which its caller would find out at once.
        let _ = self.inner.quotas.set(quotas);
    }

    /// This node's place in its cluster.
    pub fn membership(&self) -> &dyn Membership {
        match self.inner.membership.get() {
            Some(membership) => membership.as_ref(),
            None => &Alone,
        }
    }

    /// The state as this node knows it, for as long as the guard lives. Never hold it across an await.
    pub fn state(&self) -> impl Deref<Target = State> + '_ {
        self.inner.replica.state()
    }

    /// Waits until the state here is no older than anything that was acknowledged by any node before. Of a node that is alone, it never is.
    pub async fn barrier(&self) -> Result<(), Error> {
        if self.state().nodes.size() > 1 {
            self.inner.replica.barrier().await?;
        }
        Ok(())
    }

    /// Commit a command; returns when it is applied here.
    pub async fn propose(&self, command: Command) -> Result<Outcome, Error> {
        Ok(self.inner.replica.propose(command).await??)
    }

    /// A tenant's events from now on; after the last ones before, where `with_past`. Those of other nodes that aren't in the log are among
    /// them from the return of this on, as far as the nodes can be reached.
    pub async fn events(&self, tenant: &Tenant, with_past: bool) -> Subscriber {
        let subscriber = self.inner.watchers.history.subscribe(tenant, with_past);
        self.inner.gathered.wait().await;
        subscriber
    }

    /// The agent of this node.
    pub fn agent(&self) -> &Arc<dyn Agent> {
        self.inner.agents.own()
    }

    /// Streams, execs, top: asked of the node that has the container.
    pub fn agent_of(&self, placed: &Placed) -> Result<Arc<dyn Agent>, Error> {
        Ok(self.inner.agents.with(placed)?)
    }

    /// The agent of the node that an exec is on; an error where its name names none.
    pub fn agent_of_exec(&self, id: &str) -> Result<Arc<dyn Agent>, Error> {
        let node = node_of_exec(id).ok_or_else(|| AgentError::NoSuchExec(id.to_owned()))?;
        Ok(self.inner.agents.of(node)?)
    }

    /// Commit a container. `name` None: one is made up. Returns its id.
    /// Errors: image not present, name in use, no address, more than the tenant may have.
    pub async fn create(
        &self,
        tenant: &Tenant,
        name: Option<ContainerName>,
        image: &str,
        image_name: &str,
        mut spec: ContainerSpec,
    ) -> Result<ContainerId, Error> {
        let quotas = self.inner.quotas.get_or_init(Quotas::default);
        quotas.grade(tenant, &mut spec);
        let _turn = quotas.admit(tenant, &spec, || self.state()).await?;
        let id = ContainerId::from_random(entropy::random());
        let mut container = NewContainer {
            name: name
                .clone()
                .unwrap_or_else(|| generated_name::generate(&id, 0)),
            id,
            tenant: tenant.clone(),
            image: image.to_owned(),
            image_name: image_name.to_owned(),
            spec,
        };
        let own = self.inner.replica.node();
        let placement = &self.inner.watchers.placement;
        // A copy: while the leader makes a pass, commands aren't to wait for whoever waits for that.
        let state = State::clone(&self.state());
        let place = placement.place(&state, own, &container);
        // Nor are they to copy what they change for as long as this one is under way.
        drop(state);
        let (node, pending) = match &place {
            Place::On(node) => (Some(*node), String::new()),
            Place::Soon(why) | Place::Nowhere(why) => (None, why.clone()),
        };
        let mut tried = 0;
        loop {
            let create = Command::Create {
                container: Box::new(container.clone()),
                at_ns: now_ns(),
                node,
                pending: pending.clone(),
            };
            let begun = Instant::now();
            match self.propose(create).await {
                Ok(_) => {
                    if let Place::Soon(_) = place {
                        self.placed_soon(&id).await;
                    }
                    tracing::info!(
                        container = id.short(),
                        commit_us = begun.elapsed().as_micros(),
                        "container created"
                    );
                    return Ok(id);
                }
                Err(Error::Refused(Refusal::NameInUse { .. }))
                    if name.is_none() && tried < NAMES_TRIED =>
                {
                    tried += 1;
                    container.name = generated_name::generate(&id, tried);
                }
                Err(error) => {
                    placement.forget(id.into());
                    return Err(error);
                }
            }
        }
    }

    /// Waits a little for the leader to make room, so that whoever attaches next finds a node.
    async fn placed_soon(&self, id: &ContainerId) {
        let until = Instant::now() + EVICTED_WITHIN;
        while Instant::now() < until && self.placed(id).is_ok_and(|placed| placed.node().is_none())
        {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// What gives pods that need a node one, for this node's steward.
    pub fn placer(&self) -> Arc<Placement> {
        Arc::clone(&self.inner.watchers.placement)
    }

    /// The exit, when `condition` holds. The watch is registered by the call, not by the first poll: an API may answer its headers, let the
    /// client start the container, and miss nothing.
    pub fn wait(
        &self,
        id: &ContainerId,
        condition: WaitCondition,
    ) -> impl Future<Output = Result<Exit, Error>> + Send + 'static {
        let waited = self.waited(id, condition);
        async move { Ok(waited.await?.exit) }
    }

    fn waited(
        &self,
        id: &ContainerId,
        condition: WaitCondition,
    ) -> impl Future<Output = Result<waits::Waited, Error>> + Send + 'static {
        // Registered under the state's lock: no exit comes between the look and the registration.
        let wait = self
            .inner
            .watchers
            .waits
            .register(&self.state(), id, condition);
        async move {
            match wait?.await {
                Ok(waited) => Ok(waited),
                Err(_) => Err(Error::Unavailable("the node is going down".into())),
            }
        }
    }

    /// The container of a tenant by full id, unique prefix, or name.
    pub fn find(&self, tenant: &Tenant, name: &str) -> Result<Placed, Error> {
        let missing = || Refusal::NoSuchContainer(name.to_owned());
        let state = self.state();
        let by_id = || {
            let placed = state.placed(&name.parse().ok()?)?;
            (placed.tenant == *tenant).then_some(placed)
        };
        let by_name = || {
            let bare = name.strip_prefix('/').unwrap_or(name).parse().ok()?;
            state.named(tenant, &bare)
        };
        let by_prefix = || {
            let prefix = Some(name).filter(|name| !name.is_empty())?;
            state.with_prefix(tenant, prefix)
        };
        let found = by_id().or_else(by_name).or_else(by_prefix);
        Ok(found.ok_or_else(missing)?)
    }

    fn placed(&self, id: &ContainerId) -> Result<Placed, Error> {
        let found = self.state().placed(id);
        Ok(found.ok_or_else(|| Refusal::NoSuchContainer(id.to_string()))?)
    }

    /// Tells those who watch something that changes nothing.
    pub fn note(&self, id: &ContainerId, what: What) {
        let state = self.state();
        let Some(container) = state.containers.get(id) else {
            return;
        };
        let happening = Happening {
            container: *id,
            what,
            at_ns: now_ns(),
        };
        let history = &self.inner.watchers.history;
        history.happened(state.revision, Arc::clone(container), happening);
    }

    /// Waits until commands can't be committed any more, whatever comes.
    pub async fn failed(&self) -> Error {
        self.inner.replica.failed().await.into()
    }

    /// Nothing is started any more at a user's wish.
    pub fn close(&self) {
        self.inner
            .closing
            .store(true, std::sync::atomic::Ordering::Release);
    }

    /// The last command: the log is closed after it.
    pub async fn flush(&self) {
        self.inner.images.close().await;
        self.inner.replica.close().await;
    }
}

#[cfg(test)]
mod tests;
