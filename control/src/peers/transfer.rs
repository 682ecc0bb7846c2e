//! Bodies of requests with one answer.

use std::future::poll_fn;
use std::task::{Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};

/// Why a body was not read.
pub enum BodyError {
    /// It is more than may be.
    TooLarge,
    /// The stream broke.
    Stream(h2::Error),
}

/// Sends all of it, as there is room.
pub async fn send(stream: &mut SendStream<Bytes>, mut body: Bytes) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = poll_fn(|cx| {
            loop {
                match stream.capacity() {
                    0 => match ready!(stream.poll_capacity(cx)) {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return Poll::Ready(Err(error)),
                        None => return Poll::Ready(Err(Reason::CANCEL.into())),
                    },
                    room => return Poll::Ready(Ok(room)),
                }
            }
        })
        .await?;
        let piece = body.split_to(room.min(body.len()));
        stream.send_data(piece, false)?;
    }
    stream.send_data(Bytes::new(), true)
}

/// Reads all of it. What comes in one piece isn't copied.
pub async fn read(stream: &mut RecvStream, limit: usize) -> Result<Bytes, BodyError> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(piece) = stream.data().await {
        let piece = piece.map_err(BodyError::Stream)?;
        if first.len() + all.len() + piece.len() > limit {
            return Err(BodyError::TooLarge);
        }
        // An error: the stream is over, and so is its window.
        let _ = stream.flow_control().release_capacity(piece.len());
        if first.is_empty() && all.is_empty() {
            first = piece;
            continue;
        }
        if !first.is_empty() {
            all.extend_from_slice(&std::mem::take(&mut first));
        }
        all.extend_from_slice(&piece);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}
