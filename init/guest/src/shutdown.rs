//! The end of a microVM.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use rustix::system::{RebootCommand, reboot};

use hearth_pid1::kmsg;

/// How long a killed process may take to be gone. It does not run any more; what can take time is freeing its memory.
pub const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the host may take to read the answer and close the connection before the machine goes.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

/// Kills every process of the machine but this one.
pub fn kill_all() {
    // SAFETY: kill(2) touches no memory. From PID 1, -1 means everybody else.
    unsafe { libc::kill(-1, Signal::KILL.as_raw()) };
}

/// Ends this machine: the monitor takes a reset for power-off. File systems have been unmounted or at least written back.
pub fn power_off(mut answered: UnixStream) {
    let _ = answered.shutdown(std::net::Shutdown::Write);
    let _ = answered.set_read_timeout(Some(GOODBYE_TIMEOUT));
    let _ = answered.read(&mut [0]);
    if rustix::process::getpid() != Pid::INIT {
        // In a test.
        return;
    }
    if let Err(errno) = reboot(RebootCommand::Restart) {
        kmsg::log(&format!("guest-init: reboot: {errno}"));
    }
}
