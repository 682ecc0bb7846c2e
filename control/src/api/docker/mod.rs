//! The Docker Engine API, as docker's own clients, Compose and docker-py speak it.
//!
//! A request becomes a [`Call`]: who asks, at which version, for what. [`router`] finds its handler; handlers are grouped by the
//! specification's areas, one file for what one endpoint, or a few of a kind, do. What is peculiar to the wire (frames, upgrades,
//! errors, versions, timestamps) has a room of its own.

mod answer;
mod body;
mod call;
mod containers;
mod detach;
mod disk_usage;
mod errors;
mod events;
mod exec;
mod frames;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod hijack;
mod images;
mod locked;
mod networks;
mod query;
mod router;
mod swarm;
mod system;
mod timestamps;
mod version;
mod volumes;

#[cfg(feature = "fuzzing")]
pub use swarm::fuzzing::swarm_body;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use tokio::sync::SetOnce;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::answer::Response;
use self::call::Call;
use self::errors::ApiError;
use super::admission::Place;
use super::{Clients, Refused};
use crate::cluster::membership::Door;
use crate::controller::Controller;
use crate::state::Tenant;

/// How long a node's first clients wait for it to be ready: one whose cluster elects a leader just then takes a moment, and they needn't
/// know. Afterwards they hear at once that it isn't.
const READY_PATIENCE: Duration = Duration::from_secs(20);

/// What all connections share.
pub struct Docker {
    node: Node,
    /// None: over no network.
    clients: Option<Clients>,
    /// Set when the API ends: nothing that was begun over it outlives it.
    ended: CancellationToken,
}

/// What answers.
enum Node {
    /// The node, through its controller.
    Open {
        /// There, once this node has what it is to answer from.
        controller: Arc<SetOnce<Controller>>,
        /// Who comes while there is none waits until then.
        patience: Instant,
    },
    /// What there is of a node before it is unlocked.
    Locked(Arc<dyn Door>),
}

impl Docker {
    /// Over a controller, which may come later.
    pub fn new(controller: Arc<SetOnce<Controller>>) -> Self {
        Self::over(Node::Open {
            controller,
            patience: Instant::now() + READY_PATIENCE,
        })
    }

    /// At the door of a locked node.
    pub fn locked(door: Arc<dyn Door>) -> Self {
        Self::over(Node::Locked(door))
    }

    fn over(node: Node) -> Self {
        Self {
            node,
            clients: None,
            ended: CancellationToken::new(),
        }
    }

    /// Those who are let in, where it is asked over TLS.
    pub fn letting_in(self, clients: Clients) -> Self {
        Self {
            clients: Some(clients),
            ..self
        }
    }

    fn clients(&self) -> Option<&Clients> {
        self.clients.as_ref()
    }

    /// None: the node is locked.
    async fn controller(&self) -> Result<Option<Controller>, ApiError> {
        let Node::Open {
            controller,
            patience,
        } = &self.node
        else {
            return Ok(None);
        };
        let come = tokio::time::timeout_at(*patience, controller.wait()).await;
        come.cloned().map(Some).map_err(|_| {
            ApiError::unavailable(
                "the cluster's log takes no commands: this node has started and waits for the others of its cluster, for without most of those that vote nothing can be read or decided; start them, or look at their consoles",
            )
        })
    }

    async fn route(&self, call: Call) -> answer::Answer {
        match &self.node {
            Node::Open { .. } => router::route(call).await,
            Node::Locked(door) => locked::route(call, &**door).await,
        }
    }

    /// Has `work` done in a task of its own, which goes on when nobody waits for it any more; until the API ends, which gives None.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        tokio::spawn(self.ended.clone().run_until_cancelled_owned(work))
    }

    /// What was begun ends when this is dropped.
    pub fn until_dropped(&self) -> DropGuard {
        self.ended.clone().drop_guard()
    }
}

/// What goes on over a connection once it has been upgraded.
type Upgraded = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Session(Arc<Connection>);

struct Connection {
    docker: Arc<Docker>,
    caller: Result<Tenant, Refused>,
    place: Arc<Place>,
    /// Set by the handler that answered 101, taken by the connection's own task when hyper has let go of the stream.
    upgraded: Mutex<Option<Upgraded>>,
}

impl Session {
    /// A connection of this caller, in this place.
    pub fn new(docker: Arc<Docker>, caller: Result<Tenant, Refused>, place: Arc<Place>) -> Self {
        Self(Arc::new(Connection {
            docker,
            caller,
            place,
            upgraded: Mutex::new(None),
        }))
    }

    /// The answer to one request; errors are answers as well.
    pub async fn answer(&self, request: Request<Incoming>) -> Response {
        let Some(busy) = self.0.place.busy().map(Arc::new) else {
            // Nobody hears it: the connection is being closed.
            return ApiError::unavailable("the connection was closed in favour of another")
                .into_response();
        };
        let call = match self.0.docker.controller().await {
            Ok(controller) => Call::new(self, controller, request),
            Err(error) => Err(error),
        };
        let answer = match call {
            // A task of its own: what a request has begun is brought to its end, even where its client doesn't wait for it. It keeps the
            // client's place until then, so that there can't be more of them than places.
            Ok(call) => {
                let busy = Arc::clone(&busy);
                let docker = Arc::clone(&self.0.docker);
                let routed = self.0.docker.begin(async move {
                    let answer = docker.route(call).await;
                    drop(busy);
                    answer
                });
                match routed.await {
                    Ok(Some(answer)) => answer,
                    Ok(None) => Err(ApiError::unavailable("the node is going down")),
                    Err(panic) => Err(ApiError::internal(format!(
                        "the request broke off: {panic}"
                    ))),
                }
            }
            Err(error) => Err(error),
        };
        let mut response = answer.unwrap_or_else(ApiError::into_response);
        add_headers(response.headers_mut());
        if let Some(upgraded) = self.take_upgraded() {
            let busy = Arc::clone(&busy);
            self.set_upgraded(Box::pin(async move {
                upgraded.await;
                drop(busy);
            }));
        }
        response.map(|body| answer::holding(body, busy))
    }

    /// What the connection has become, if it was upgraded; to be run to its end.
    pub fn take_upgraded(&self) -> Option<Upgraded> {
        self.0
            .upgraded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn set_upgraded(&self, upgraded: Upgraded) {
        *self
            .0
            .upgraded
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(upgraded);
    }
}

/// What every answer of docker's has, and clients read from any of them.
fn add_headers(headers: &mut HeaderMap) {
    if let Ok(version) = HeaderValue::from_str(&version::MAXIMUM.to_string()) {
        headers.insert("api-version", version);
    }
    headers.insert("docker-experimental", HeaderValue::from_static("false"));
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers.insert(
        "server",
        HeaderValue::from_static(concat!("Hearth/", env!("CARGO_PKG_VERSION"), " (linux)")),
    );
}
