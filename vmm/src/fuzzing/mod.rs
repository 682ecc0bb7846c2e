//! What fuzzing reaches of this crate: each device with a hostile guest at its registers and queues, and whoever is at its other end.
//!
//! A device promises to end what a guest has it do, with whatever result, and to serve the next driver after a reset.

mod devices;
mod guest;
mod host;
mod script;

pub use self::devices::{balloon, block, bus, net, rng, vsock};
pub use self::host::monitor_api;
pub(crate) use self::host::{check_source, network};
pub use crate::net::fuzzing::frame;

/// Why nothing that a harness sets up for itself fails.
const ROOM: &str = "the machine that fuzzes has room for a descriptor";
