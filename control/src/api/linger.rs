//! Closing a connection so that the other end hears what was said last.
//!
//! A system that closes a socket with unread bytes in it resets the connection, and a reset throws away what the other end hasn't read yet:
//! an answer that came before the whole request was read (413, 431, 404) would be lost to a client that is still sending. So the sending
//! half is closed first, and what comes is read and thrown away until the client closes its half too, within bounds (RFC 9112, section
//! 9.6).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::ClientStream;

/// What is still read, at most: a large image, for docker-py looks for an answer only when it has sent the whole of it.
const BYTES_MAX: u64 = 8 << 30;
/// For how long nothing may come: several retransmissions.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// For how long altogether: a connection that is closing is still one of its tenant's share.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Read at once.
const PIECE: usize = 16 << 10;

/// A connection that is being closed.
struct Leaving {
    bytes_left: u64,
    silent: Pin<Box<Sleep>>,
    end: Pin<Box<Sleep>>,
}

impl Leaving {
    fn new() -> Self {
        Self {
            bytes_left: BYTES_MAX,
            silent: Box::pin(sleep(SILENCE_MAX)),
            end: Box::pin(sleep(TIME_MAX)),
        }
    }

    /// Ready when it has been for too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        self.silent.as_mut().poll(cx)
    }

    /// Reads until the other end has closed, or a bound is met. What comes isn't even decrypted.
    fn poll_rest(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        let mut piece = [0; PIECE];
        while self.poll_patience(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut piece);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer));
            let count = buffer.filled().len();
            if read.is_err() || count == 0 || self.bytes_left == 0 {
                break;
            }
            self.bytes_left = self.bytes_left.saturating_sub(count as u64);
            self.silent.as_mut().reset(Instant::now() + SILENCE_MAX);
        }
        Poll::Ready(())
    }
}

/// Closes a connection whose handshake has failed: the alert says why.
pub(super) async fn close(mut stream: TcpStream) {
    if poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx))
        .await
        .is_err()
    {
        return;
    }
    let mut leaving = Leaving::new();
    poll_fn(|cx| leaving.poll_rest(&mut stream, cx)).await;
}

/// A client's connection that isn't shut down before the client has had a chance to hear the last answer.
pub(super) struct Lingering {
    stream: ClientStream,
    leaving: Option<Leaving>,
    shut: bool,
}

impl Lingering {
    pub fn new(stream: ClientStream) -> Self {
        Self {
            stream,
            leaving: None,
            shut: false,
        }
    }

    /// The connection as it is, for whoever closes it otherwise.
    pub fn into_inner(self) -> ClientStream {
        self.stream
    }
}

impl AsyncRead for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let leaving = this.leaving.get_or_insert_with(Leaving::new);
        if !this.shut {
            // The goodbye has to fit into the socket: a client that reads nothing has as long as one that says nothing.
            match Pin::new(&mut this.stream).poll_shutdown(cx) {
                Poll::Ready(done) => done?,
                Poll::Pending => return leaving.poll_patience(cx).map(Ok),
            }
            this.shut = true;
        }
        leaving.poll_rest(this.stream.get_mut().0, cx).map(Ok)
    }
}
