//! Where threads stand still while the microVM is paused.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long to wait for threads to arrive before they are called again: a call that comes between a thread's look at the gate
/// and its entry into the guest is lost.
const CALL_AGAIN: Duration = Duration::from_millis(1);

/// A gate that every virtual CPU and every worker passes between two pieces of work.
#[derive(Debug)]
pub struct Gate {
    /// Protects both counts; held for moments only.
    state: Mutex<State>,
    /// A thread came to stand or may go on.
    changed: Condvar,
    /// `State::closed` again, to be looked at in passing.
    closed: AtomicBool,
}

#[derive(Debug)]
struct State {
    closed: bool,
    standing: usize,
    threads: usize,
}

impl Gate {
    /// A gate for `threads` threads, closed: nothing runs before somebody has said so.
    pub fn new(threads: usize) -> Self {
        Self {
            state: Mutex::new(State {
                closed: true,
                standing: 0,
                threads,
            }),
            changed: Condvar::new(),
            closed: AtomicBool::new(true),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called by the threads; returns when the gate is open.
    pub fn pass(&self) {
        if !self.closed() {
            return;
        }
        let mut state = self.state();
        state.standing += 1;
        self.changed.notify_all();
        while state.closed {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.standing -= 1;
    }

    /// Closes the gate and waits until every thread stands before it. `call` must bring threads out of whatever they do, and
    /// is called again and again meanwhile.
    pub fn close(&self, call: impl Fn()) {
        let mut state = self.state();
        state.closed = true;
        self.closed.store(true, Ordering::SeqCst);
        while state.standing < state.threads {
            call();
            state = self
                .changed
                .wait_timeout(state, CALL_AGAIN)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Called by a thread that will not come again.
    pub fn leave(&self) {
        self.state().threads -= 1;
        self.changed.notify_all();
    }

    /// Opens it.
    pub fn open(&self) {
        let mut state = self.state();
        state.closed = false;
        self.closed.store(false, Ordering::SeqCst);
        drop(state);
        self.changed.notify_all();
    }

    /// Whether it is closed.
    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    #[test]
    fn nothing_passes_a_closed_gate() {
        let gate = Gate::new(2);
        let passed = AtomicUsize::new(0);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::SeqCst) {
                        gate.pass();
                        passed.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            gate.open();
            for _ in 0..10 {
                gate.close(|| {});
                let before = passed.load(Ordering::SeqCst);
                std::thread::yield_now();
                assert_eq!(passed.load(Ordering::SeqCst), before);
                gate.open();
            }
            done.store(true, Ordering::SeqCst);
        });
    }
}
