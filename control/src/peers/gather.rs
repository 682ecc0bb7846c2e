//! What is written in one go, sent in one go.
//!
//! HTTP/2's implementation writes the head of a request before it asks for the body, and flushes it: a record of TLS, a packet and its receipt for
//! some 20 bytes, and the same again for the body, which is there. A flush comes back once here, after all else that is ready to run,
//! so that the body goes along.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};

/// What is held at most, bytes, and what each connection takes for it: what nodes ask each other is smaller, mostly. What is larger goes
/// through as it is.
const HELD_MAX: usize = 4 << 10;

/// A stream whose writes are held until its writer has nothing more to write.
pub struct Gather<S> {
    stream: BufWriter<S>,
    /// A flush has been put off for what else is ready.
    put_off: bool,
}

impl<S: AsyncWrite> Gather<S> {
    pub fn new(stream: S) -> Self {
        Self {
            stream: BufWriter::with_capacity(HELD_MAX, stream),
            put_off: false,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.stream.buffer().is_empty() && !self.put_off {
            self.put_off = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.put_off &= flushed.is_pending();
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Notes how much it was given at a time, and takes no more than `most`.
    #[derive(Default)]
    struct Notes {
        most: usize,
        writes: Vec<Vec<u8>>,
        flushes: usize,
    }

    impl AsyncWrite for Notes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.most);
            self.writes.push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }
        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn taking(most: usize) -> Gather<Notes> {
        Gather::new(Notes {
            most,
            ..Notes::default()
        })
    }

    #[tokio::test]
    async fn what_comes_before_a_flush_is_through_goes_along() {
        let mut gather = taking(usize::MAX);
        gather.write_all(b"head").await.unwrap();
        let mut waits = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut gather).poll_flush(&mut waits).is_pending());
        gather.write_all(b"body").await.unwrap();
        gather.flush().await.unwrap();
        assert_eq!(gather.stream.get_ref().writes, [b"headbody".to_vec()]);
        assert_eq!(gather.stream.get_ref().flushes, 1);
        gather.flush().await.unwrap();
        assert_eq!(gather.stream.get_ref().writes.len(), 1);
    }

    #[tokio::test]
    async fn all_of_it_arrives_in_order_whatever_the_sizes() {
        for most in [1, 7, 5000, usize::MAX] {
            let mut gather = taking(most);
            let mut sent = Vec::new();
            for size in [0, 1, 100, 4_000, 400, 40_000, 4_096, 4_097, 3] {
                let piece = vec![size as u8; size];
                gather.write_all(&piece).await.unwrap();
                sent.extend(piece);
                if size % 3 == 0 {
                    gather.flush().await.unwrap();
                    assert_eq!(gather.stream.get_ref().writes.concat(), sent);
                }
            }
            gather.write_all(b"last").await.unwrap();
            sent.extend(b"last");
            gather.shutdown().await.unwrap();
            assert_eq!(gather.stream.get_ref().writes.concat(), sent);
        }
    }

    #[tokio::test]
    async fn a_stream_that_takes_nothing_more_is_an_error() {
        let mut gather = taking(0);
        gather.write_all(b"head").await.unwrap();
        let error = gather.flush().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }

    #[tokio::test]
    async fn what_comes_is_read_as_it_is() {
        let (near, mut far) = tokio::io::duplex(64);
        far.write_all(b"word").await.unwrap();
        let mut read = [0; 4];
        Gather::new(near).read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"word");
    }
}
