//! Ends this process when its lease is over.
//!
//! A timer of the kernel's on `CLOCK_BOOTTIME` sends a signal at the deadline, and the signal's handler looks at the page: later by
//! now, the timer is set again; else the process ends, right there. So it doesn't matter what the process is doing, or whether it can go on
//! with it: a thread that waits for a slow disk, for a lock, or for room in the pipe of its standard error is no reason to
//! live on, as it would be if an event loop had to come round first. A lease costs one wake-up for each time that it is extended
//! and the old deadline passes, and none where there is no deadline.
//!
//! When a machine wakes from suspension, the timer fires before processes go on. Threads may be let go in any order though, so one
//! that can do harm (a virtual CPU's: its run is interrupted by the suspension) calls [`end_if_over`] before it goes on. What can't be had:
//! a machine that is itself a guest, and is held without its clock knowing, ends late by as long as it was held.
//!
//! The code that runs here in a signal's handler calls what a handler may call (signal-safety(7)), and allocates nothing.

use std::io;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::time::Duration;

use super::page::{self, Page};
use super::{LOOK_AGAIN, NO_DEADLINE, NS_PER_S, STATUS_OVER, now_ns};

/// How long the last line may take to be written, nanoseconds: into a pipe, which has room for it at once or nobody who makes any.
const LAST_LINE_NS: u64 = Duration::from_millis(5).as_nanos() as u64;
const LAST_LINE: &[u8] =
    b"vmm: the node's lease is over, and the pod may run elsewhere now: its microVM was ended here\n";

/// Where the page's deadline is; null: there is no lease to keep. Written once.
static DEADLINE: AtomicPtr<u64> = AtomicPtr::new(std::ptr::null_mut());
/// The timer, a number that the kernel gave. Written once, before [`DEADLINE`].
static TIMER: AtomicPtr<libc::c_void> = AtomicPtr::new(std::ptr::null_mut());
/// A thread is ending the process, and has until then to say so, nanoseconds of `CLOCK_BOOTTIME`; 0: none is.
static ENDING: AtomicU64 = AtomicU64::new(0);

/// Ends this process with [`STATUS_OVER`] and a line on stderr as soon as the lease is over, which may be now. Called once, on the thread
/// that the timer's signals shall interrupt, and before any other thread may do what the lease is for.
pub fn keep(page: Page) -> io::Result<()> {
    if !DEADLINE.load(Ordering::Relaxed).is_null() {
        return Err(io::Error::other("this process keeps to a lease already"));
    }
    // SAFETY: all zeros is a `sigevent`; the fields that its kind needs follow.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = LOOK_AGAIN;
    // SAFETY: the call takes nothing.
    event.sigev_notify_thread_id = unsafe { libc::gettid() };
    let mut timer: libc::timer_t = std::ptr::null_mut();
    // SAFETY: both point to what the call reads and fills.
    check(unsafe { libc::timer_create(libc::CLOCK_BOOTTIME, &mut event, &mut timer) })?;
    TIMER.store(timer, Ordering::Relaxed);
    // Mapped for good from here on: a `Page` has no end.
    DEADLINE.store(page.deadline(), Ordering::Release);

    // SAFETY: all zeros is a `sigaction`: no signals blocked, no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = signalled as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // Calls go on where they were; and the handler may interrupt itself, for the sake of `end`.
    action.sa_flags = libc::SA_RESTART | libc::SA_NODEFER;
    // SAFETY: the handler does what a handler may.
    check(unsafe { libc::sigaction(LOOK_AGAIN, &action, std::ptr::null_mut()) })?;
    // After there is a handler: whoever changed the page before that has been seen, and whoever does after it, signals.
    look();
    Ok(())
}

/// Ends this process if its lease is over. Costs no system call.
pub fn end_if_over() {
    if deadline().is_some_and(|deadline| now_ns() >= deadline) {
        end();
    }
}

extern "C" fn signalled(_: libc::c_int) {
    match ENDING.load(Ordering::Relaxed) {
        0 => look(),
        until if now_ns() < until && set(LAST_LINE_NS, 0).is_ok() => {}
        _ => exit(),
    }
}

/// Sets the timer to what the page says, or ends.
fn look() {
    let mut seen = None;
    // Whoever sets the timer looks at the page after that: several may be here at once, and "none" that was read before the deadline
    // came must not be the last that the timer hears.
    while let Some(deadline) = deadline().filter(|deadline| seen != Some(*deadline)) {
        if now_ns() >= deadline || set(deadline, libc::TIMER_ABSTIME).is_err() {
            end();
        }
        seen = Some(deadline);
    }
}

fn deadline() -> Option<u64> {
    let deadline = DEADLINE.load(Ordering::Acquire);
    // SAFETY: what isn't null came from `Page::deadline`.
    (!deadline.is_null()).then(|| unsafe { page::load(deadline) })
}

/// To a time, or to one from now; [`NO_DEADLINE`]: to none.
fn set(ns: u64, flags: libc::c_int) -> io::Result<()> {
    let ns = if ns == NO_DEADLINE { 0 } else { ns };
    // A u64 of nanoseconds is some centuries.
    let value = libc::timespec {
        tv_sec: (ns / NS_PER_S) as libc::time_t,
        tv_nsec: (ns % NS_PER_S) as libc::c_long,
    };
    let once = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let setting = libc::itimerspec {
        it_interval: once,
        it_value: value,
    };
    let timer = TIMER.load(Ordering::Relaxed);
    // SAFETY: the timer is one that was created, and the setting is read only.
    check(unsafe { libc::timer_settime(timer, flags, &setting, std::ptr::null_mut()) })
}

/// Says why, and is gone.
fn end() -> ! {
    let until = now_ns() + LAST_LINE_NS;
    let first = ENDING.compare_exchange(0, until, Ordering::Relaxed, Ordering::Relaxed);
    if first.is_err() {
        // Another thread is about to.
        loop {
            std::thread::yield_now();
        }
    }
    // Should there be no room for the line, the timer comes again, and finds that it is time.
    if set(LAST_LINE_NS, 0).is_ok() {
        // SAFETY: the line is as long as is said.
        unsafe {
            libc::write(
                libc::STDERR_FILENO,
                LAST_LINE.as_ptr().cast(),
                LAST_LINE.len(),
            )
        };
    }
    exit()
}

fn exit() -> ! {
    // SAFETY: ends all threads, and runs nothing that they may still use.
    unsafe { libc::_exit(STATUS_OVER) }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
