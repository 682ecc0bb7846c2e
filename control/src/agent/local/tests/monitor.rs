//! A stand-in for the monitor and the guest in it: this test program, started again by a script, as a process of its own with the same
//! descriptors. It knows a few programs by name instead of running any.

use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use hearth_guest_protocol as protocol;
use hearth_vmm_api as api;
use protocol::{Error, Exit, Output, Reply, Request};

/// A program that behaves as the monitor does.
pub fn script(dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("vmm");
    let program = std::env::current_exe().unwrap();
    let text = format!(
        "#!/bin/sh\nexport {CGROUP}={}/cgroup\nexec {} --exact agent::local::tests::monitor::stand_in --ignored --nocapture\n",
        dir.display(),
        program.display()
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// Where the pods' groups are: an ordinary directory, in which nobody but the monitor itself keeps the list of processes.
const CGROUP: &str = "HEARTH_TEST_CGROUP";
/// The process that it claims to be; 0: itself.
static CLAIMED: AtomicU32 = AtomicU32::new(0);

/// It says of each piece of output that it is the last that can be counted.
static LEAPS: AtomicBool = AtomicBool::new(false);

#[derive(Default)]
struct Process {
    written: Vec<(bool, Vec<u8>)>,
    oom_kills: u64,
    /// The line drops after each piece of output.
    drops: bool,
    exit: Option<u8>,
}

#[derive(Default)]
struct Guest {
    main: Mutex<Process>,
    changed: Condvar,
}

impl Guest {
    fn write(&self, stderr: bool, data: &[u8]) {
        self.main
            .lock()
            .unwrap()
            .written
            .push((stderr, data.to_vec()));
        self.changed.notify_all();
    }

    fn exit(&self, code: u8) {
        self.main.lock().unwrap().exit.get_or_insert(code);
        self.changed.notify_all();
    }

    /// Everything from an offset on, in small pieces, then the exit.
    fn follow(&self, stream: &mut UnixStream, from: u64) -> Result<(), protocol::FrameError> {
        protocol::write(
            stream,
            &Reply::Started {
                pid: 2,
                init_age_ns: 0,
            },
        )?;
        for kills in 1..=self.main.lock().unwrap().oom_kills {
            protocol::write(stream, &Reply::OutOfMemory { kills })?;
        }
        let mut next = from;
        loop {
            let mut main = self.main.lock().unwrap();
            let (mut at, mut found) = (0u64, None);
            for (stderr, data) in &main.written {
                let end = at + data.len() as u64;
                if next < end {
                    found = Some((*stderr, data[(next - at) as usize..].to_vec()));
                    break;
                }
                at = end;
            }
            let reply = match (found, main.exit) {
                (Some((stderr, data)), _) => {
                    let offset = if LEAPS.load(Ordering::Relaxed) {
                        u64::MAX - 2
                    } else {
                        next
                    };
                    next += data.len() as u64;
                    Reply::Output(Output {
                        offset,
                        stderr,
                        data,
                    })
                }
                (None, Some(code)) => Reply::Exited(Exit {
                    code,
                    oom_killed: code == 99,
                    at_ns: 0,
                }),
                (None, None) => {
                    main = self.changed.wait(main).unwrap();
                    drop(main);
                    continue;
                }
            };
            drop(main);
            protocol::write(stream, &reply)?;
            if matches!(reply, Reply::Exited(_)) || self.main.lock().unwrap().drops {
                return Ok(());
            }
        }
    }

    fn start(&self, args: &[String]) -> Result<(), Error> {
        let number = || args[1].parse::<usize>().unwrap();
        match args[0].as_str() {
            "print" => {
                (0..number())
                    .for_each(|n| self.write(n % 3 == 2, format!("line {n}\n").as_bytes()));
                self.exit(0);
            }
            "drop-line" => {
                self.main.lock().unwrap().drops = true;
                (0..number()).for_each(|n| self.write(false, format!("line {n}\n").as_bytes()));
                self.exit(3);
            }
            "flood" => (0..number()).for_each(|_| self.write(false, &[b'x'; 8192])),
            "wait" => self.write(false, b"ready\n"),
            "hog" => {
                self.main.lock().unwrap().oom_kills = args[1].parse().unwrap();
                self.exit(0);
            }
            "fail" => self.exit(args[1].parse().unwrap()),
            "leap" => {
                LEAPS.store(true, Ordering::Relaxed);
                self.write(false, b"one ");
                self.write(false, b"two");
                self.exit(0);
            }
            "impostor" => CLAIMED.store(args[1].parse().unwrap(), Ordering::Relaxed),
            "cat" | "crash" => {}
            program => {
                let reason = "executable file not found in $PATH".into();
                return Err(Error::NotFound {
                    program: program.into(),
                    reason,
                });
            }
        }
        Ok(())
    }

    fn serve(self: &Arc<Self>, mut stream: UnixStream) -> Result<(), protocol::FrameError> {
        let mut port = [0; 4];
        stream.read_exact(&mut port)?;
        assert_eq!(u32::from_le_bytes(port), protocol::AGENT_PORT);
        let reply = match protocol::read::<Request>(&mut stream)? {
            Some(Request::Start(start)) if start.container.process.args[0] == "slow" => {
                // Boots until it is let: a file of that name.
                while !Path::new(&start.container.process.args[1]).exists() {
                    std::thread::yield_now();
                }
                self.write(false, b"ready\n");
                return self.follow(&mut stream, 0);
            }
            Some(Request::Start(start)) => match self.start(&start.container.process.args) {
                Ok(()) if start.container.process.args[0] == "crash" => {
                    protocol::write(
                        &mut stream,
                        &Reply::Started {
                            pid: 2,
                            init_age_ns: 0,
                        },
                    )?;
                    std::process::exit(1);
                }
                Ok(()) => return self.follow(&mut stream, 0),
                Err(error) => Reply::Error(error),
            },
            Some(Request::Follow { from, .. }) => return self.follow(&mut stream, from),
            Some(Request::Signal { signal, .. }) => {
                // SIGUSR1 makes it say something, every other ends it.
                match signal {
                    10 => self.write(false, b"tick\n"),
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
                protocol::write(
                    &mut stream,
                    &Reply::Started {
                        pid: 3,
                        init_age_ns: 0,
                    },
                )?;
                let data = exec.process.args.join(" ").into_bytes();
                protocol::write(
                    &mut stream,
                    &Reply::Output(Output {
                        offset: 0,
                        stderr: true,
                        data,
                    }),
                )?;
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

#[test]
#[ignore = "the program of the other tests' monitor processes"]
fn stand_in() {
    // SAFETY: by the contract of a monitor's start, this descriptor is this process's own.
    let config = unsafe { std::fs::File::from_raw_fd(api::CONFIG_FD) };
    let config: api::Config = serde_json::from_reader(config).unwrap();
    let group = PathBuf::from(std::env::var_os(CGROUP).unwrap()).join(&config.name);
    std::fs::write(group.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    // SAFETY: as above.
    let (commands, vsock) = unsafe {
        (
            UnixListener::from_raw_fd(config.api),
            UnixListener::from_raw_fd(config.vsock),
        )
    };
    std::thread::spawn(move || {
        for stream in commands.incoming() {
            let mut stream = stream.unwrap();
            let description = api::Description {
                name: config.name.clone(),
                pid: match CLAIMED.load(Ordering::Relaxed) {
                    0 => std::process::id(),
                    claimed => claimed,
                },
                paused: false,
                ready: true,
                exits_to_monitor: 0,
                exits: 0,
                running_since_ns: 0,
                reported_free: 0,
            };
            let mut line = serde_json::to_vec(&api::Answer::Description(description)).unwrap();
            line.push(b'\n');
            stream.write_all(&line).unwrap();
            std::mem::forget(stream);
        }
    });
    let guest = Arc::new(Guest::default());
    for stream in vsock.incoming() {
        let guest = Arc::clone(&guest);
        std::thread::spawn(move || drop(guest.serve(stream.unwrap())));
    }
}
