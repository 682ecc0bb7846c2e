//! The two halves of a stream.
//!
//! Each half has an end of its own. Whoever drops one before its end cancels the whole stream: both halves of the other side fail, and
//! none of them takes that for an end.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};

use super::connection::{Connection, lost};
use super::error::{PeerError, Refusal};
use super::frames::{self, FRAME_MAX, Frame, HEAD, Reader};

/// Frames below this are gathered into one of HTTP/2, bytes: copying them is cheaper than what each costs by itself.
const SMALL: usize = 2 << 10;
/// How much is gathered.
const GATHERED_MAX: usize = 16 << 10;

/// What both halves of one side have.
struct Shared {
    peer: Arc<str>,
    /// Of the side that has dialled: keeps the connection, and watches it.
    connection: Option<Arc<Connection>>,
    /// Locked for no longer than a call of it takes.
    sender: Mutex<SendStream<Bytes>>,
    /// What this side had to say is handed over, its end included.
    is_finished: AtomicBool,
}

impl Shared {
    fn sender(&self) -> MutexGuard<'_, SendStream<Bytes>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self, error: &h2::Error) -> PeerError {
        match &self.connection {
            Some(connection) => connection.lost(error),
            None => lost(&self.peer, error, None),
        }
    }

    fn cancelled(&self) -> PeerError {
        PeerError::Cancelled {
            peer: self.peer.to_string(),
        }
    }

    async fn patiently<F: Future>(&self, future: F) -> F::Output {
        match &self.connection {
            Some(connection) => connection.liveness.patiently(future).await,
            None => future.await,
        }
    }
}

/// What this side says.
pub struct SendHalf {
    shared: Arc<Shared>,
    /// Whole frames.
    gathered: BytesMut,
}

/// What the other side says.
pub struct RecvHalf {
    shared: Arc<Shared>,
    stream: RecvStream,
    frames: Reader,
    /// Bytes that have come and were not given out: the other side may not send more in their place.
    held: usize,
    is_over: bool,
}

/// Both halves of a stream whose head has been sent.
pub(super) fn halves(
    peer: Arc<str>,
    connection: Option<Arc<Connection>>,
    sender: SendStream<Bytes>,
    stream: RecvStream,
) -> (SendHalf, RecvHalf) {
    let shared = Arc::new(Shared {
        peer,
        connection,
        sender: Mutex::new(sender),
        is_finished: AtomicBool::new(false),
    });
    let send = SendHalf {
        shared: Arc::clone(&shared),
        gathered: BytesMut::new(),
    };
    let receive = RecvHalf {
        shared,
        stream,
        frames: Reader::default(),
        held: 0,
        is_over: false,
    };
    (send, receive)
}

impl SendHalf {
    /// Sends a frame. Waits while the other side is behind. Dropped before it returns: nothing of the frame is sent.
    pub async fn send(&mut self, data: Bytes) -> Result<(), PeerError> {
        self.feed(&[], data).await?;
        self.flush().await
    }

    /// As [`Self::send`], a frame of `prefix` and `data`; a small one leaves with those that follow, or by [`Self::flush`].
    pub async fn feed(&mut self, prefix: &[u8], data: Bytes) -> Result<(), PeerError> {
        let length = prefix.len() + data.len();
        if length > FRAME_MAX {
            return Err(PeerError::TooLarge {
                peer: self.shared.peer.to_string(),
                bytes: length,
                limit: FRAME_MAX,
            });
        }
        if length < SMALL {
            if self.gathered.len() + HEAD + length > GATHERED_MAX {
                self.flush().await?;
            }
            frames::put_data(&mut self.gathered, prefix, data.len());
            self.gathered.extend_from_slice(&data);
            return Ok(());
        }
        self.room(self.gathered.len() + HEAD + length).await?;
        frames::put_data(&mut self.gathered, prefix, data.len());
        let before = self.gathered.split().freeze();
        self.give(before, false)?;
        self.give(data, false)
    }

    /// Sends what was gathered.
    pub async fn flush(&mut self) -> Result<(), PeerError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        self.room(self.gathered.len()).await?;
        let gathered = self.gathered.split().freeze();
        self.give(gathered, false)
    }

    /// Waits until the other side has let go of the stream, or is lost.
    pub async fn gone(&mut self) -> PeerError {
        let reset = poll_fn(|cx| self.shared.sender().poll_reset(cx));
        match self.shared.patiently(reset).await {
            Ok(reason) => self.shared.lost(&reason.into()),
            Err(error) => self.shared.lost(&error),
        }
    }

    /// This side has said all.
    pub fn finish(mut self) -> Result<(), PeerError> {
        frames::put_end(&mut self.gathered);
        self.give_last()
    }

    /// This side can't go on.
    pub fn fail(mut self, refusal: &Refusal) -> Result<(), PeerError> {
        frames::put_error(&mut self.gathered, refusal);
        self.give_last()
    }

    fn give_last(&mut self) -> Result<(), PeerError> {
        let last = self.gathered.split().freeze();
        self.give(last, true)?;
        self.shared.is_finished.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Hands over; it waits there for the connection.
    fn give(&self, bytes: Bytes, is_last: bool) -> Result<(), PeerError> {
        let given = self.shared.sender().send_data(bytes, is_last);
        // The stream is over already.
        given.map_err(|_| self.shared.cancelled())
    }

    /// Waits until some of so many bytes may be sent; the rest waits with the connection.
    async fn room(&self, bytes: usize) -> Result<(), PeerError> {
        self.shared.sender().reserve_capacity(bytes);
        let room = poll_fn(|cx| {
            let mut sender = self.shared.sender();
            if let Poll::Ready(reset) = sender.poll_reset(cx) {
                return Poll::Ready(Err(match reset {
                    Ok(reason) => self.shared.lost(&reason.into()),
                    Err(error) => self.shared.lost(&error),
                }));
            }
            while sender.capacity() == 0 {
                match ready!(sender.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Poll::Ready(Err(self.shared.lost(&error))),
                    None => return Poll::Ready(Err(self.shared.cancelled())),
                }
            }
            Poll::Ready(Ok(()))
        });
        self.shared.patiently(room).await
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        if !self.shared.is_finished.load(Ordering::SeqCst) {
            self.shared.sender().send_reset(Reason::CANCEL);
        }
    }
}

impl RecvHalf {
    /// The next frame; None: the other side has said all. An error comes again when asked again. Dropped before it returns: nothing is
    /// lost.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, PeerError> {
        loop {
            if self.is_over {
                return Ok(None);
            }
            match self.frames.next() {
                Ok(Some((frame, bytes))) => {
                    self.release(bytes);
                    match frame {
                        Frame::Data(data) => return Ok(Some(data)),
                        Frame::End => self.is_over = true,
                        Frame::Error(refusal) => {
                            self.is_over = true;
                            return Err(PeerError::Refused {
                                peer: self.shared.peer.to_string(),
                                refusal,
                            });
                        }
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) => {
                    return Err(PeerError::Nonsense {
                        peer: self.shared.peer.to_string(),
                        reason: error.to_string(),
                    });
                }
            }
            match self.shared.patiently(self.stream.data()).await {
                Some(Ok(piece)) => {
                    self.held += piece.len();
                    self.frames.push(piece);
                }
                Some(Err(error)) => return Err(self.shared.lost(&error)),
                None => {
                    return Err(PeerError::Broken {
                        peer: self.shared.peer.to_string(),
                        reason: match self.frames.is_between() {
                            true => "it was cut off in the middle of a frame".to_owned(),
                            false => "it was cut off".to_owned(),
                        },
                    });
                }
            }
        }
    }

    fn release(&mut self, bytes: usize) {
        self.held = self.held.saturating_sub(bytes);
        // An error: the stream is over, and so is its window.
        let _ = self.stream.flow_control().release_capacity(bytes);
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        self.release(self.held);
        // Of a stream whose other half is finished, the reset that h2 sends by itself follows what is still on its way.
        if !self.is_over && !self.shared.is_finished.load(Ordering::SeqCst) {
            self.shared.sender().send_reset(Reason::CANCEL);
        }
    }
}
