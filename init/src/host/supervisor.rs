//! Keeps the controller running.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, WaitStatus, kill_process};

use super::groups;
use crate::kmsg;

const CONTROL: &str = "/usr/lib/hearth/control";
/// Wait before the first restart; doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest wait: an owner who has mended something should not have to look for a reset button.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A controller that ran so long has not failed at its start: the wait begins anew.
const SETTLED: Duration = Duration::from_secs(60);
/// Lines kept to be shown when the controller ends.
const LAST_LINES: usize = 5;
/// Buffers of a controller's output that are passed on at a time: then it is everybody else's turn, however much it says.
const READS_MAX: usize = 16;
/// Longest line that is passed on; the rest follows as another.
const LINE_MAX: usize = 4096;

/// The controller's process, or the wait for the next.
pub struct Supervisor {
    state: State,
    backoff: Duration,
    /// What controllers say.
    logs: Vec<Log>,
    last_lines: VecDeque<String>,
}

enum State {
    /// Not to be started, or told to end.
    Stopped,
    /// To be started at this time.
    Waiting(Instant),
    Running {
        pid: Pid,
        since: Instant,
    },
}

struct Log {
    pipe: ChildStderr,
    line: Vec<u8>,
}

/// What happened, for the console.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// It runs.
    Started,
    /// It could not be started, or has ended; what it said last; when it is started again.
    Ended(String),
}

impl Supervisor {
    /// Starts nothing yet.
    pub fn new() -> Self {
        Self {
            state: State::Stopped,
            backoff: BACKOFF_MIN,
            logs: Vec::new(),
            last_lines: VecDeque::new(),
        }
    }

    /// From here on there is to be a controller.
    pub fn enable(&mut self) {
        self.state = State::Waiting(Instant::now());
    }

    /// It runs.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// When to call [`Supervisor::advance`].
    pub fn idle(&self) -> Option<Duration> {
        match self.state {
            State::Waiting(at) => Some(at.saturating_duration_since(Instant::now())),
            _ => None,
        }
    }

    /// What to wait for.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.logs.iter().map(|log| log.pipe.as_fd())
    }

    /// Passes on what was said, and starts the controller if that is due.
    pub fn advance(&mut self) -> Option<Event> {
        let lines = &mut self.last_lines;
        self.logs.retain_mut(|log| log.pass_on(lines));
        match self.state {
            State::Waiting(at) if at <= Instant::now() => Some(self.start()),
            _ => None,
        }
    }

    fn start(&mut self) -> Event {
        self.last_lines.clear();
        match spawn() {
            Ok((pid, pipe)) => {
                self.logs.push(Log {
                    pipe,
                    line: Vec::new(),
                });
                self.state = State::Running {
                    pid,
                    since: Instant::now(),
                };
                Event::Started
            }
            Err(error) => {
                let wait = self.wait_longer();
                Event::Ended(format!(
                    "{CONTROL} can't be started: {error}; next try in {}",
                    show(wait)
                ))
            }
        }
    }

    /// A child has ended; perhaps it was the controller.
    pub fn child_ended(&mut self, pid: Pid, status: WaitStatus) -> Option<Event> {
        let State::Running { pid: ours, since } = self.state else {
            return None;
        };
        if pid != ours {
            return None;
        }
        // Its last words are in the pipe.
        let lines = &mut self.last_lines;
        self.logs.retain_mut(|log| log.pass_on(lines));
        if since.elapsed() >= SETTLED {
            self.backoff = BACKOFF_MIN;
        }
        let how = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exited with status {code}"),
            (None, signal) => format!("was ended by signal {}", signal.unwrap_or(0)),
        };
        let wait = self.wait_longer();
        let said: Vec<String> = self.last_lines.drain(..).collect();
        Some(Event::Ended(format!(
            "the controller {how}; containers go on, the API is back in {}{}",
            show(wait),
            said.iter()
                .map(|line| format!("\n  | {line}"))
                .collect::<String>()
        )))
    }

    fn wait_longer(&mut self) -> Duration {
        let wait = self.backoff;
        self.state = State::Waiting(Instant::now() + wait);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        wait
    }

    /// Asks the controller to end, and starts none any more. False: none runs.
    pub fn stop(&mut self) -> bool {
        let State::Running { pid, .. } = self.state else {
            self.state = State::Stopped;
            return false;
        };
        // It may have ended by itself just now.
        let _ = kill_process(pid, Signal::TERM);
        true
    }
}

fn show(wait: Duration) -> String {
    format!("{:.1} s", wait.as_secs_f64())
}

fn spawn() -> io::Result<(Pid, ChildStderr)> {
    let group = OpenOptions::new()
        .write(true)
        .open(Path::new(groups::CONTROL).join("cgroup.procs"))?;
    let group = OwnedFd::from(group);
    let mut command = Command::new(CONTROL);
    command.env_clear().env("HOME", "/").current_dir("/");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let fd = group.as_raw_fd();
    let enter_group = move || {
        // SAFETY: write(2) of a constant to a descriptor that is open until after the fork.
        if unsafe { libc::write(fd, b"0".as_ptr().cast(), 1) } != 1 {
            return Err(io::Error::last_os_error());
        }
        let score = rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY, Mode::empty())?;
        rustix::io::write(score, groups::CONTROL_OOM_SCORE)?;
        // Signals that init reads from a descriptor are blocked, and a child inherits that: it would never hear SIGTERM.
        // SAFETY: the set is initialised by sigemptyset before it is used; the calls keep no pointer.
        unsafe {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only, on memory made before the fork.
    unsafe { command.pre_exec(enter_group) };
    let mut child = command.spawn()?;
    drop(group);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pipe = child
        .stderr
        .take()
        .ok_or_else(|| io::Error::other("no pipe"))?;
    rustix::fs::fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
    // Whoever waits for all children waits for this one.
    Ok((pid.ok_or_else(|| io::Error::other("no process id"))?, pipe))
}

impl Log {
    /// Writes whole lines to the kernel's log. False: nobody can say any more.
    fn pass_on(&mut self, last_lines: &mut VecDeque<String>) -> bool {
        let mut buffer = [0; 4096];
        for _ in 0..READS_MAX {
            match self.pipe.read(&mut buffer) {
                Ok(0) => {
                    self.end_line(last_lines);
                    return false;
                }
                Ok(length) => {
                    for &byte in &buffer[..length] {
                        if byte == b'\n' || self.line.len() >= LINE_MAX {
                            self.end_line(last_lines);
                        }
                        if byte != b'\n' {
                            self.line.push(byte);
                        }
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }

    fn end_line(&mut self, last_lines: &mut VecDeque<String>) {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        if line.is_empty() {
            return;
        }
        kmsg::log(&line);
        if last_lines.len() == LAST_LINES {
            last_lines.pop_front();
        }
        last_lines.push_back(line);
    }
}
