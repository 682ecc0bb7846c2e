//! Everything a developer or a first-time user types: `cargo xtask try`, `image`, `test`, `fuzz`, `bench`.
//!
//! The library is the commands' substance, for the end-to-end tests and the benchmark as well: they build nothing
//! themselves and start the appliance the way `try` does.
//!
//! ```text
//! prerequisites ─► kernel ─┐
//!                          ├─► image ─► qemu ─► trial (docker, ports)
//!               templates ─┘     identity ─┘
//! ```
//!
//! No shell is ever started: programs are run with their arguments as they are, and what they print goes to a log that is
//! shown when they fail.

pub mod bench;
pub mod bochs;
pub mod busybox;
pub mod checks;
pub mod cpio;
pub mod docker;
mod elf;
pub mod fuzz;
pub mod identity;
pub mod image;
pub mod kernel;
pub mod paths;
pub mod ports;
pub mod prerequisites;
pub mod process;
pub mod qemu;
pub mod side;
pub mod simulate;
pub mod templates;
pub mod trial;
