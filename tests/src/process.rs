//! Children of the test binary: they die with it, and what they print is kept.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// After this long a wait counts as hung. Nothing here should take a tenth of it, even in emulation; but the machine may have other things to do.
pub const HUNG: Duration = Duration::from_secs(600);

/// How often a state is looked at that can't announce its change.
const POLL: Duration = Duration::from_millis(50);

/// Looks until `look` finds something; panics with `what` when that hangs.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < HUNG, "hung: {what}");
        thread::sleep(POLL);
    }
}

/// A command handed to the spawning thread, and where its child goes.
type Order = (Command, Sender<std::io::Result<Child>>);

/// Starts `command` so that the kernel kills it when this process ends, however it ends.
///
/// The kernel's rule is about the thread that forked, and test threads end: so one thread that never ends forks for
/// all of them.
pub fn spawn_bound(mut command: Command) -> std::io::Result<Child> {
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    // SAFETY: the closure runs between fork and exec and makes one system call: no allocation, no lock.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
                .map_err(Into::into)
        });
    }
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, orders) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in orders {
                // Who ordered and went away has no use for the child, which then dies with this process.
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let (answer, child) = channel();
    spawner
        .send((command, answer))
        .expect("the spawning thread lives as long as the process");
    child
        .recv()
        .expect("the spawning thread answers every order")
}

/// What a stream has brought so far, and whether it has ended.
#[derive(Default)]
struct Captured {
    bytes: Vec<u8>,
    ended: bool,
}

/// A stream that a thread reads to its end.
#[derive(Clone, Default)]
pub struct Capture {
    // Guards the bytes read so far; the condition variable tells of every change.
    state: Arc<(Mutex<Captured>, Condvar)>,
}

impl Capture {
    /// Reads `stream` to its end on a thread of its own.
    pub fn of(mut stream: impl Read + Send + 'static) -> Self {
        let capture = Self::default();
        let state = Arc::clone(&capture.state);
        thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            loop {
                // A terminal whose other side is closed gives EIO: for us that is the end too.
                let count = stream.read(&mut buffer).unwrap_or(0);
                let (lock, changed) = &*state;
                let mut captured = lock.lock().unwrap_or_else(PoisonError::into_inner);
                captured.bytes.extend_from_slice(&buffer[..count]);
                captured.ended = count == 0;
                changed.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        capture
    }

    /// What has arrived so far, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    /// What has arrived so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// Waits until `wanted` has arrived, and returns everything up to then.
    pub fn wait_for(&self, wanted: &str) -> String {
        self.wait_until(wanted, |text| text.contains(wanted))
    }

    /// Waits until the text satisfies `enough`; `what` says what that is.
    pub fn wait_until(&self, what: &str, enough: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        let mut captured = self.lock();
        loop {
            let text = String::from_utf8_lossy(&captured.bytes).into_owned();
            if enough(&text) {
                return text;
            }
            assert!(
                !captured.ended,
                "the stream ended before {what:?} came; it brought:\n{text}"
            );
            let left = HUNG.saturating_sub(start.elapsed());
            assert!(
                !left.is_zero(),
                "hung: {what:?} doesn't come; so far:\n{text}"
            );
            captured = self
                .state
                .1
                .wait_timeout(captured, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for the end of the stream, and returns all of it.
    pub fn wait_end(&self) -> Vec<u8> {
        let start = Instant::now();
        let mut captured = self.lock();
        while !captured.ended {
            let left = HUNG.saturating_sub(start.elapsed());
            assert!(
                !left.is_zero(),
                "hung: the stream doesn't end; so far:\n{}",
                String::from_utf8_lossy(&captured.bytes)
            );
            captured = self
                .state
                .1
                .wait_timeout(captured, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        captured.bytes.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Captured> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for `child`; none when it hangs, and then it has been killed.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if start.elapsed() > limit {
            // Killing fails only if it has just ended, which the wait below then sees.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
