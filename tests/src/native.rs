//! A node without a machine: the `control` of the image as a process of this one, in a root, a network and a process table of its own.
//! It runs as on a node, from the same files in the same places; only that a scripted monitor is started where a node has the real one.
//!
//! It is for what needs no virtual machine. It starts within a second.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;

use anyhow::{Context, Result, ensure};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use xtask::identity::Identity;

use crate::api::{self, Api};
use crate::{console, relay};

/// The program of this crate that is started as the monitor.
const MONITOR: &str = "native-monitor";
/// What a node has in its root; [`HEARTH`] is the image's own.
const DIRECTORIES: [&str; 10] = [
    "data",
    "dev",
    "lib",
    "lib64",
    "proc",
    "run/hearth",
    "sys/fs/cgroup/pods",
    "tmp",
    "etc",
    HEARTH,
];
/// Our part of the image.
const HEARTH: &str = "usr/lib/hearth";
/// A network and mounts.
const NAMESPACES: UnshareFlags = UnshareFlags::NEWNS.union(UnshareFlags::NEWNET);
/// What init would have found out.
const FACTS: &str = "hostname = \"hearth-1\"\nstorage = \"disk\"\nstorage_device = \"the tests' memory\"\nsiblings = false\n";

/// A node without a machine. It ends with the test binary.
pub struct Native {
    api: Api,
}

/// Whether this machine lets us make what a node without a machine has of its own.
pub fn possible() -> bool {
    let namespaces = thread::spawn(|| {
        // SAFETY: none of the flags concerns the file table.
        unsafe { unshare_unsafe(NAMESPACES | UnshareFlags::NEWPID) }.is_ok()
    });
    Path::new("/dev/net/tun").exists() && namespaces.join().unwrap_or(false)
}

/// What a node without a machine is made from.
struct Plan {
    root: PathBuf,
    /// The image's root, as it was laid out.
    image: PathBuf,
    monitor: PathBuf,
    configuration: String,
    console: File,
    /// Clients come in by this.
    api: TcpListener,
    /// Ports of this machine's loopback that are the node's as well.
    ports: Vec<u16>,
}

impl Native {
    /// Starts one and waits for its API. It reaches these ports of this machine's loopback on its own, and may speak plain HTTP to the
    /// `insecure` ones.
    #[track_caller]
    pub fn start(ports: &[u16], insecure: &[String]) -> Self {
        Self::try_start(ports, insecure)
            .unwrap_or_else(|error| panic!("can't start a node without a machine: {error:#}"))
    }

    fn try_start(ports: &[u16], insecure: &[String]) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("native-")
            .tempdir_in(crate::work_folder())?
            .keep();
        let identity = Identity::open(&dir.join("identity"), "hearth-1")?;
        let root = dir.join("root");
        fs::create_dir(&root)?;
        let image = xtask::paths::build().join("root");
        ensure!(
            image.join(HEARTH).join("control").is_file(),
            "{} isn't laid out: run the end-to-end tests by `cargo xtask test`",
            image.display()
        );
        let monitor = program(MONITOR)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let plan = Plan {
            root,
            image,
            monitor,
            configuration: identity.configuration(insecure),
            console: File::create(dir.join("console"))?,
            api: listener,
            ports: ports.to_vec(),
        };
        console::show_with_failures(&dir);
        let ended = Arc::new(OnceLock::new());
        let started = inhabit(plan, Arc::clone(&ended));
        for (listener, port) in started.recv().context("its thread has ended")?? {
            relay::start(listener, port);
        }
        let api = Api::on(port, identity);
        api.wait(|| ended.get().cloned(), || console::tail(&dir));
        Ok(Self { api })
    }

    /// Its API.
    pub fn api(&self) -> &Api {
        &self.api
    }
}

/// Beside this test binary, where cargo puts programs of its package: `target/debug`, one above `deps`.
fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent);
    let path = folder.context("a test binary is in a folder")?.join(name);
    ensure!(path.is_file(), "there is no {}", path.display());
    Ok(path)
}

/// The node's ports that lead out to those of this machine.
type Exits = Vec<(TcpListener, u16)>;

/// Makes the node's surroundings and starts control in them, on a thread that lives as long as control: the kernel ends both with this
/// process, and what control has started with control.
fn inhabit(plan: Plan, ended: Arc<OnceLock<String>>) -> Receiver<Result<Exits>> {
    let (tell, told) = sync_channel(1);
    thread::spawn(move || {
        let prepared = surround(&plan).and_then(|exits| {
            relay::start(plan.api.try_clone()?, api::PORT);
            Ok((exits, command(&plan)?))
        });
        let spawned = prepared.and_then(|(exits, mut command)| {
            // From here on this thread can start processes only. The first is the table's PID 1: when it ends, so do all others in it.
            // SAFETY: the flag doesn't concern the file table.
            unsafe { unshare_unsafe(UnshareFlags::NEWPID) }.context("a process table")?;
            let child = command.spawn().context("starting control")?;
            Ok((exits, child))
        });
        match spawned {
            Ok((exits, mut child)) => {
                // Who asked has gone: then this process is about to.
                let _ = tell.send(Ok(exits));
                let end = match child.wait() {
                    Ok(status) => format!("control ended ({status})"),
                    Err(error) => format!("control is lost ({error})"),
                };
                // It is told once.
                let _ = ended.set(end);
            }
            Err(error) => drop(tell.send(Err(error))),
        }
    });
    told
}

/// Gives the calling thread, and what it starts, a network and mounts of its own, with the node's root among these.
fn surround(plan: &Plan) -> Result<Exits> {
    // SAFETY: neither flag concerns the file table.
    unsafe { unshare_unsafe(NAMESPACES) }.context("a network and mounts")?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    let root = &plan.root;
    let fresh = |kind: &std::ffi::CStr, place: &str| {
        mount(kind, root.join(place), kind, MountFlags::empty(), None)
            .with_context(|| format!("mounting {kind:?} on /{place}"))
    };
    fresh(c"tmpfs", "")?;
    for directory in DIRECTORIES {
        fs::create_dir_all(root.join(directory))?;
    }
    fresh(c"tmpfs", "data")?;
    fresh(c"proc", "proc")?;
    mount_bind_recursive("/dev", root.join("dev"))?;
    let hearth = root.join(HEARTH);
    mount_bind(plan.image.join(HEARTH), &hearth)?;
    mount_bind(&plan.monitor, hearth.join("vmm"))?;
    // The monitor in its place isn't linked statically.
    for libraries in ["lib", "lib64"] {
        mount_bind(Path::new("/").join(libraries), root.join(libraries))?;
    }
    let run = root.join("run/hearth");
    fs::write(run.join("hearth.toml"), &plan.configuration)?;
    let version = env!("CARGO_PKG_VERSION");
    fs::write(
        run.join("node.toml"),
        format!("version = {version:?}\n{FACTS}"),
    )?;
    // Loopback isn't up yet: control does that, as on a node.
    let exits = plan.ports.iter().map(|port| {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port))?;
        Ok((listener, *port))
    });
    exits.collect()
}

/// Control in the node's root.
fn command(plan: &Plan) -> Result<Command> {
    let mut command = Command::new(Path::new("/").join(HEARTH).join("control"));
    command
        .env_clear()
        .stdin(Stdio::null())
        .stdout(plan.console.try_clone()?)
        .stderr(plan.console.try_clone()?);
    let root = plan.root.clone();
    // SAFETY: the closure runs between fork and exec and makes system calls only, on memory made before the fork.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            rustix::process::chroot(root.as_path())?;
            rustix::process::chdir("/")?;
            Ok::<(), io::Error>(())
        });
    }
    Ok(command)
}
