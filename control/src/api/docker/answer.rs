//! Responses: JSON, nothing, or a stream that is flushed piece by piece.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{StatusCode, http};
use serde::Serialize;

/// The body of every response.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
/// Every response.
pub type Response = http::Response<Body>;

/// What handlers return.
pub type Answer = Result<Response, super::errors::ApiError>;

/// `application/json`.
pub const JSON: &str = "application/json";

/// A value as JSON, with the newline that docker's answers have.
pub fn json<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Response {
    let mut text = serde_json::to_vec(value).unwrap_or_else(|error| {
        // Only a map with keys that aren't text can't be written; our types have none.
        format!("{{\"message\":\"writing the answer: {error}\"}}").into_bytes()
    });
    text.push(b'\n');
    with_body(
        status,
        JSON,
        Full::new(Bytes::from(text))
            .map_err(|never| match never {})
            .boxed_unsync(),
    )
}

/// 200 with a value.
pub fn ok<T: Serialize + ?Sized>(value: &T) -> Answer {
    Ok(json(StatusCode::OK, value))
}

/// A status and nothing else.
pub fn status(status: StatusCode) -> Answer {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    Ok(response)
}

/// 204.
pub fn no_content() -> Answer {
    status(StatusCode::NO_CONTENT)
}

/// Plain text.
pub fn text(text: &'static str) -> Response {
    let body = Full::new(Bytes::from_static(text.as_bytes()))
        .map_err(|never| match never {})
        .boxed_unsync();
    with_body(StatusCode::OK, "text/plain; charset=utf-8", body)
}

/// 200, its headers sent at once, each item as soon as it comes. An error breaks the connection off, so that the client knows that
/// something is missing.
pub fn stream<S>(content_type: &'static str, items: S) -> Response
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let body = StreamBody::new(items.map(|item| item.map(Frame::data))).boxed_unsync();
    with_body(StatusCode::OK, content_type, body)
}

/// No bytes.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that holds something until it has been sent, or its client has gone.
pub fn holding<T: Send + Unpin + 'static>(body: Body, held: T) -> Body {
    Holding { body, _held: held }.boxed_unsync()
}

struct Holding<T> {
    body: Body,
    _held: T,
}

impl<T: Unpin> hyper::body::Body for Holding<T> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A value as one line of a JSON stream.
pub fn line<T: Serialize>(value: &T) -> Bytes {
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.extend_from_slice(b"\r\n");
    text.into()
}

fn with_body(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
