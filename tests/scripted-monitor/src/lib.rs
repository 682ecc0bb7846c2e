//! A stand-in for the monitor and the guest in it, for tests of what needs no virtual machine: it takes the same descriptors, and
//! behind the same sockets a scripted [`guest`] speaks the guest protocol.
//!
//! It is in no wall and boots nothing; its node's lease it keeps to as the monitor does. What a container's program really does is shown on a booted node.

mod guest;

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use hearth_vmm_api as api;
use hearth_vmm_api::lease::{self, Page};

use self::guest::Guest;

/// What the monitor says of itself, as far as a script changes it.
#[derive(Default)]
struct Said {
    /// The process that it claims to be; 0: itself.
    pid: AtomicU32,
    /// It was asked to stand still.
    paused: AtomicBool,
}

/// Serves as the monitor that this process has been started as, until the guest is shut down. `groups` is where the pods' control groups
/// are; where that is an ordinary directory, nobody else keeps the list of their processes.
///
/// # Safety
///
/// The process has a monitor's descriptors, [`api::CONFIG_FD`] first, and nothing else in it uses them.
pub unsafe fn serve(groups: &Path) -> io::Result<()> {
    // SAFETY: by the contract of a monitor's start, this descriptor is this process's own.
    let config = unsafe { File::from_raw_fd(api::CONFIG_FD) };
    let config: api::Config = serde_json::from_reader(config)?;
    if let Some(fd) = config.lease {
        // SAFETY: by the contract of a monitor's start, this descriptor is this process's own.
        let page = Page::map(unsafe { OwnedFd::from_raw_fd(fd) }).map_err(io::Error::other)?;
        lease::keep(page)?;
    }
    let group = groups.join(&config.name);
    std::fs::write(group.join("cgroup.procs"), std::process::id().to_string())?;
    // SAFETY: as above.
    let (commands, vsock) = unsafe {
        (
            UnixListener::from_raw_fd(config.api),
            UnixListener::from_raw_fd(config.vsock),
        )
    };
    let said = Arc::new(Said::default());
    let guest = Arc::new(Guest::new(Arc::clone(&said)));
    thread::spawn(move || {
        // Connections stay open: whoever commands a monitor sees by their end that it is gone.
        let mut open = Vec::new();
        for stream in commands.incoming().filter_map(Result::ok) {
            if let Ok(stream) = answer(stream, &config.name, &said) {
                open.push(stream);
            }
        }
    });
    for stream in vsock.incoming() {
        let (stream, guest) = (stream?, Arc::clone(&guest));
        // A line that drops is the host's business.
        thread::spawn(move || drop(guest.serve(stream)));
    }
    Ok(())
}

/// Answers the one command of a connection. What it is to do it says that it has done.
fn answer(mut stream: UnixStream, name: &str, said: &Said) -> io::Result<UnixStream> {
    let mut asked = String::new();
    io::BufReader::new(&stream).read_line(&mut asked)?;
    let answer = match serde_json::from_str(&asked)? {
        api::Command::Describe => api::Answer::Description(describe(name, said)),
        command => {
            said.paused
                .store(command == api::Command::Pause, Ordering::Relaxed);
            api::Answer::Done
        }
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    Ok(stream)
}

fn describe(name: &str, said: &Said) -> api::Description {
    api::Description {
        name: name.to_owned(),
        pid: match said.pid.load(Ordering::Relaxed) {
            0 => std::process::id(),
            claimed => claimed,
        },
        paused: said.paused.load(Ordering::Relaxed),
        ready: true,
        exits_to_monitor: 0,
        exits: 0,
        running_since_ns: 0,
        reported_free: 0,
    }
}
