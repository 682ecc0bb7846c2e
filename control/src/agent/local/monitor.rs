//! Monitor processes: started within their walls and with their descriptors in place, watched through a pidfd, killed where they have
//! to be.
//!
//! Whatever a guest has broken into is asked nothing here: which process a monitor is, control knows as its parent, or else from the
//! kernel, by the pod's cgroup.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use hearth_vmm_api as api;
use hearth_vmm_api::lease::{LOOK_AGAIN, STATUS_OVER};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::{fcntl_dupfd_cloexec, write};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::cgroup;
use super::cores::{self, Cookie};

/// Numbers below this are the child's; the parent's copies lie above, so that putting one in place never overwrites another.
const STAGING_FD: i32 = 64;
/// Added to a monitor's badness, in thousandths of the node's memory: when there is none left, pods end, and the largest first. Control's
/// is far below zero, and init is never chosen (proc_pid_oom_score_adj(5)).
const OOM_SCORE: &[u8] = b"500";

/// Descriptors for a monitor, numbered in the order in which they are handed over, from [`api::CONFIG_FD`] + 1.
#[derive(Default)]
pub struct Inheritance {
    fds: Vec<OwnedFd>,
}

impl Inheritance {
    /// Hands over a descriptor; returns the number it will have.
    pub fn add(&mut self, fd: impl Into<OwnedFd>) -> api::Fd {
        self.fds.push(fd.into());
        api::CONFIG_FD + self.fds.len() as api::Fd
    }
}

/// What a monitor's process is in before its program begins.
pub struct Walls {
    /// `cgroup.procs` of its group.
    pub cgroup_procs: File,
    /// Of its tenant. None: no processors share a core.
    pub cookie: Option<Arc<Cookie>>,
    /// Its standard error.
    pub stderr: File,
}

/// A running monitor.
#[derive(Clone)]
pub struct Monitor {
    /// Its process id.
    pub pid: u32,
    /// Cancelled once it is gone.
    pub gone: CancellationToken,
    pidfd: Arc<AsyncFd<OwnedFd>>,
}

impl Monitor {
    /// Starts a monitor that outlives this process.
    pub fn spawn(
        program: &Path,
        config: &api::Config,
        inheritance: Inheritance,
        walls: Walls,
    ) -> io::Result<Self> {
        let memfd = rustix::fs::memfd_create("vmm-config", MemfdFlags::CLOEXEC)?;
        let mut file = File::from(memfd);
        file.write_all(&serde_json::to_vec(config)?)?;
        io::Seek::rewind(&mut file)?;
        let mut staged = vec![fcntl_dupfd_cloexec(&file, STAGING_FD)?];
        for fd in &inheritance.fds {
            staged.push(fcntl_dupfd_cloexec(fd, STAGING_FD)?);
        }
        let moves: Vec<(i32, i32)> = staged
            .iter()
            .map(AsRawFd::as_raw_fd)
            .zip(api::CONFIG_FD..)
            .collect();
        let mut command = Command::new(program);
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(walls.stderr)
            .current_dir("/");
        let (group, cookie) = (walls.cgroup_procs, walls.cookie);
        let keeper = cookie.as_ref().map(|cookie| cookie.thread());
        // SAFETY: between fork and exec the closure makes system calls only, on memory made before the fork.
        unsafe {
            command.pre_exec(move || {
                confine(&group, keeper)?;
                detach(&moves)
            });
        }
        let mut child = command.spawn()?;
        // Until here there is somebody to take the cookie from.
        drop(cookie);
        let pid = child
            .id()
            .ok_or_else(|| io::Error::other("the monitor ended at once"))?;
        let monitor = Self::watch(open(pid)?, pid)?;
        tokio::spawn(async move {
            match child.wait().await {
                Ok(status) if status.success() => {}
                Ok(status) if status.code() == Some(STATUS_OVER) => {
                    tracing::warn!(
                        pid,
                        "the node's lease is over: the monitor has ended itself"
                    );
                }
                Ok(status) => tracing::warn!(pid, %status, "monitor ended"),
                Err(error) => tracing::warn!(pid, %error, "waiting for the monitor"),
            }
        });
        Ok(monitor)
    }

    /// Takes up the monitor that another process has started in this group. Nobody but the kernel is asked.
    pub fn adopt(group: &Path) -> io::Result<Self> {
        let found = cgroup::process(group)?;
        let pid = found.ok_or_else(|| io::Error::other("its monitor has ended"))?;
        let pidfd = open(pid)?;
        // The number may have gone to another process before it was opened: the group tells whose it is now, and that this one still
        // lives then, that it is the one that is open.
        if cgroup::process(group)? != Some(pid) {
            return Err(io::Error::other("its monitor has ended just now"));
        }
        let monitor = Self::watch(pidfd, pid)?;
        monitor.check_alive()?;
        Ok(monitor)
    }

    /// An error once it has ended.
    pub fn check_alive(&self) -> io::Result<()> {
        let mut poll = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
        let ended = rustix::event::poll(&mut poll, Some(&Timespec::default()))? != 0;
        if ended {
            return Err(io::Error::other("its monitor has ended just now"));
        }
        Ok(())
    }

    fn watch(pidfd: OwnedFd, pid: u32) -> io::Result<Self> {
        // SAFETY: the descriptor is owned by what it is registered with, which never hands it out for closing.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE)? };
        let monitor = Self {
            pid,
            gone: CancellationToken::new(),
            pidfd: Arc::new(pidfd),
        };
        let watched = monitor.clone();
        tokio::spawn(async move {
            // Readable: ended. An error: can't be watched any more, which must not leave anybody waiting.
            let _ = watched.pidfd.readable().await;
            watched.gone.cancel();
        });
        Ok(monitor)
    }

    /// It looks at its node's lease again; one that has none is not bothered.
    pub fn look_again(&self) {
        // SAFETY: the descriptor is open, and there is nothing to be read at the null pointer.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.get_ref().as_raw_fd(),
                LOOK_AGAIN,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        let error = io::Error::last_os_error();
        if sent != 0 && error.raw_os_error() != Some(libc::ESRCH) {
            tracing::error!(pid = self.pid, %error, "telling a monitor of its lease; it is ended");
            self.kill();
        }
    }

    /// Ends it at once.
    pub fn kill(&self) {
        match pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::warn!(pid = self.pid, %error, "killing the monitor"),
        }
    }
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    let number = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("no process id"))?;
    Ok(pidfd_open(number, PidfdFlags::empty())?)
}

/// Runs in the child, first of all: from here on it is the pod's, and the one to end when memory does.
fn confine(group: &File, keeper: Option<libc::pid_t>) -> io::Result<()> {
    write(group, b"0")?;
    let score = rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY, Mode::empty())?;
    write(score, OOM_SCORE)?;
    keeper.map_or(Ok(()), cores::take)
}

/// Runs in the child: a session of its own, and each descriptor at its number.
fn detach(moves: &[(i32, i32)]) -> io::Result<()> {
    rustix::process::setsid()?;
    for (from, to) in moves {
        // SAFETY: plain system call; both numbers are the child's own, and nothing in it refers to what `to` was.
        if unsafe { libc::dup2(*from, *to) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
