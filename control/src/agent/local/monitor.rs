//! Monitor processes: started with their descriptors in place, watched through a pidfd, killed where they have to be.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use hearth_vmm_api as api;
use rustix::fs::MemfdFlags;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// Numbers below this are the child's; the parent's copies lie above, so that putting one in place never overwrites another.
const STAGING_FD: i32 = 64;
/// A monitor answers within a scheduling delay; one that doesn't is as good as gone.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

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

/// A running monitor.
#[derive(Clone)]
pub struct Monitor {
    /// Its process id.
    pub pid: u32,
    /// Cancelled once it is gone.
    pub gone: CancellationToken,
    pidfd: std::sync::Arc<AsyncFd<OwnedFd>>,
}

impl Monitor {
    /// Starts a monitor that outlives this process.
    pub fn spawn(
        program: &Path,
        config: &api::Config,
        inheritance: Inheritance,
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
            .stderr(Stdio::inherit())
            .current_dir("/");
        // SAFETY: between fork and exec the closure makes system calls only, on memory made before the fork.
        unsafe {
            command.pre_exec(move || detach(&moves));
        }
        let mut child = command.spawn()?;
        let pid = child
            .id()
            .ok_or_else(|| io::Error::other("the monitor ended at once"))?;
        let monitor = Self::watch(pid)?;
        tokio::spawn(async move {
            match child.wait().await {
                Ok(status) if status.success() => {}
                Ok(status) => tracing::warn!(pid, %status, "monitor ended"),
                Err(error) => tracing::warn!(pid, %error, "waiting for the monitor"),
            }
        });
        Ok(monitor)
    }

    /// Takes up a monitor that another process has started, if it answers on its socket.
    pub async fn adopt(socket: &Path) -> io::Result<Self> {
        let described = tokio::time::timeout(ANSWER_PATIENCE, async {
            let mut stream = BufReader::new(UnixStream::connect(socket).await?);
            let mut line = serde_json::to_vec(&api::Command::Describe)?;
            line.push(b'\n');
            stream.write_all(&line).await?;
            let mut answer = String::new();
            stream.read_line(&mut answer).await?;
            match serde_json::from_str(&answer)? {
                api::Answer::Description(description) => {
                    // The connection is still open, so this is its process and not a later one of the same number.
                    Self::watch(description.pid)
                }
                other => Err(io::Error::other(format!("{other:?}"))),
            }
        });
        described
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    fn watch(pid: u32) -> io::Result<Self> {
        let number = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("no process id"))?;
        let pidfd = pidfd_open(number, PidfdFlags::empty())?;
        // SAFETY: the descriptor is owned by what it is registered with, which never hands it out for closing.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE)? };
        let monitor = Self {
            pid,
            gone: CancellationToken::new(),
            pidfd: std::sync::Arc::new(pidfd),
        };
        let watched = monitor.clone();
        tokio::spawn(async move {
            // Readable: ended. An error: can't be watched any more, which must not leave anybody waiting.
            let _ = watched.pidfd.readable().await;
            watched.gone.cancel();
        });
        Ok(monitor)
    }

    /// Ends it at once.
    pub fn kill(&self) {
        match pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::warn!(pid = self.pid, %error, "killing the monitor"),
        }
    }
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
