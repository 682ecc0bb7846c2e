//! From the kernel to the first connection.
//!
//! Every step here is paid for by every container that starts, so there is none that could as well be taken later.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use hearth_guest_protocol::{AGENT_PORT, KNOCK_PORT};
use rustix::fs::{Mode, mkdir};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::vsock::{self, Listener};
use super::{Agent, Places, cgroup};
use hearth_pid1::{kmsg, root, stdio};

/// Stack of a connection's thread, bytes: decoding a frame and building a container go no deeper than a few KiB.
const CONNECTION_STACK: usize = 256 << 10;
/// Pause after a failed accept, which is a want of memory or descriptors that time may mend.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Open files, soft and hard: what docker's containers have from its daemon, and as many as the kernel allows (`fs.nr_open`).
const OPEN_FILES: Rlimit = Rlimit {
    current: Some(1 << 20),
    maximum: Some(1 << 20),
};

/// When PID 1 began.
static BEGUN: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds since PID 1 began; 0 in a process that isn't PID 1.
pub fn age_ns() -> u64 {
    BEGUN.get().map_or(0, |begun| {
        u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    })
}

/// Runs PID 1. Returns an exit status, and thereby ends the machine, only if it can't become the agent.
pub fn run() -> i32 {
    BEGUN.get_or_init(Instant::now);
    match start() {
        Ok(never) => match never {},
        Err((doing, error)) => {
            kmsg::log(&format!("guest-init: {doing}: {error}"));
            1
        }
    }
}

fn start() -> Result<Infallible, (&'static str, io::Error)> {
    // Of the two, only the directory for the new root can exist already.
    let _ = mkdir("/vm", Mode::from_raw_mode(0o755));
    make_root().map_err(|e| ("mounting", e.into()))?;
    stdio::fill().map_err(|e| ("opening /dev/null", e))?;
    kmsg::log_panics("guest-init");
    // SAFETY: SIG_IGN is no function of ours. A broken connection is an error of the write then, not the end of PID 1.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    set_limits().map_err(|e| ("setting limits", e.into()))?;

    let places = Places {
        devices: PathBuf::from("/dev"),
        containers: PathBuf::from("/run"),
        cgroup: PathBuf::from("/cgroup"),
        program: PathBuf::from("/proc/self/exe"),
    };
    cgroup::enable_controllers(&places.cgroup);
    let agent = Arc::new(Agent::new(places).map_err(|e| ("opening guest-init's own file", e))?);
    let listener = Listener::bind(AGENT_PORT).map_err(|e| ("listening on vsock", e))?;
    // Kept until the first connection: it need not be answered, only sent.
    let knock = vsock::begin_connect(KNOCK_PORT).map_err(|e| ("knocking at the host", e))?;
    serve(&listener, &agent, knock)
}

/// Mounts a tmpfs to be the root, with the kernel's file systems in it: one that containers can leave.
fn make_root() -> rustix::io::Result<()> {
    let none = MountFlags::empty();
    mount(
        c"root",
        c"/vm",
        c"tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        c"mode=755",
    )?;
    for path in ["/vm/dev", "/vm/proc", "/vm/cgroup", "/vm/run"] {
        mkdir(path, Mode::from_raw_mode(0o755))?;
    }
    mount(c"dev", c"/vm/dev", c"devtmpfs", none, None)?;
    mount(c"proc", c"/vm/proc", c"proc", none, None)?;
    mount(c"cgroup", c"/vm/cgroup", c"cgroup2", none, None)?;
    root::move_over("/vm")
}

fn set_limits() -> rustix::io::Result<()> {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    setrlimit(Resource::Nofile, OPEN_FILES)?;
    setrlimit(Resource::Nproc, unlimited)
}

fn serve(listener: &Listener, agent: &Arc<Agent>, knock: OwnedFd) -> ! {
    let mut knock = Some(knock);
    loop {
        let connection = match listener.accept() {
            Ok(connection) => connection,
            Err(error) => {
                kmsg::log(&format!("guest-init: accepting a connection: {error}"));
                thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        drop(knock.take());
        let agent = Arc::clone(agent);
        let thread = thread::Builder::new()
            .stack_size(CONNECTION_STACK)
            .spawn(move || {
                if let Err(error) = agent.serve(connection) {
                    kmsg::log(&format!("guest-init: {error}"));
                }
            });
        if let Err(error) = thread {
            // The connection is closed with the closure; the host will try again.
            kmsg::log(&format!("guest-init: starting a thread: {error}"));
        }
    }
}
