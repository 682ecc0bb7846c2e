//! What the APIs call: reads of the replicated state, commands, and the few operations that are more than one command.

mod exits;
mod generated_name;
mod history;
mod images;
mod lifecycle;
mod reconcile;
mod waits;
mod watchers;

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::{Agent, AgentError};
use crate::clock::now_ns;
use crate::entropy;
use crate::raft::{Replica, ReplicaError};
use crate::state::{
    Command, Container, ContainerId, ContainerName, ContainerSpec, Exit, Outcome, Refusal, State,
    Status, Tenant,
};

pub use exits::{Exits, Reporter};
pub use history::{Lost, Subscriber};
pub use images::{LoadedImage, PulledImage, key_of};
pub use watchers::Watchers;

/// Names tried before a container without one is refused: with a hundred thousand to choose from, one is nearly always enough.
const NAMES_TRIED: u64 = 16;

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
}

/// The handle that every API holds. Cheap to clone.
#[derive(Clone)]
pub struct Controller {
    inner: Arc<Inner>,
}

struct Inner {
    replica: Replica,
    watchers: Arc<Watchers>,
    agent: Arc<dyn Agent>,
    images: images::Images,
    /// Restarts that wait for their time, by container: cancelled by whoever wants something else.
    restarts: Mutex<HashMap<ContainerId, CancellationToken>>,
    /// Stopped to be started again at once: neither `--rm` nor a policy has a say.
    /// So often: restarts may overlap.
    restarting: Mutex<HashMap<ContainerId, usize>>,
    /// The node is going down: nothing is started any more.
    closing: AtomicBool,
    /// What was begun here and nobody waits for: joined when the log is closed.
    tasks: TaskTracker,
    /// Ends the task that deals with exits.
    closed: CancellationToken,
}

impl Controller {
    /// `watchers` is the observer that `replica` was opened with; `exits` the other end of the reporter that `agent` was made with.
    pub fn new(
        replica: Replica,
        watchers: Arc<Watchers>,
        agent: Arc<dyn Agent>,
        images: hearth_image::Store,
        exits: Exits,
    ) -> Self {
        let inner = Inner {
            replica,
            watchers,
            agent,
            images: images::Images::new(images),
            restarts: Mutex::default(),
            restarting: Mutex::default(),
            closing: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
        };
        let controller = Self {
            inner: Arc::new(inner),
        };
        let closed = controller.inner.closed.clone();
        let dealing = exits::deal_with(controller.clone(), exits);
        controller
            .inner
            .tasks
            .spawn(closed.run_until_cancelled_owned(dealing));
        controller
    }

    /// The state as this node knows it, for as long as the guard lives. Never hold it across an await.
    pub fn state(&self) -> impl Deref<Target = State> + '_ {
        self.inner.replica.state()
    }

    /// Commit a command; returns when it is applied here.
    pub async fn propose(&self, command: Command) -> Result<Outcome, Error> {
        Ok(self.inner.replica.propose(command).await??)
    }

    /// A tenant's events from now on; after the last ones before, where `with_past`.
    pub fn events(&self, tenant: &Tenant, with_past: bool) -> Subscriber {
        self.inner.watchers.history.subscribe(tenant, with_past)
    }

    /// Streams, execs, top: asked of the node that has the container.
    pub fn agent(&self) -> &Arc<dyn Agent> {
        &self.inner.agent
    }

    /// Commit a container, make its writable layer. `name` None: one is made up. Returns its id.
    /// Errors: image not present, name in use, no address.
    pub async fn create(
        &self,
        tenant: &Tenant,
        name: Option<ContainerName>,
        image: &str,
        image_name: &str,
        spec: ContainerSpec,
    ) -> Result<ContainerId, Error> {
        let id = ContainerId::from_random(entropy::random());
        let mut container = Container {
            name: name
                .clone()
                .unwrap_or_else(|| generated_name::generate(&id, 0)),
            id,
            tenant: tenant.clone(),
            node: self.inner.replica.node(),
            created_ns: now_ns(),
            image: image.to_owned(),
            image_name: image_name.to_owned(),
            spec,
            status: Status::default(),
            address: None,
        };
        let mut tried = 0;
        loop {
            // The layer and the entry in the log don't need each other; whatever is missing after a power cut between them is made
            // at start, or swept.
            let create = Command::Create(Box::new(container.clone()));
            let begun = Instant::now();
            let timed = |committed| (committed, begun.elapsed());
            let (prepared, (committed, took)) = tokio::join!(
                self.inner.agent.prepare(&container),
                self.propose(create).map(timed)
            );
            match (prepared, committed) {
                (Ok(()), Ok(_)) => {
                    tracing::info!(
                        container = container.id.short(),
                        commit_us = took.as_micros(),
                        "container created"
                    );
                    return Ok(container.id);
                }
                (_, Err(Error::Refused(Refusal::NameInUse { .. })))
                    if name.is_none() && tried < NAMES_TRIED =>
                {
                    tried += 1;
                    container.name = generated_name::generate(&container.id, tried);
                }
                (prepared, committed) => {
                    if committed.is_ok() {
                        self.propose(Command::Remove {
                            id: container.id.clone(),
                            at_ns: now_ns(),
                        })
                        .await?;
                    }
                    self.inner.agent.discard(&container.id).await?;
                    committed?;
                    prepared?;
                }
            }
        }
    }

    /// The exit, when `condition` holds. The watch is registered by the call, not by the first poll: an API may answer its headers, let the
    /// client start the container, and miss nothing.
    pub fn wait(
        &self,
        id: &ContainerId,
        condition: WaitCondition,
    ) -> impl Future<Output = Result<Exit, Error>> + Send + 'static {
        // Registered under the state's lock: no exit comes between the look and the registration.
        let wait = self
            .inner
            .watchers
            .waits
            .register(&self.state(), id, condition);
        async move {
            match wait?.await {
                Ok(exit) => Ok(exit),
                Err(_) => Err(Error::Unavailable("the node is going down".into())),
            }
        }
    }

    /// Remove an image that no tenant has any more from the nodes' stores. Returns what went (`sha256:…`).
    pub async fn collect_image(&self, image: &str) -> Result<Vec<String>, Error> {
        let needed = {
            let state = self.state();
            state.images.keys().any(|(_, id)| id == image)
                || state.containers.of_image(image).next().is_some()
        };
        if needed {
            return Ok(Vec::new());
        }
        match self.inner.images.store.remove(&image.parse()?).await {
            Ok(removed) => {
                let layers = removed.layers.iter().map(ToString::to_string);
                Ok([removed.id.to_string()].into_iter().chain(layers).collect())
            }
            Err(hearth_image::Error::NoSuchImage { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Remove what the store has and nobody owns: a load that broke off leaves the images that it had finished.
    /// Called once, before the APIs answer.
    pub async fn collect_unowned_images(&self) -> Result<(), Error> {
        for image in self.inner.images.store.list().await? {
            self.collect_image(&image.id.to_string()).await?;
        }
        Ok(())
    }

    /// The container of a tenant by full id, unique prefix, or name.
    pub fn find(&self, tenant: &Tenant, name: &str) -> Result<Container, Error> {
        let missing = || Refusal::NoSuchContainer(name.to_owned());
        let state = self.state();
        let containers = &state.containers;
        let by_id = || {
            let id = name.parse().ok()?;
            containers
                .get(&id)
                .filter(|container| container.tenant == *tenant)
        };
        let by_name = || {
            let bare = name.strip_prefix('/').unwrap_or(name).parse().ok()?;
            containers.named(tenant, &bare)
        };
        let by_prefix = || {
            containers
                .with_prefix(tenant, name)
                .filter(|_| !name.is_empty())
        };
        let found = by_id().or_else(by_name).or_else(by_prefix);
        Ok(found.cloned().ok_or_else(missing)?)
    }

    fn container(&self, id: &ContainerId) -> Result<Container, Error> {
        let found = self.state().containers.get(id).cloned();
        Ok(found.ok_or_else(|| Refusal::NoSuchContainer(id.to_string()))?)
    }

    fn restarting(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, usize>> {
        self.inner
            .restarting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn restarts(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, CancellationToken>> {
        self.inner
            .restarts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
