//! What a monitor says on its standard error: on its way to the node's log, one event for what has come together.
//!
//! A pipe with a name in the pod's directory: what is said while no control runs is still in it for the next one. Whoever may have
//! broken into a monitor fills neither the log nor control's own output: it is read slowly, and quoted, and who says more waits.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

/// Bytes that are read at a time: some lines.
const READ_MAX: u64 = 4096;
/// From one reading to the next. Monitors have a line a minute to say, if their guest breaks rules.
const PAUSE: Duration = Duration::from_secs(10);

/// The end that is read.
pub struct Words(AsyncFd<File>);

impl Words {
    /// Makes the pipe; returns the monitor's end as well.
    pub fn make(path: &Path) -> io::Result<(Self, File)> {
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, path, FileType::Fifo, mode, 0)?;
        Ok((Self::open(path)?, end(path, 0)?))
    }

    /// That of a monitor that runs.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = end(path, libc::O_NONBLOCK)?;
        // SAFETY: the descriptor is owned by what it is registered with, which never hands it out for closing.
        let file = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE)? };
        Ok(Self(file))
    }

    /// Passes on until the monitor has `gone`, and what it said last.
    pub async fn pass_on(self, pod: String, gone: CancellationToken) {
        loop {
            let ended = tokio::select! {
                biased;
                () = gone.cancelled() => true,
                ready = self.0.readable() => match ready {
                    Ok(_) => false,
                    Err(_) => return,
                },
            };
            let said = self.read();
            if !said.is_empty() {
                tracing::warn!(pod, ?said, "monitor");
            }
            if ended {
                return;
            }
            tokio::select! {
                () = gone.cancelled() => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    fn read(&self) -> String {
        let mut said = Vec::new();
        // It ends with an error where the pipe is empty, and what came before that is there.
        let _ = self.0.get_ref().take(READ_MAX).read_to_end(&mut said);
        String::from_utf8_lossy(&said).trim_end().to_owned()
    }
}

/// Open for both directions, so that neither end finds the other one gone.
fn end(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn what_is_said_while_nobody_listens_is_there_for_the_next_who_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stderr");
        let (words, mut monitor) = Words::make(&path).unwrap();
        drop(words);
        monitor.write_all(b"vmm: \x1b[1mno\nlonger\n").unwrap();
        let words = Words::open(&path).unwrap();
        drop(monitor);
        assert_eq!(words.read(), "vmm: \x1b[1mno\nlonger");
        assert_eq!(words.read(), "");
    }

    #[tokio::test]
    async fn of_a_flood_a_little_is_read_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stderr");
        let (words, _monitor) = Words::make(&path).unwrap();
        let mut flood = end(&path, libc::O_NONBLOCK).unwrap();
        while flood.write(&[b'x'; 1024]).is_ok() {}
        assert_eq!(words.read().len(), READ_MAX as usize);
    }
}
