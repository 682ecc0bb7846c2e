//! The side that asks.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, select_ok};
use hyper::StatusCode;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::connection::{Connection, Sent};
use super::error::{PeerError, Refusal};
use super::frames::{self, FRAME_MAX};
use super::handshake::Greet;
use super::stream::{self, RecvHalf, SendHalf};
use super::transfer::{self, BodyError};
use super::wire::Dial;
use super::{CALL_MAX, CONNECT_TIMEOUT, RAFT_DEADLINE};
use crate::raft::{Transport, TransportError};
use crate::state::NodeId;

/// What a request with one answer is under.
pub(super) const CALL: &str = "/call";
/// What a stream is under.
pub(super) const OPEN: &str = "/open";
/// What replicas ask each other.
const RAFT: &str = "/raft";

/// Addresses at which a node is looked for besides the one that it is said to have: a machine with a cable or two, and no more work for
/// whoever announces many in its name.
const SEEN_MAX: usize = 4;

/// Says where a node has been seen of late. Called from any thread; doesn't block. Whoever is there must prove that it is that node.
pub type Seen = Box<dyn Fn(NodeId) -> Vec<String> + Send + Sync>;

type Connecting = Shared<BoxFuture<'static, Result<Arc<Connection>, PeerError>>>;

/// The way to all other nodes. Cheap to clone; the connections are closed with the last clone, and the last stream.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    dial: Arc<dyn Dial>,
    greet: Arc<dyn Greet>,
    /// A connection each, or one that is being made. Never held across a wait.
    links: Mutex<BTreeMap<NodeId, Connecting>>,
    seen: OnceLock<Seen>,
}

impl Peers {
    /// Over a network, and with this node's identity.
    pub fn new(dial: Arc<dyn Dial>, greet: Arc<dyn Greet>) -> Self {
        Self(Arc::new(Inner {
            dial,
            greet,
            links: Mutex::default(),
            seen: OnceLock::new(),
        }))
    }

    /// From here on nodes are also looked for where they have been seen: all may have other addresses after a power cut, and nothing but
    /// an agreement of theirs changes those that they are said to have. Only the first call counts.
    pub fn look_where_seen(&self, seen: Seen) {
        // An error: there was one before.
        let _ = self.0.seen.set(seen);
    }

    /// Asks a node for one answer, of at most [`CALL_MAX`] bytes like the request, and waits no longer than `within`. `address` is where
    /// it is if there is no connection to it. Nothing is asked twice: after an error that isn't
    /// [`Unreachable`](PeerError::Unreachable), nobody knows whether it arrived. Dropped: the other side is told not to go on.
    pub async fn call(
        &self,
        node: NodeId,
        address: &str,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Bytes, PeerError> {
        let peer = name(node, address);
        let asked = async {
            check_length(&peer, body.len(), CALL_MAX)?;
            let path = format!("{CALL}{path}");
            let length = Some(body.len());
            let (connection, sent) = self.request(node, address, &path, length).await?;
            answer(&connection, sent, body).await
        };
        in_time(&peer, within, asked).await
    }

    /// Opens a stream, with a first frame. Returns once the other side has answered, which it does within `within`. A stream that is
    /// cancelled before that frame has arrived never comes to the other side's service.
    pub async fn open(
        &self,
        node: NodeId,
        address: &str,
        path: &str,
        first: Bytes,
        within: Duration,
    ) -> Result<(SendHalf, RecvHalf), PeerError> {
        let peer = name(node, address);
        let opened = async {
            check_length(&peer, first.len(), FRAME_MAX)?;
            let path = format!("{OPEN}{path}");
            let (connection, sent) = self.request(node, address, &path, None).await?;
            let (response, mut sender) = sent;
            let mut head = BytesMut::new();
            frames::put_data(&mut head, &[], first.len());
            for piece in [head.freeze(), first] {
                let given = sender.send_data(piece, false);
                given.map_err(|e| connection.lost(&e))?;
            }
            let response = connection.liveness.patiently(response).await;
            let (head, mut body) = response.map_err(|e| connection.lost(&e))?.into_parts();
            if head.status != StatusCode::OK {
                // What can't be read of it is no words.
                let words = transfer::read(&mut body, FRAME_MAX).await;
                return Err(PeerError::Refused {
                    peer: connection.peer.to_string(),
                    refusal: Refusal::read(head.status.as_u16(), &words.unwrap_or_default()),
                });
            }
            let peer = Arc::clone(&connection.peer);
            Ok(stream::halves(peer, Some(connection), sender, body))
        };
        in_time(&peer, within, opened).await
    }

    /// Closes the connection to a node, which is one no more, or has another certificate.
    pub fn forget(&self, node: NodeId) {
        let link = self.links().remove(&node);
        if let Some(Some(Ok(connection))) = link.map(FutureExt::now_or_never) {
            connection.close("this node has closed it");
        }
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<NodeId, Connecting>> {
        self.0.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the head of a request; over a new connection where the one that there is takes no more.
    async fn request(
        &self,
        node: NodeId,
        address: &str,
        path: &str,
        length: Option<usize>,
    ) -> Result<(Arc<Connection>, Sent), PeerError> {
        let connection = self.connection(node, address).await?;
        if let Ok(sent) = connection.request(path, length).await {
            return Ok((connection, sent));
        }
        let connection = self.connection(node, address).await?;
        let sent = connection.request(path, length).await?;
        Ok((connection, sent))
    }

    /// The connection to a node, made anew where there is none.
    async fn connection(&self, node: NodeId, address: &str) -> Result<Arc<Connection>, PeerError> {
        let connecting = {
            let mut links = self.links();
            let known = links.get(&node).cloned();
            match known.clone().and_then(FutureExt::now_or_never) {
                Some(Ok(connection)) if connection.is_usable() => return Ok(connection),
                // Somebody else has it made just now.
                None if known.is_some() => known,
                Some(_) | None => None,
            }
            .unwrap_or_else(|| {
                let begun = self.connect(node, address.to_owned());
                links.insert(node, begun.clone());
                begun
            })
        };
        connecting.await
    }

    /// Makes a connection, whether those who wait for it have patience or not.
    fn connect(&self, node: NodeId, address: String) -> Connecting {
        let (dial, greet) = (Arc::clone(&self.0.dial), Arc::clone(&self.0.greet));
        let peer = name(node, &address);
        let seen = self.0.seen.get().map(|seen| seen(node));
        let mut places = seen.unwrap_or_default();
        places.truncate(SEEN_MAX);
        places.retain(|place| *place != address);
        places.insert(0, address);
        let task = tokio::spawn(async move {
            let attempts = places
                .iter()
                .map(|place| connect(&*dial, &*greet, Some(node), place).boxed());
            // At the same time: who was moved away leaves an address where nobody answers for a while.
            let ((connection, _), _) = select_ok(attempts).await?;
            Ok(Arc::new(connection))
        });
        let task = AbortOnDropHandle::new(task);
        let made = async move {
            task.await.unwrap_or_else(|e| {
                Err(PeerError::Unreachable {
                    peer,
                    reason: e.to_string(),
                })
            })
        };
        made.boxed().shared()
    }
}

#[async_trait]
impl Transport for Peers {
    async fn call(
        &self,
        node: NodeId,
        address: &str,
        request: Bytes,
    ) -> Result<Bytes, TransportError> {
        Self::call(self, node, address, RAFT, request, RAFT_DEADLINE)
            .await
            .map_err(|e| TransportError(e.to_string()))
    }
}

/// Asks whoever is at an address, over a connection that is used for this alone: for one that belongs to no cluster yet. Returns who has
/// answered as well.
pub async fn ask_stranger(
    dial: &dyn Dial,
    greet: &dyn Greet,
    address: &str,
    path: &str,
    body: Bytes,
    within: Duration,
) -> Result<(Option<NodeId>, Bytes), PeerError> {
    let peer = format!("whoever is at {address}");
    let asked = async {
        check_length(&peer, body.len(), CALL_MAX)?;
        let (connection, found) = connect(dial, greet, None, address).await?;
        let connection = Arc::new(connection);
        let path = format!("{CALL}{path}");
        let sent = connection.request(&path, Some(body.len())).await?;
        Ok((found, answer(&connection, sent, body).await?))
    };
    in_time(&peer, within, asked).await
}

fn name(node: NodeId, address: &str) -> String {
    format!("node {:x} at {address}", node.0)
}

fn check_length(peer: &str, bytes: usize, limit: usize) -> Result<(), PeerError> {
    if bytes > limit {
        return Err(PeerError::TooLarge {
            peer: peer.to_owned(),
            bytes,
            limit,
        });
    }
    Ok(())
}

async fn in_time<T>(
    peer: &str,
    within: Duration,
    asked: impl Future<Output = Result<T, PeerError>>,
) -> Result<T, PeerError> {
    timeout(within, asked).await.unwrap_or_else(|_| {
        Err(PeerError::TimedOut {
            peer: peer.to_owned(),
            within,
        })
    })
}

async fn connect(
    dial: &dyn Dial,
    greet: &dyn Greet,
    node: Option<NodeId>,
    address: &str,
) -> Result<(Connection, Option<NodeId>), PeerError> {
    let peer = match node {
        Some(node) => name(node, address),
        None => format!("whoever is at {address}"),
    };
    let unreachable = |reason: String| PeerError::Unreachable {
        peer: peer.clone(),
        reason,
    };
    let made = async {
        let wire = dial
            .dial(address)
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        let (wire, found) = greet
            .greet(wire, node)
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        if node.is_some() && node != found {
            return Err(PeerError::AnotherNode {
                peer: peer.clone(),
                found: found.map_or("no node".to_owned(), |found| format!("node {:x}", found.0)),
            });
        }
        let connection = Connection::begin(peer.as_str().into(), wire)
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        Ok((connection, found))
    };
    timeout(CONNECT_TIMEOUT, made)
        .await
        .unwrap_or_else(|_| Err(unreachable(format!("no answer within {CONNECT_TIMEOUT:?}"))))
}

/// Sends the body, and reads the answer.
async fn answer(
    connection: &Arc<Connection>,
    (response, mut sender): Sent,
    body: Bytes,
) -> Result<Bytes, PeerError> {
    let exchange = async {
        let mut response = pin!(response);
        // A refusal comes before all is sent.
        let response = tokio::select! {
            biased;
            response = &mut response => response,
            _ = transfer::send(&mut sender, body) => response.await,
        };
        let (head, mut body) = response.map_err(|e| connection.lost(&e))?.into_parts();
        let bytes = transfer::read(&mut body, CALL_MAX).await;
        let bytes = bytes.map_err(|error| match error {
            BodyError::Stream(error) => connection.lost(&error),
            BodyError::TooLarge => PeerError::Nonsense {
                peer: connection.peer.to_string(),
                reason: format!("an answer of more than {CALL_MAX} bytes"),
            },
        })?;
        if head.status == StatusCode::OK {
            return Ok(bytes);
        }
        Err(PeerError::Refused {
            peer: connection.peer.to_string(),
            refusal: Refusal::read(head.status.as_u16(), &bytes),
        })
    };
    connection.liveness.patiently(exchange).await
}
