//! PID 1 of the host: makes the machine ready for the controller and keeps the controller running.
//!
//! ```text
//! boot ── mounts ── config (sources in order) ──┬── storage   a thread: choose, format, mount the data disk
//!                                               └── network   DHCP on every link, or the static address
//!                        node  one thread, one poll(2): links, leases, signals, power button, watchdog,
//!                              the controller's output and end, what storage found
//! ```
//!
//! There is no shell and no command line to fall back to, so each failure is told on the console with what to do about it, and
//! the machine goes on with what it has.

mod boot;
mod config;
mod console;
mod facts;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod groups;
mod late;
mod mounts;
mod network;
mod node;
mod power;
mod processor;
mod seed;
mod storage;
mod supervisor;
mod watchdog;

/// Runs PID 1. Returns an exit status only where it was not started as PID 1.
pub fn main() -> i32 {
    if rustix::process::getpid().as_raw_nonzero().get() != 1 {
        crate::kmsg::log("init is PID 1 of a Hearth node; it can't be run by hand");
        return 2;
    }
    boot::run()
}

/// Hearth's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");
