//! Whether the other end of a connection is still there, asked only where somebody waits for it.
//!
//! An idle connection has no timer. A request that has waited for [`QUIET`] has the other end asked, with HTTP/2's ping, until it has its
//! answer. So has one that begins when nothing has been heard for as long since something was asked: of a machine that has lost its
//! power, requests whose callers have little patience would otherwise never know.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

/// Silence that somebody has to wait through before the other end is asked.
pub const QUIET: Duration = Duration::from_secs(3);
/// From then on, the other end says something within this or is given up: many times what a disk or a processor holds it up for.
pub const PONG: Duration = Duration::from_secs(2);

/// What is known of the other end.
pub struct Liveness {
    /// Never held across a wait.
    known: Mutex<Known>,
    waiting: AtomicUsize,
    wake: Notify,
}

struct Known {
    /// When anything came last.
    heard: Instant,
    /// When the first thing was asked after that.
    asked: Option<Instant>,
}

impl Liveness {
    pub fn new() -> Self {
        Self {
            known: Mutex::new(Known {
                heard: Instant::now(),
                asked: None,
            }),
            waiting: AtomicUsize::new(0),
            wake: Notify::new(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) {
        let mut known = self.known();
        (known.heard, known.asked) = (Instant::now(), None);
    }

    /// Something is asked now.
    pub fn ask(&self) {
        let now = Instant::now();
        let first = *self.known().asked.get_or_insert(now);
        if now - first >= QUIET {
            self.wake.notify_one();
        }
    }

    /// Waits, and has the other end asked when that takes long.
    pub async fn patiently<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        tokio::select! {
            biased;
            output = &mut future => return output,
            () = sleep(QUIET) => {}
        }
        let _waiting = Waiting::of(self);
        future.await
    }

    fn somebody_waits(&self) -> bool {
        let overdue = || {
            let asked = self.known().asked;
            asked.is_some_and(|first| first.elapsed() >= QUIET)
        };
        self.waiting.load(Ordering::SeqCst) > 0 || overdue()
    }

    /// Returns, with the reason, once the other end is to be given up.
    pub async fn watch(&self, mut pings: PingPong) -> String {
        let mut unanswered = false;
        loop {
            if !self.somebody_waits() {
                self.wake.notified().await;
                continue;
            }
            let quiet = self.known().heard + QUIET;
            let now = Instant::now();
            if now < quiet {
                sleep_until(quiet).await;
                continue;
            }
            if !unanswered && let Err(error) = pings.send_ping(Ping::opaque()) {
                return error.to_string();
            }
            unanswered = true;
            tokio::select! {
                biased;
                pong = poll_fn(|cx| pings.poll_pong(cx)) => match pong {
                    Ok(_) => unanswered = false,
                    Err(error) => return error.to_string(),
                },
                () = sleep(PONG) => {
                    if self.known().heard <= now {
                        return format!("nothing has been heard of it for {:?}", QUIET + PONG);
                    }
                }
            }
        }
    }
}

/// Somebody who waits.
struct Waiting<'a>(&'a Liveness);

impl<'a> Waiting<'a> {
    fn of(liveness: &'a Liveness) -> Self {
        liveness.waiting.fetch_add(1, Ordering::SeqCst);
        liveness.wake.notify_one();
        Self(liveness)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A connection that notes when something comes.
pub struct Heard<S> {
    pub stream: S,
    pub liveness: Arc<Liveness>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.liveness.heard();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
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
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
