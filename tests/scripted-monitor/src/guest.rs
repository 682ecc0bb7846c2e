//! The guest: it knows a few programs by name instead of running any.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hearth_guest_protocol as protocol;
use protocol::{Error, Exit, FrameError, Output, Reply, Request};

use crate::Said;

/// The exit code that comes with a want of memory.
const OUT_OF_MEMORY: u8 = 99;
/// SIGUSR1, which makes the process say something.
const USER_SIGNAL: i32 = 10;

/// The container's main process.
#[derive(Default)]
struct Process {
    written: Vec<(bool, Vec<u8>)>,
    oom_kills: u64,
    /// The line drops after each piece of output.
    drops: bool,
    /// It says of each piece of output that it is the last that can be counted.
    leaps: bool,
    exit: Option<u8>,
}

/// What follows once a program has been found.
enum Next {
    Follow,
    /// The monitor ends right after the start.
    Crash,
}

pub struct Guest {
    // Guards the process; the condition variable tells of every change.
    main: Mutex<Process>,
    changed: Condvar,
    said: Arc<Said>,
}

impl Guest {
    pub fn new(said: Arc<Said>) -> Self {
        Self {
            main: Mutex::default(),
            changed: Condvar::new(),
            said,
        }
    }

    fn main(&self) -> MutexGuard<'_, Process> {
        self.main.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, stderr: bool, data: &[u8]) {
        self.main().written.push((stderr, data.to_vec()));
        self.changed.notify_all();
    }

    fn exit(&self, code: u8) {
        self.main().exit.get_or_insert(code);
        self.changed.notify_all();
    }

    /// Everything from an offset on, in small pieces, then the exit.
    fn follow(&self, stream: &mut UnixStream, from: u64) -> Result<(), FrameError> {
        started(stream, 2)?;
        let wants = self.main().oom_kills;
        for kills in 1..=wants {
            protocol::write(stream, &Reply::OutOfMemory { kills })?;
        }
        let mut next = from;
        loop {
            let mut main = self.main();
            let reply = loop {
                if let Some((stderr, data)) = main.piece(next) {
                    let offset = if main.leaps { u64::MAX - 2 } else { next };
                    next += data.len() as u64;
                    break Reply::Output(Output {
                        offset,
                        stderr,
                        data,
                    });
                }
                if let Some(code) = main.exit {
                    break Reply::Exited(Exit {
                        code,
                        oom_killed: code == OUT_OF_MEMORY,
                        at_ns: 0,
                    });
                }
                main = self
                    .changed
                    .wait(main)
                    .unwrap_or_else(PoisonError::into_inner);
            };
            let drops = main.drops;
            drop(main);
            protocol::write(stream, &reply)?;
            if drops || matches!(reply, Reply::Exited(_)) {
                return Ok(());
            }
        }
    }

    /// Starts the program: first those that tests of the agent ask for, then such as people run, as far as they are told apart from
    /// outside.
    fn start(self: &Arc<Self>, args: &[String]) -> Result<Next, Error> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        match *args {
            ["print", lines] => {
                (0..number(lines)).for_each(|n| self.line(n % 3 == 2, n));
                self.exit(0);
            }
            ["drop-line", lines] => {
                self.main().drops = true;
                (0..number(lines)).for_each(|n| self.line(false, n));
                self.exit(3);
            }
            ["flood", pieces] => {
                (0..number(pieces)).for_each(|_| self.write(false, &[b'x'; 8192]));
            }
            ["wait"] => self.write(false, b"ready\n"),
            ["slow", until] => {
                // Boots until it is let: a file of that name.
                while !Path::new(until).exists() {
                    std::thread::yield_now();
                }
                self.write(false, b"ready\n");
            }
            ["hog", kills] => {
                self.main().oom_kills = number(kills);
                self.exit(0);
            }
            ["fail", code] => self.exit(number(code) as u8),
            ["sh", "-c", script] => match script.strip_prefix("exit ") {
                Some(code) => self.exit(number(code) as u8),
                None => return Err(not_found("sh", "the scripted monitor knows `exit N` only")),
            },
            ["leap"] => {
                self.main().leaps = true;
                self.write(false, b"one ");
                self.write(false, b"two");
                self.exit(0);
            }
            ["impostor", pid] => self.said.pid.store(number(pid) as u32, Ordering::Relaxed),
            ["crash"] => return Ok(Next::Crash),
            ["cat"] => {}
            ["true"] => self.exit(0),
            ["echo", ref words @ ..] => {
                self.write(false, format!("{}\n", words.join(" ")).as_bytes());
                self.exit(0);
            }
            ["sleep", seconds] => {
                let (guest, seconds) = (Arc::clone(self), number(seconds));
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_secs(seconds));
                    guest.exit(0);
                });
            }
            _ => {
                let program = args.first().copied().unwrap_or_default();
                return Err(not_found(program, "executable file not found in $PATH"));
            }
        }
        Ok(Next::Follow)
    }

    fn line(&self, stderr: bool, number: u64) {
        self.write(stderr, format!("line {number}\n").as_bytes());
    }

    /// Answers one connection.
    pub fn serve(self: &Arc<Self>, mut stream: UnixStream) -> Result<(), FrameError> {
        let mut port = [0; 4];
        stream.read_exact(&mut port)?;
        if u32::from_le_bytes(port) != protocol::AGENT_PORT {
            return Err(io::Error::other("nobody listens on that port").into());
        }
        let reply = match protocol::read::<Request>(&mut stream)? {
            Some(Request::Start(start)) => match self.start(&start.container.process.args) {
                Ok(Next::Follow) => return self.follow(&mut stream, 0),
                Ok(Next::Crash) => {
                    started(&mut stream, 2)?;
                    std::process::exit(1);
                }
                Err(error) => Reply::Error(error),
            },
            Some(Request::Follow { from, .. }) => return self.follow(&mut stream, from),
            Some(Request::Signal { signal, .. }) => {
                match signal {
                    USER_SIGNAL => self.write(false, b"tick\n"),
                    other => self.exit(128 + other as u8),
                }
                Reply::Done
            }
            Some(Request::Input { .. }) => {
                protocol::write(&mut stream, &Reply::Done)?;
                let mut buffer = [0; 1000];
                loop {
                    match stream.read(&mut buffer)? {
                        0 => break,
                        n => self.write(false, &buffer[..n]),
                    }
                }
                self.exit(0);
                return Ok(());
            }
            Some(Request::Exec(exec)) => {
                started(&mut stream, 3)?;
                let output = Output {
                    offset: 0,
                    stderr: true,
                    data: exec.process.args.join(" ").into_bytes(),
                };
                protocol::write(&mut stream, &Reply::Output(output))?;
                Reply::Exited(Exit {
                    code: 7,
                    oom_killed: false,
                    at_ns: 0,
                })
            }
            Some(Request::Shutdown) => {
                protocol::write(&mut stream, &Reply::Done)?;
                std::process::exit(0);
            }
            Some(_) => Reply::Done,
            None => return Ok(()),
        };
        protocol::write(&mut stream, &reply)
    }
}

impl Process {
    /// What was written at an offset, up to the end of that piece.
    fn piece(&self, offset: u64) -> Option<(bool, Vec<u8>)> {
        let mut at = 0;
        for (stderr, data) in &self.written {
            let end = at + data.len() as u64;
            if offset < end {
                return Some((*stderr, data[(offset - at) as usize..].to_vec()));
            }
            at = end;
        }
        None
    }
}

fn started(stream: &mut UnixStream, pid: u32) -> Result<(), FrameError> {
    let started = Reply::Started {
        pid,
        init_age_ns: 0,
    };
    protocol::write(stream, &started)
}

/// An argument of a script.
fn number(text: &str) -> u64 {
    text.parse()
        .unwrap_or_else(|_| panic!("{text:?} is no number"))
}

fn not_found(program: &str, reason: &str) -> Error {
    Error::NotFound {
        program: program.to_owned(),
        reason: reason.to_owned(),
    }
}
