//! What the APIs call: reads of the replicated state, commands, and the few operations that are more than one command.

use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::broadcast;

use crate::agent::{Agent, AgentError};
use crate::state::{
    Command, Container, ContainerId, ContainerName, ContainerSpec, Event, Exit, Outcome, Refusal,
    State, Tenant,
};

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
    state: RwLock<State>,
    events: broadcast::Sender<Event>,
    agent: Arc<dyn Agent>,
    images: hearth_image::Store,
}

fn soon<T>() -> Result<T, Error> {
    Err(Error::Unavailable("being written".into()))
}

impl Controller {
    /// The state as this node knows it, for as long as the guard lives. Never hold it across an await.
    pub fn state(&self) -> impl Deref<Target = State> + '_ {
        self.inner
            .state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Commit a command; returns when it is applied here.
    pub async fn propose(&self, _command: Command) -> Result<Outcome, Error> {
        soon()
    }

    /// Events from now on. A receiver that lags is told so by the channel.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// Streams, execs, top: asked of the node that has the container.
    pub fn agent(&self) -> &Arc<dyn Agent> {
        &self.inner.agent
    }

    /// This node's images.
    pub fn images(&self) -> &hearth_image::Store {
        &self.inner.images
    }

    /// Commit a container, make its writable layer. `name` None: one is made up. Returns its id.
    /// Errors: image not present, name in use, no address.
    pub async fn create(
        &self,
        _tenant: &Tenant,
        _name: Option<ContainerName>,
        _image: &str,
        _image_name: &str,
        _spec: ContainerSpec,
    ) -> Result<ContainerId, Error> {
        soon()
    }

    /// Returns once the main process runs. `Ok(false)`: it ran already.
    pub async fn start(&self, _id: &ContainerId) -> Result<bool, Error> {
        soon()
    }

    /// Stop signal, then SIGKILL after `timeout_s` (None: the container's own, else 10; negative: never). Returns once the exit is
    /// committed. `Ok(false)`: it wasn't up.
    pub async fn stop(
        &self,
        _id: &ContainerId,
        _timeout_s: Option<i64>,
        _signal: Option<i32>,
    ) -> Result<bool, Error> {
        soon()
    }

    /// Send a signal.
    pub async fn kill(&self, _id: &ContainerId, _signal: i32) -> Result<(), Error> {
        soon()
    }

    /// `stop`, then `start`.
    pub async fn restart(
        &self,
        _id: &ContainerId,
        _timeout_s: Option<i64>,
        _signal: Option<i32>,
    ) -> Result<(), Error> {
        soon()
    }

    /// Remove; `force` kills first.
    pub async fn remove(&self, _id: &ContainerId, _force: bool) -> Result<(), Error> {
        soon()
    }

    /// The exit, when `condition` holds. The watch is registered by the call, not by the first poll: an API may answer its headers, let the
    /// client start the container, and miss nothing.
    pub fn wait(
        &self,
        _id: &ContainerId,
        _condition: WaitCondition,
    ) -> impl Future<Output = Result<Exit, Error>> + Send + 'static {
        async { soon() }
    }

    /// Remove an image that no tenant has any more from the nodes' stores. Returns what went (`sha256:…`).
    pub async fn collect_image(&self, _image: &str) -> Result<Vec<String>, Error> {
        soon()
    }

    /// The container of a tenant by full id, unique prefix, or name.
    pub fn find(&self, _tenant: &Tenant, _name: &str) -> Result<Container, Error> {
        soon()
    }
}
