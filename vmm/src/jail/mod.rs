//! What the monitor gives up before the guest runs, in this order: its place in the host's name spaces and file system;
//! privileges ([`privileges`]); and, thread by thread, system calls ([`seccomp`]).
//!
//! Whoever breaks out of the guest into this process finds: no files but the guest's own, no network, no other process it may
//! signal, a user that owns nothing, and a few dozen system calls.

use std::io;

use hearth_vmm_api::Jail;
use rustix::fd::OwnedFd;

pub mod namespaces;
mod privileges;
pub mod seccomp;

pub use privileges::Limits;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call.
    #[error(
        "the jail: {doing}: {source}; the monitor must be started as root, or with every capability"
    )]
    System {
        /// What was being done.
        doing: &'static str,
        /// The system's words.
        source: io::Error,
    },
    /// A filter could not be made or installed.
    #[error(
        "the jail: system call filter of the {thread} thread: {reason}; the host's kernel needs CONFIG_SECCOMP_FILTER"
    )]
    Filter {
        /// Whose.
        thread: &'static str,
        /// What the crate says.
        reason: String,
    },
}

impl Error {
    /// Says of a system call's error what was being done.
    fn system<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::System {
            doing,
            source: error.into(),
        }
    }
}

/// Gives up everything but system calls. Called once, while there is only one thread: user ids and capabilities are a thread's.
pub fn confine(jail: &Jail, root: &OwnedFd, limits: &Limits) -> Result<(), Error> {
    namespaces::enter(root)?;
    privileges::drop_all(jail.uid, jail.gid, limits)
}
