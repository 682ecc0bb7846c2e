//! PID 1 of the host and PID 1 of the microVM.
//!
//! Two executables stand on this library: `init` ([`host`]) makes a machine ready for the controller and keeps the controller
//! running; `guest-init` ([`guest`]) is the agent inside a microVM that builds containers and runs their processes.
//!
//! What both never do: offer a user anything over a network, start a shell, or wait in a loop. There is no asynchronous
//! runtime: each has a handful of threads that block in the kernel.

pub mod entropy;
pub mod guest;
pub mod host;
pub mod kmsg;
pub mod netlink;
mod stdio;
