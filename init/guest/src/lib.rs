//! PID 1 of the microVM: the agent that builds containers and runs their processes.
//!
//! ```text
//! boot ─ listens on vsock ─ one thread per connection: agent ─┬─ pod        clock, entropy, network: once
//!                                                             ├─ container  file systems, cgroup: once per container
//!                                                             ├─ launch     clone3 into namespaces, exec of this very file as `child`
//!                                                             ├─ process    one thread per process: its output, its end
//!                                                             └─ follow     sends output and end to the host
//! child (another process): root file system, user, capabilities, exec of the container's program
//! ```
//!
//! The host is trusted, what runs in the container is not: nothing here follows a path that a container controls while it
//! is outside of that container, and a connection whose thread fails ends alone.

mod agent;
mod boot;
mod cgroup;
mod child;
mod container;
mod device_policy;
mod follow;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod grow;
mod input;
mod launch;
mod lookup;
mod output;
mod pod;
mod process;
mod processes;
mod pty;
mod shutdown;
mod user;
mod vsock;

use std::ffi::OsString;
use std::fmt::Display;

use hearth_guest_protocol::Error;

pub use agent::Agent;
pub use container::Places;

/// First argument of the process that turns into a container's program.
const CHILD_ARGUMENT: &str = "container-child";

/// What `guest-init` does with its arguments. Returns an exit status only where it was not started as PID 1.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> i32 {
    let _program = arguments.next();
    if arguments
        .next()
        .is_some_and(|first| first == CHILD_ARGUMENT)
    {
        return child::main(arguments.next());
    }
    if rustix::process::getpid().as_raw_nonzero().get() != 1 {
        hearth_pid1::kmsg::log("guest-init is PID 1 of a microVM; it can't be run by hand");
        return 2;
    }
    boot::run()
}

/// A failure of the system as the host will see it.
fn system<E: Display>(doing: impl Into<String>) -> impl FnOnce(E) -> Error {
    let doing = doing.into();
    move |reason| Error::System {
        doing,
        reason: reason.to_string(),
    }
}
