//! A process of a container: its output, its end, and who waits for them.
//!
//! One thread per process reads what it writes and waits for its end. Followers wait on a condition variable.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use hearth_guest_protocol::{Error, Exit, OUTPUT_CHUNK, Output, ProcessId};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::time::{ClockId, clock_gettime};

use super::cgroup::MemoryEvents;
use super::container::Container;
use super::launch::Launched;
use super::{pty, system};

/// Stack of a thread here, bytes. It calls nothing deep; the buffer is on the heap.
pub const THREAD_STACK: usize = 128 << 10;
/// Bytes that are still read from a pipe after the process's end, while other processes may go on writing into it: the most that a
/// pipe can hold without privileges (`/proc/sys/fs/pipe-max-size`), so nothing the process itself wrote is lost.
const DRAIN_MAX: usize = 1 << 20;

/// A process that was started.
pub struct Process {
    /// Names it.
    pub id: ProcessId,
    /// As the agent sees it.
    pub pid: u32,
    /// It is in this container.
    pub container: Arc<Container>,
    pidfd: OwnedFd,
    /// The agent's end of its terminal, while it runs.
    terminal: Mutex<Option<Arc<OwnedFd>>>,
    /// Where its stdin is written to, while that is open.
    stdin: Mutex<Option<Arc<OwnedFd>>>,
    /// What has been read and how it ended.
    state: Mutex<State>,
    /// `state` has changed.
    changed: Condvar,
    /// Wakes the reading thread when there is room again.
    room: OwnedFd,
}

#[derive(Default)]
struct State {
    output: super::output::OutputBuffer,
    /// Processes of the container that the kernel has killed for want of memory, where this is its main process.
    oom_kills: u64,
    exit: Option<Exit>,
}

/// The agent's ends of a process's descriptors.
pub struct Ends {
    /// Where output is read.
    pub sources: Vec<Source>,
    /// Where stdin is written, if anybody may.
    pub stdin: Option<Arc<OwnedFd>>,
    /// The terminal, if it has one.
    pub terminal: Option<Arc<OwnedFd>>,
}

/// A descriptor that output is read from; doesn't block.
pub struct Source {
    /// The descriptor.
    pub fd: Arc<OwnedFd>,
    /// It is stderr's.
    pub stderr: bool,
}

/// What comes next for a follower.
pub enum Next {
    /// Output from the offset on.
    Output(Output),
    /// The kernel has killed for want of memory, so many times by now.
    OutOfMemory(u64),
    /// All output has been handed over and the process has ended.
    Exited(Exit),
    /// The follower itself has gone.
    Gone,
}

impl Process {
    /// Takes charge of a process that has just been started. The `main` one of a container stands for it where memory runs out.
    pub fn watch(
        id: ProcessId,
        container: Arc<Container>,
        main: bool,
        launched: Launched,
        ends: Ends,
    ) -> Result<Arc<Self>, Error> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let process = Arc::new(Self {
            id,
            pid: launched.pid,
            container,
            pidfd: launched.pidfd,
            terminal: Mutex::new(ends.terminal),
            stdin: Mutex::new(ends.stdin),
            state: Mutex::default(),
            changed: Condvar::new(),
            room: eventfd(0, flags).map_err(system("watching a process"))?,
        });
        let watched = Arc::clone(&process);
        thread::Builder::new()
            .stack_size(THREAD_STACK)
            .spawn(move || watched.read_to_the_end(ends.sources, main))
            .map_err(system("watching a process"))?;
        Ok(process)
    }

    /// Stands for the process in system calls.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends a signal.
    pub fn signal(&self, number: i32) -> Result<(), Error> {
        if !(1..=64).contains(&number) {
            return Err(Error::Invalid(format!("{number} is no signal")));
        }
        // SAFETY: the number is sent on, never given a handler here, so even those that libc uses itself do no harm.
        let signal = unsafe { Signal::from_raw_unchecked(number) };
        match pidfd_send_signal(&self.pidfd, signal) {
            Err(Errno::SRCH) => Err(Error::Exited(self.id.clone())),
            result => result.map_err(system("sending a signal")),
        }
    }

    /// Sets the size of its terminal, if it has one.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), Error> {
        match &*lock(&self.terminal) {
            Some(terminal) => {
                pty::resize(terminal.as_fd(), rows, columns).map_err(system("resizing a terminal"))
            }
            None => Ok(()),
        }
    }

    /// Where its stdin is written to.
    pub fn stdin(&self) -> Option<Arc<OwnedFd>> {
        lock(&self.stdin).clone()
    }

    /// The process will read the end of its stdin. A terminal has no such end.
    pub fn close_stdin(&self) {
        if lock(&self.terminal).is_none() {
            *lock(&self.stdin) = None;
        }
    }

    /// It has ended and all its output has been read.
    pub fn has_ended(&self) -> bool {
        lock(&self.state).exit.is_some()
    }

    /// The host has everything before `offset`.
    pub fn acknowledge(&self, offset: u64) {
        if lock(&self.state).output.acknowledge(offset) {
            // Full would mean that the reader has plenty of wake-ups waiting.
            let _ = rustix::io::write(&self.room, &1u64.to_ne_bytes());
        }
    }

    /// Waits for what comes after `offset` of the output and after `oom_kills` kills.
    pub fn next(&self, offset: u64, oom_kills: u64, gone: &AtomicBool) -> Next {
        let mut state = lock(&self.state);
        loop {
            if gone.load(Ordering::Relaxed) {
                return Next::Gone;
            }
            if state.oom_kills > oom_kills {
                return Next::OutOfMemory(state.oom_kills);
            }
            if let Some(output) = state.output.next(offset) {
                return Next::Output(output);
            }
            if let Some(exit) = state.exit {
                return Next::Exited(exit);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sets a follower's `gone` and wakes it up to see it.
    pub fn give_up(&self, gone: &AtomicBool) {
        // Under the lock, so that it can't fall between a follower's look at it and its wait.
        let _state = lock(&self.state);
        gone.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Waits until the process has ended and its output has been read, but not for longer than `timeout`.
    pub fn wait(&self, timeout: std::time::Duration) {
        let state = lock(&self.state);
        let waited = self
            .changed
            .wait_timeout_while(state, timeout, |state| state.exit.is_none());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn read_to_the_end(&self, mut sources: Vec<Source>, main: bool) {
        let mut buffer = vec![0; OUTPUT_CHUNK];
        // A kernel that can't tell has nothing to report.
        let memory = self.container.cgroup().memory_events().ok();
        let watched = memory.as_ref().filter(|_| main);
        if let Some(memory) = watched {
            // What has been read once becomes ready when it changes.
            self.note_oom_kills(memory);
        }
        while !self.wait_or_read(&mut sources, watched, &mut buffer) {}
        let mut exit = self.reap();
        // What waits in the pipes is the process's last words.
        for source in sources {
            self.drain(&source, &mut buffer);
        }
        // Nobody can write to it any more, and a terminal is given back.
        *lock(&self.stdin) = None;
        *lock(&self.terminal) = None;
        if let Some(memory) = watched {
            // The kernel may be late with its sign of the last one.
            self.note_oom_kills(memory);
        }
        exit.oom_killed = memory.is_some_and(|memory| memory.oom_kills() > 0);
        lock(&self.state).exit = Some(exit);
        self.changed.notify_all();
    }

    fn note_oom_kills(&self, memory: &MemoryEvents) {
        let kills = memory.oom_kills();
        let mut state = lock(&self.state);
        if kills > state.oom_kills {
            state.oom_kills = kills;
            self.changed.notify_all();
        }
    }

    /// Waits for output, a want of memory or the end, and reads output. True: the process has ended.
    fn wait_or_read(
        &self,
        sources: &mut Vec<Source>,
        memory: Option<&MemoryEvents>,
        buffer: &mut [u8],
    ) -> bool {
        let has_room = lock(&self.state).output.room() > 0;
        let mut fds = vec![
            PollFd::new(&self.pidfd, PollFlags::IN),
            PollFd::new(&self.room, PollFlags::IN),
        ];
        // Before the sources, whose number changes.
        fds.extend(memory.map(|memory| PollFd::new(memory, PollFlags::PRI)));
        let first_source = fds.len();
        if has_room {
            fds.extend(
                sources
                    .iter()
                    .map(|source| PollFd::new(&source.fd, PollFlags::IN)),
            );
        }
        match poll(&mut fds, None) {
            Err(Errno::INTR) => return false,
            // Out of memory, at worst. The end is what must not be missed.
            Err(_) => return true,
            Ok(_) => {}
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        if ready[1] {
            let _ = rustix::io::read(&self.room, &mut [0; 8]);
        }
        if let Some(memory) = memory.filter(|_| ready[2]) {
            self.note_oom_kills(memory);
        }
        let mut at = first_source;
        sources.retain(|source| {
            let is_ready = ready.get(at).copied().unwrap_or(false);
            at += 1;
            !is_ready || self.read(source, buffer) != Read::End
        });
        ready[0]
    }

    fn read(&self, source: &Source, buffer: &mut [u8]) -> Read {
        let room = lock(&self.state).output.room().min(buffer.len());
        if room == 0 {
            return Read::Full;
        }
        match rustix::io::read(&source.fd, &mut buffer[..room]) {
            Ok(0) => Read::End,
            Ok(length) => {
                lock(&self.state)
                    .output
                    .push(source.stderr, &buffer[..length]);
                self.changed.notify_all();
                Read::Some(length)
            }
            Err(Errno::AGAIN) => Read::Nothing,
            Err(Errno::INTR) => Read::Some(0),
            // A terminal that nobody has open any more says EIO.
            Err(_) => Read::End,
        }
    }

    fn drain(&self, source: &Source, buffer: &mut [u8]) {
        let mut drained = 0;
        while drained < DRAIN_MAX {
            match self.read(source, buffer) {
                Read::Some(length) => drained += length,
                Read::Nothing | Read::End => return,
                Read::Full => {
                    let mut room = [PollFd::new(&self.room, PollFlags::IN)];
                    let _ = poll(&mut room, None);
                    let _ = rustix::io::read(&self.room, &mut [0; 8]);
                }
            }
        }
    }

    fn reap(&self) -> Exit {
        let status = loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Err(Errno::INTR) => {}
                result => break result.ok().flatten(),
            }
        };
        let code = status.map_or(255, |status| {
            match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => code as u8,
                (None, signal) => 128 + signal.unwrap_or(0) as u8,
            }
        });
        let now = clock_gettime(ClockId::Realtime);
        let at_ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        Exit {
            code,
            oom_killed: false,
            at_ns,
        }
    }
}

#[derive(PartialEq, Eq)]
enum Read {
    Some(usize),
    Nothing,
    Full,
    End,
}

/// A thread that failed while it held a lock has not left anything half done that others rely on.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
