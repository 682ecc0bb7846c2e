//! A connection whose bytes are a process's stdin.

use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use hearth_guest_protocol as protocol;
use hearth_guest_protocol::Reply;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::process::Process;

/// Bytes passed on at a time: what a pipe holds.
const BUFFER_LEN: usize = 64 << 10;

/// Passes on what comes until the host half-closes, which ends the process's stdin and is answered, or until the process no longer reads.
/// A connection that breaks or is closed altogether (as when the host's controller is killed) leaves stdin open for the next one.
pub fn pass_on(mut connection: UnixStream, process: &Process) {
    let Some(stdin) = process.stdin() else { return };
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        match connection.read(&mut buffer) {
            Ok(0) => {
                // Whoever still listens has meant it.
                if protocol::write(&mut connection, &Reply::Done).is_ok() {
                    process.close_stdin();
                }
                return;
            }
            Ok(length) => {
                if write_all(&stdin, process, &buffer[..length]).is_err() {
                    return;
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Writes to a descriptor that doesn't block, and gives up when the process ends.
fn write_all(stdin: &OwnedFd, process: &Process, mut data: &[u8]) -> rustix::io::Result<()> {
    while !data.is_empty() {
        match rustix::io::write(stdin, data) {
            Ok(length) => data = &data[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let pidfd = process.pidfd();
                let mut fds = [
                    PollFd::new(stdin, PollFlags::OUT),
                    PollFd::new(&pidfd, PollFlags::IN),
                ];
                poll(&mut fds, None)?;
                if !fds[1].revents().is_empty() {
                    return Err(Errno::PIPE);
                }
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
