//! A connection that this node has made to another one.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::{Method, Request};
use tokio_util::task::AbortOnDropHandle;

use super::error::PeerError;
use super::gather::Gather;
use super::liveness::{Heard, Liveness};
use super::wire::Wire;
use super::{
    CONNECTION_WINDOW, HEADERS_MAX, HTTP_FRAME_MAX, RESET_REMEMBERED, SEND_BUFFER, STREAM_WINDOW,
    STREAMS_MAX,
};

/// What an error of a stream means; `reason` is what is known of its connection.
pub fn lost(peer: &str, error: &h2::Error, reason: Option<&String>) -> PeerError {
    let peer = peer.to_owned();
    match error.reason() {
        Some(Reason::CANCEL | Reason::NO_ERROR) if error.is_reset() || !error.is_go_away() => {
            PeerError::Cancelled { peer }
        }
        _ => PeerError::Broken {
            peer,
            reason: reason.cloned().unwrap_or_else(|| error.to_string()),
        },
    }
}

/// A request whose head has been sent: its answer to come, and where its body goes.
pub type Sent = (ResponseFuture, SendStream<Bytes>);

/// One connection. Lives for as long as it is kept, or a stream of it is.
pub struct Connection {
    pub peer: Arc<str>,
    pub liveness: Arc<Liveness>,
    requests: SendRequest<Bytes>,
    /// Set once nothing new can be asked, with the reason.
    ended: Arc<OnceLock<String>>,
    task: AbortOnDropHandle<()>,
}

impl Connection {
    /// Over a wire whose other end is known.
    pub async fn begin(peer: Arc<str>, wire: Wire) -> Result<Self, h2::Error> {
        let liveness = Arc::new(Liveness::new());
        let stream = Heard {
            stream: Gather::new(wire),
            liveness: Arc::clone(&liveness),
        };
        let (requests, mut connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .data_frame_budget(CONNECTION_WINDOW as usize)
            .max_frame_size(HTTP_FRAME_MAX)
            .max_header_list_size(HEADERS_MAX)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_reset_streams(STREAMS_MAX as usize)
            .reset_stream_duration(RESET_REMEMBERED)
            .enable_push(false)
            .handshake::<_, Bytes>(stream)
            .await?;
        let ended = Arc::new(OnceLock::new());
        let (watched, end) = (Arc::clone(&liveness), Arc::clone(&ended));
        let pings = connection.ping_pong();
        let task = tokio::spawn(async move {
            let watch = async {
                match pings {
                    Some(pings) => watched.watch(pings).await,
                    None => std::future::pending().await,
                }
            };
            let reason = tokio::select! {
                done = &mut connection => match done {
                    Ok(()) => "it was closed".to_owned(),
                    Err(error) => error.to_string(),
                },
                reason = watch => reason,
            };
            // Known before its streams fail, which they do when the connection is dropped.
            let _ = end.set(reason);
            drop(connection);
        });
        Ok(Self {
            peer,
            liveness,
            requests,
            ended,
            task: AbortOnDropHandle::new(task),
        })
    }

    /// Something can be asked, as far as is known.
    pub fn is_usable(&self) -> bool {
        self.ended.get().is_none()
    }

    /// Ends it, and its streams.
    pub fn close(&self, reason: &str) {
        let _ = self.ended.set(reason.to_owned());
        self.task.abort();
    }

    /// What an error of one of its streams means.
    pub fn lost(&self, error: &h2::Error) -> PeerError {
        lost(&self.peer, error, self.ended.get())
    }

    /// Sends the head of a request. An error: nothing was sent, and this connection takes no more.
    pub async fn request(&self, path: &str, length: Option<usize>) -> Result<Sent, PeerError> {
        let invalid = |e: hyper::http::Error| PeerError::Nonsense {
            peer: "this node".to_owned(),
            reason: e.to_string(),
        };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://hearth.internal{path}"))
            .body(())
            .map_err(invalid)?;
        if let Some(length) = length {
            let headers = request.headers_mut();
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        let sent = async {
            let mut requests = self.requests.clone().ready().await?;
            requests.send_request(request, false)
        };
        match self.liveness.patiently(sent).await {
            Ok(sent) => {
                self.liveness.ask();
                Ok(sent)
            }
            Err(error) => {
                // It goes on with what it has, and ends with the last of that.
                let _ = self.ended.set(error.to_string());
                Err(self.lost(&error))
            }
        }
    }
}
