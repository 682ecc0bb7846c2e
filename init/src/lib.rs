//! PID 1 of the host: it makes a machine ready for the controller and keeps the controller running.
//!
//! What it never does: offer a user anything over a network, start a shell, or wait in a loop. There is no asynchronous
//! runtime: it has a handful of threads that block in the kernel.

pub mod host;

use hearth_pid1::{entropy, kmsg, netlink, root, stdio};
