//! The process's three descriptors, its session and its signals.

use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use hearth_guest_protocol::Error;
use rustix::fs::{fchown, fstat};
use rustix::process::{Uid, ioctl_tiocsctty, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::system;

/// Highest signal number of Linux.
const LAST_SIGNAL: libc::c_int = 64;

/// Makes `fds` stdin, stdout and stderr, in a session of its own; a terminal becomes that session's. They are given to `uid`, so
/// that the process may open /dev/stdout again, as servers that log there do.
pub fn take(fds: [RawFd; 3], uid: u32, terminal: bool) -> Result<(), Error> {
    let failed = || system("setting up stdin, stdout and stderr");
    setsid().map_err(failed())?;
    // SAFETY: the agent left these open for us and nothing else here owns them. The same number may stand more than
    // once (a terminal, /dev/null): each number gets one owner.
    let owned = |fd: RawFd| unsafe { OwnedFd::from_raw_fd(fd) };
    let mut numbers = fds.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    let owners: Vec<(RawFd, OwnedFd)> = numbers.into_iter().map(|fd| (fd, owned(fd))).collect();
    let find = |fd: RawFd| {
        owners
            .iter()
            .find(|(number, _)| *number == fd)
            .map(|(_, owner)| owner.as_fd())
    };
    let [Some(stdin), Some(stdout), Some(stderr)] = fds.map(find) else {
        return Err(Error::Invalid(
            "stdin, stdout or stderr is missing".to_owned(),
        ));
    };
    dup2_stdin(stdin).map_err(failed())?;
    dup2_stdout(stdout).map_err(failed())?;
    dup2_stderr(stderr).map_err(failed())?;
    if terminal {
        ioctl_tiocsctty(stdin).map_err(system("taking the terminal"))?;
    }
    if uid != 0 {
        for (_, fd) in &owners {
            // /dev/null stays whose it is.
            let stat = fstat(fd).map_err(failed())?;
            if terminal || rustix::fs::FileType::from_raw_mode(stat.st_mode).is_fifo() {
                fchown(fd, Some(Uid::from_raw(uid)), None).map_err(failed())?;
            }
        }
    }
    // Closed here, so that no stray copy keeps a pipe open: the three numbers stay.
    Ok(())
}

/// Signals and file mode mask as a process expects them that nobody has meddled with.
pub fn reset_signals() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: SIG_DFL is no function of ours. The calls for SIGKILL, SIGSTOP and libc's own signals fail, as they may.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
