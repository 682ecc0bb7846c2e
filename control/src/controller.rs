//! What the APIs call: reads of the replicated state, commands, and the few operations that are more than one command.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::agent::{Agent, AgentError};
use crate::state::{
    Command, Container, ContainerId, ContainerName, ContainerSpec, Event, Exit, Outcome, Refusal, State, Tenant,
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
    // filled in by the controller's own module work: raft handle, agent, store, event channel
}

impl Controller {
    /// The state as this node knows it, for as long as the guard lives. Never hold it across an await.
    pub fn state(&self) -> impl std::ops::Deref<Target = State> + '_;
    /// Commit a command; returns when it is applied here.
    pub async fn propose(&self, command: Command) -> Result<Outcome, Error>;
    /// Events from now on. A receiver that lags is told so by the channel.
    pub fn events(&self) -> broadcast::Receiver<Event>;
    /// Streams, execs, top: asked of the node that has the container.
    pub fn agent(&self) -> &Arc<dyn Agent>;
    /// This node's images.
    pub fn images(&self) -> &hearth_image::Store;

    /// Commit a container, make its writable layer. `name` None: one is made up. Returns its id.
    /// Errors: image not present, name in use, no address.
    pub async fn create(&self, tenant: &Tenant, name: Option<ContainerName>, image: &str, image_name: &str, spec: ContainerSpec) -> Result<ContainerId, Error>;
    /// Returns once the main process runs. `Ok(false)`: it ran already.
    pub async fn start(&self, id: &ContainerId) -> Result<bool, Error>;
    /// Stop signal, then SIGKILL after `timeout_s` (None: the container's own, else 10; negative: never). Returns once the exit is
    /// committed. `Ok(false)`: it wasn't up.
    pub async fn stop(&self, id: &ContainerId, timeout_s: Option<i64>, signal: Option<i32>) -> Result<bool, Error>;
    /// Send a signal.
    pub async fn kill(&self, id: &ContainerId, signal: i32) -> Result<(), Error>;
    /// `stop`, then `start`.
    pub async fn restart(&self, id: &ContainerId, timeout_s: Option<i64>, signal: Option<i32>) -> Result<(), Error>;
    /// Remove; `force` kills first.
    pub async fn remove(&self, id: &ContainerId, force: bool) -> Result<(), Error>;
    /// The exit, when `condition` holds. The watch is registered by the call, not by the first poll: an API may answer its headers, let the
    /// client start the container, and miss nothing.
    pub fn wait(&self, id: &ContainerId, condition: WaitCondition) -> impl Future<Output = Result<Exit, Error>> + Send + 'static;
    /// Remove an image that no tenant has any more from the nodes' stores. Returns what went (`sha256:…`).
    pub async fn collect_image(&self, image: &str) -> Result<Vec<String>, Error>;
    /// The container of a tenant by full id, unique prefix, or name.
    pub fn find(&self, tenant: &Tenant, name: &str) -> Result<Container, Error>;
}
