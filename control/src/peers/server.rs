//! The side that answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use hyper::header::CONTENT_LENGTH;
use hyper::{Method, Request, Response, StatusCode};
use std::future::poll_fn;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::admission::{Admission, Place};
use super::client::{CALL, OPEN};
use super::error::{PeerError, Refusal, RefusalKind};
use super::gather::Gather;
use super::handshake::Receive;
use super::stream::{self, RecvHalf, SendHalf};
use super::transfer::{self, BodyError};
use super::wire::{Listen, Wire};
use super::{
    CALL_MAX, CONNECT_TIMEOUT, CONNECTION_WINDOW, FRAME_MAX, HEADERS_MAX, HTTP_FRAME_MAX,
    RESET_REMEMBERED, SEND_BUFFER, STREAM_WINDOW, STREAMS_MAX,
};
use crate::state::NodeId;

/// The body of a request, and the first frame of a stream, come within this: the largest, over a slow link.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Bodies of requests that are being read or answered, bytes, of one connection: two of the largest.
const BODIES_MAX: usize = 2 * CALL_MAX;
/// Pause after a failed `accept`, which fails when descriptors have run out: some must be closed first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who has no certificate says what it wants, and hears the answer, within this.
const GUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Its requests at the same time.
const GUEST_STREAMS_MAX: u32 = 2;
/// Their bodies, bytes: a token, and a request for a certificate.
const GUEST_BODY_MAX: usize = 64 << 10;
/// Their windows: a whole frame fits.
const GUEST_WINDOW: u32 = 2 * FRAME_MAX as u32;

/// What a node does for others. Called from any task, for many at the same time.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// One without a certificate may ask for this. Everything else is refused before it comes here.
    fn is_for_strangers(&self, path: &str) -> bool;

    /// One request, one answer. `from`: who asks; None: somebody without a certificate. The path begins with `/`. Dropped where it is when
    /// whoever asks doesn't wait any more.
    async fn call(&self, from: Option<NodeId>, path: &str, body: Bytes) -> Result<Bytes, Refusal>;

    /// A stream, whose first frame has come. It lasts until this returns: what isn't finished then is cancelled. Dropped where it is when
    /// the connection is lost.
    async fn open(
        &self,
        from: Option<NodeId>,
        path: &str,
        first: Bytes,
        send: SendHalf,
        receive: RecvHalf,
    );
}

/// Answers other nodes. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    service: Arc<dyn Service>,
    receive: Arc<dyn Receive>,
    admission: Admission,
}

impl Server {
    /// With a service, and this node's identity.
    pub fn new(service: Arc<dyn Service>, receive: Arc<dyn Receive>) -> Self {
        Self {
            service,
            receive,
            admission: Admission::default(),
        }
    }

    /// Answers until dropped; then every connection is closed.
    pub async fn serve(&self, mut listener: impl Listen) {
        // Bounded by the admission: who has to make room ends at once.
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            let (wire, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "accepting a peer's connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let place = self.admission.admit(from.ip());
            let server = self.clone();
            tasks.spawn(async move {
                tokio::select! {
                    () = place.closed() => debug!(%from, "closed in favour of another connection"),
                    () = server.connection(&place, wire, from) => {}
                }
            });
        }
    }

    /// Closes what a node has open here: it is no member any more, or its certificate is revoked.
    pub fn close(&self, node: NodeId) {
        self.admission.close(node);
    }

    async fn connection(&self, place: &Place, wire: Wire, from: SocketAddr) {
        let known = match timeout(CONNECT_TIMEOUT, self.receive.receive(wire)).await {
            Ok(Ok(known)) => known,
            Ok(Err(error)) => return info!(%from, %error, "a peer was refused"),
            Err(_) => return debug!(%from, "a peer's handshake timed out"),
        };
        let (wire, node) = known;
        place.is_of(node);
        let requests = Requests {
            service: Arc::clone(&self.service),
            node,
            peer: match node {
                Some(node) => format!("node {:x} at {from}", node.0).into(),
                None => format!("a stranger at {from}").into(),
            },
            bodies: Arc::new(Semaphore::new(BODIES_MAX)),
        };
        let ended = if node.is_some() {
            requests.serve(wire).await
        } else {
            let served = timeout(GUEST_TIMEOUT, requests.serve(wire)).await;
            served.unwrap_or(Ok(()))
        };
        match ended {
            Ok(()) => debug!(%from, "a peer's connection has ended"),
            Err(error) => debug!(%from, %error, "a peer's connection has broken"),
        }
    }
}

/// What the requests of one connection have in common.
#[derive(Clone)]
struct Requests {
    service: Arc<dyn Service>,
    node: Option<NodeId>,
    peer: Arc<str>,
    /// Bytes of bodies that there is room for.
    bodies: Arc<Semaphore>,
}

impl Requests {
    async fn serve(self, wire: Wire) -> Result<(), h2::Error> {
        let (streams, window) = match self.node {
            Some(_) => (STREAMS_MAX, STREAM_WINDOW),
            None => (GUEST_STREAMS_MAX, GUEST_WINDOW),
        };
        let handshake = Builder::new()
            .initial_window_size(window)
            .initial_connection_window_size((streams * window).min(CONNECTION_WINDOW))
            .data_frame_budget((streams * window) as usize)
            .max_concurrent_streams(streams)
            // Requests are given up often: a leader's to one who is slow, and a hundred at once when their callers' patience ends.
            .max_pending_accept_reset_streams(streams as usize)
            .max_concurrent_reset_streams(streams as usize)
            .reset_stream_duration(RESET_REMEMBERED)
            .max_frame_size(HTTP_FRAME_MAX)
            .max_header_list_size(HEADERS_MAX)
            .max_send_buffer_size(SEND_BUFFER)
            .handshake(Gather::new(wire));
        let mut connection = match timeout(CONNECT_TIMEOUT, handshake).await {
            Ok(connection) => connection?,
            Err(_) => return Err(Reason::SETTINGS_TIMEOUT.into()),
        };
        // As many as there are streams; they end with the connection.
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                accepted = connection.accept() => {
                    let Some(accepted) = accepted else {
                        return Ok(());
                    };
                    let (request, response) = accepted?;
                    tasks.spawn(self.clone().answer(request, response));
                }
                Some(done) = tasks.join_next() => {
                    if let Err(error) = done && error.is_panic() {
                        warn!(peer = %self.peer, "answering a peer has panicked");
                    }
                }
            }
        }
    }

    async fn answer(self, request: Request<RecvStream>, mut response: SendResponse<Bytes>) {
        let (head, mut body) = request.into_parts();
        let length = head.headers.get(CONTENT_LENGTH);
        let length = length.and_then(|text| text.to_str().ok()?.parse().ok());
        let path = head.uri.path();
        let answered = if head.method != Method::POST {
            Err(Refusal::new(RefusalKind::Malformed, "only POST is known"))
        } else if let Some(path) = below(path, CALL) {
            tokio::select! {
                answered = self.call(path, length, &mut body) => answered,
                // Nobody waits for it any more.
                _ = poll_fn(|cx| response.poll_reset(cx)) => return,
            }
        } else if let Some(path) = below(path, OPEN) {
            match self.may(path) {
                Ok(()) => return self.open(path, body, response).await,
                Err(refusal) => Err(refusal),
            }
        } else {
            Err(Refusal::unknown(path))
        };
        let (status, answer) = match answered {
            Ok(answer) => (StatusCode::OK, answer),
            Err(refusal) => {
                debug!(peer = %self.peer, path, %refusal, "a peer's request was refused");
                let words = Bytes::copy_from_slice(refusal.bytes());
                let status = StatusCode::from_u16(refusal.code());
                (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), words)
            }
        };
        let mut head = Response::new(());
        *head.status_mut() = status;
        // Errors: nobody waits for it any more.
        if let Ok(mut sender) = response.send_response(head, false) {
            let _ = transfer::send(&mut sender, answer).await;
        }
    }

    fn may(&self, path: &str) -> Result<(), Refusal> {
        if self.node.is_none() && !self.service.is_for_strangers(path) {
            let words = "this is for nodes of the cluster only: a node's certificate is needed";
            return Err(Refusal::new(RefusalKind::Forbidden, words));
        }
        Ok(())
    }

    async fn call(
        &self,
        path: &str,
        length: Option<usize>,
        body: &mut RecvStream,
    ) -> Result<Bytes, Refusal> {
        self.may(path)?;
        let Some(length) = length else {
            let words = "a request says how long it is";
            return Err(Refusal::new(RefusalKind::Malformed, words));
        };
        let limit = match self.node {
            Some(_) => CALL_MAX,
            None => GUEST_BODY_MAX,
        };
        let too_large = || {
            let words = format!("a request has at most {limit} bytes");
            Refusal::new(RefusalKind::TooLarge, words)
        };
        if length > limit {
            return Err(too_large());
        }
        let room = u32::try_from(length).map_err(|_| too_large())?;
        // Who waited for room would hold the connection's window, and with it those whose bodies have room already.
        let Ok(_room) = self.bodies.try_acquire_many(room) else {
            let words = "too many large requests at the same time: try again";
            return Err(Refusal::new(RefusalKind::Busy, words));
        };
        let body = match timeout(BODY_TIMEOUT, transfer::read(body, length)).await {
            Ok(Ok(body)) => body,
            Ok(Err(BodyError::TooLarge)) => return Err(too_large()),
            Ok(Err(BodyError::Stream(error))) => {
                return Err(Refusal::new(RefusalKind::Malformed, error.to_string()));
            }
            Err(_) => {
                return Err(Refusal::new(
                    RefusalKind::Slow,
                    "the request takes too long",
                ));
            }
        };
        let answer = self.service.call(self.node, path, body).await?;
        if answer.len() > CALL_MAX {
            let words = format!("the answer has more than {CALL_MAX} bytes");
            return Err(Refusal::new(RefusalKind::Failed, words));
        }
        Ok(answer)
    }

    async fn open(&self, path: &str, body: RecvStream, mut response: SendResponse<Bytes>) {
        let Ok(sender) = response.send_response(Response::new(()), false) else {
            // Nobody waits for it any more.
            return;
        };
        let (send, mut receive) = stream::halves(Arc::clone(&self.peer), None, sender, body);
        let refusal = match timeout(BODY_TIMEOUT, receive.recv()).await {
            Ok(Ok(Some(first))) => {
                let served = self.service.open(self.node, path, first, send, receive);
                return served.await;
            }
            Ok(Ok(None)) => Refusal::new(RefusalKind::Malformed, "a stream has a first frame"),
            Ok(Err(PeerError::Nonsense { reason, .. })) => {
                Refusal::new(RefusalKind::Malformed, reason)
            }
            Ok(Err(_)) => return,
            Err(_) => Refusal::new(RefusalKind::Slow, "the first frame takes too long"),
        };
        // An error: nobody waits for it any more.
        let _ = send.fail(&refusal);
    }
}

/// The path below another.
fn below<'a>(path: &'a str, above: &str) -> Option<&'a str> {
    path.strip_prefix(above)
        .filter(|rest| rest.starts_with('/'))
}
