//! A node without a machine: the `control` of the image as a process of this one, in a root, a network and a process table of its own.
//! It runs as on a node, from the same files in the same places; only that a scripted monitor is started where a node has the real one.
//!
//! It is for what needs no virtual machine. It starts within a second. Several of them, each in a network of its own behind one bridge, are a
//! cluster ([`Cluster`]), whose nodes are killed and cut off as machines are.

mod bridge;

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use xtask::identity::Identity;

use crate::api::{self, Api};
use crate::docker::Docker;
use crate::process::eventually;
use crate::{console, relay};
use bridge::{Bridge, Cable};

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
/// Between two looks whether control still runs.
const LOOK: Duration = Duration::from_millis(100);
/// Our part of the image.
const HEARTH: &str = "usr/lib/hearth";
/// A network and mounts.
const NAMESPACES: UnshareFlags = UnshareFlags::NEWNS.union(UnshareFlags::NEWNET);
/// What init would have found out.
const FACTS: &str =
    "storage = \"disk\"\nstorage_device = \"the tests' memory\"\nsiblings = false\n";
/// What is gone after a boot: all of /run but what init has written there.
const RUN: &str = "run/hearth";

/// A node without a machine. It ends with the test binary.
pub struct Native {
    api: Api,
    dir: PathBuf,
    orders: Sender<Order>,
    ended: Arc<Mutex<Option<String>>>,
    is_dead: AtomicBool,
}

/// What the thread that has a node's surroundings is asked for.
enum Order {
    /// Control ends at once, with all that it has started; then its data is as it left it, and nothing else is left.
    Kill(SyncSender<()>),
    /// Control is told that the node goes down, and ends in its own time; then as above.
    Stop(SyncSender<()>),
    /// It is started.
    Start(SyncSender<()>),
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
    hostname: String,
    console: File,
    /// Its cable; None: it is alone.
    cable: Option<Cable>,
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
        let started = Self::try_start(ports, insecure, "").inspect(Self::wait);
        started.unwrap_or_else(|error| panic!("can't start a node without a machine: {error:#}"))
    }

    /// The same, which reaches nothing, with more at the end of its `hearth.toml`.
    #[track_caller]
    pub fn configured(more: &str) -> Self {
        let started = Self::try_start(&[], &[], more).inspect(Self::wait);
        started.unwrap_or_else(|error| panic!("can't start a node without a machine: {error:#}"))
    }

    fn try_start(ports: &[u16], insecure: &[String], more: &str) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("native-")
            .tempdir_in(crate::work_folder())?
            .keep();
        let hostname = "hearth-1";
        let identity = Identity::open(&dir.join("identity"), hostname)?;
        let configuration = identity.configuration(insecure) + more;
        Self::inhabit(dir, hostname, identity, configuration, None, ports)
    }

    fn inhabit(
        dir: PathBuf,
        hostname: &str,
        identity: Identity,
        configuration: String,
        cable: Option<Cable>,
        ports: &[u16],
    ) -> Result<Self> {
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
            configuration,
            hostname: hostname.to_owned(),
            console: File::create(dir.join("console"))?,
            cable,
            api: listener,
            ports: ports.to_vec(),
        };
        console::show_with_failures(&dir);
        let ended = Arc::default();
        let (orders, started) = inhabit(plan, Arc::clone(&ended));
        for (listener, port) in started.recv().context("its thread has ended")?? {
            relay::start(listener, port);
        }
        Ok(Self {
            api: Api::on(port, identity),
            dir,
            orders,
            ended,
            is_dead: AtomicBool::new(false),
        })
    }

    fn wait(&self) {
        let ended = || {
            let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            ended.clone()
        };
        self.api.wait(ended, || console::tail(&self.dir));
    }

    /// Ends it at once, with all that runs there.
    pub fn kill(&self) {
        self.order(Order::Kill);
        self.is_dead.store(true, Ordering::SeqCst);
    }

    /// Has it go down in order.
    pub fn stop(&self) {
        self.order(Order::Stop);
        self.is_dead.store(true, Ordering::SeqCst);
    }

    fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::SeqCst)
    }

    /// Starts it again, as after a boot, and waits for its API.
    #[track_caller]
    pub fn start_again(&self) {
        self.power_on();
        self.wait();
    }

    /// Starts it again, and waits for nothing.
    pub fn power_on(&self) {
        self.order(Order::Start);
        self.is_dead.store(false, Ordering::SeqCst);
    }

    #[track_caller]
    fn order(&self, order: impl FnOnce(SyncSender<()>) -> Order) {
        let (tell, told) = sync_channel(0);
        let sent = self.orders.send(order(tell));
        sent.ok()
            .and_then(|()| told.recv().ok())
            .expect("its thread lives as long as the test binary");
    }

    /// What control has said since it was made.
    pub fn console(&self) -> String {
        fs::read_to_string(self.dir.join("console")).unwrap_or_default()
    }

    /// Its API.
    pub fn api(&self) -> &Api {
        &self.api
    }
}

/// A program of this package, beside this one: cargo puts test binaries into `deps`, one below.
fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let mut folders = own.ancestors().skip(1).take(2);
    let found = folders.find_map(|folder| Some(folder.join(name)).filter(|path| path.is_file()));
    found.with_context(|| format!("there is no {name} beside {}", own.display()))
}

/// The node's ports that lead out to those of this machine.
type Exits = Vec<(TcpListener, u16)>;

/// Makes the node's surroundings and starts control in them, on a thread that lives as long as the test binary: the kernel ends control with
/// it, and what control has started with control.
fn inhabit(
    plan: Plan,
    ended: Arc<Mutex<Option<String>>>,
) -> (Sender<Order>, Receiver<Result<Exits>>) {
    let (tell, told) = sync_channel(1);
    let (orders, ordered) = channel();
    thread::spawn(move || {
        let prepared = surround(&plan).and_then(|exits| {
            relay::start(plan.api.try_clone()?, api::PORT);
            Ok((exits, spawn(&plan)?))
        });
        let (exits, child) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return drop(tell.send(Err(error))),
        };
        // Who asked has gone: then this process is about to.
        let _ = tell.send(Ok(exits));
        let mut running = Some(child);
        let say = |end: Option<String>| {
            *ended.lock().unwrap_or_else(PoisonError::into_inner) = end;
        };
        loop {
            match ordered.recv_timeout(LOOK) {
                Ok(Order::Kill(done)) => {
                    if let Some(mut child) = running.take() {
                        // Errors: it has ended.
                        let _ = child.kill();
                        let _ = child.wait();
                    }
                    clear(&plan.root.join(RUN));
                    let _ = done.send(());
                }
                Ok(Order::Stop(done)) => {
                    if let Some(mut child) = running.take() {
                        // Errors: it has ended.
                        let _ = kill_process(Pid::from_child(&child), Signal::TERM);
                        let _ = child.wait();
                    }
                    clear(&plan.root.join(RUN));
                    let _ = done.send(());
                }
                Ok(Order::Start(done)) => {
                    say(None);
                    match spawn(&plan) {
                        Ok(child) => running = Some(child),
                        Err(error) => say(Some(format!("{error:#}"))),
                    }
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {
                    let status = running.as_mut().map(Child::try_wait);
                    if let Some(Ok(Some(status))) = status {
                        running = None;
                        say(Some(format!("control ended ({status})")));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    });
    (orders, told)
}

/// Removes what a boot would.
fn clear(run: &Path) {
    let kept = ["hearth.toml", "node.toml"];
    for entry in fs::read_dir(run).into_iter().flatten().flatten() {
        if !kept.iter().any(|name| entry.file_name() == *name) {
            let path = entry.path();
            // Errors: it isn't a directory, or not a file.
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
    }
}

/// Starts control in a process table of its own. From here on this thread can start nothing else until the next.
fn spawn(plan: &Plan) -> Result<Child> {
    let table = File::open("/proc/self/ns/pid").context("this process's table")?;
    // What this thread starts is in its own table again, as a new one is made only from there.
    move_into_link_name_space(table.as_fd(), Some(LinkNameSpaceType::ProcessID))
        .context("back to the process table")?;
    // The first is the table's PID 1: when it ends, so do all others in it.
    // SAFETY: the flag doesn't concern the file table.
    unsafe { unshare_unsafe(UnshareFlags::NEWPID) }.context("a process table")?;
    command(plan)?.spawn().context("starting control")
}

/// Gives the calling thread, and what it starts, a network and mounts of its own, with the node's root among these.
fn surround(plan: &Plan) -> Result<Exits> {
    // SAFETY: neither flag concerns the file table.
    unsafe { unshare_unsafe(NAMESPACES) }.context("a network and mounts")?;
    if let Some(cable) = &plan.cable {
        cable.plug_in()?;
    }
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
        format!(
            "version = {version:?}\nhostname = {:?}\n{FACTS}",
            plan.hostname
        ),
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

/// Nodes without machines on one network, counted from 0.
pub struct Cluster {
    nodes: Vec<Native>,
    bridge: Bridge,
}

impl Cluster {
    /// Starts so many at the same time, with the same file, and waits until all have their API and each knows all others.
    #[track_caller]
    pub fn start(nodes: u8) -> Self {
        Self::try_start(nodes)
            .unwrap_or_else(|error| panic!("can't start nodes without machines: {error:#}"))
    }

    fn try_start(nodes: u8) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("natives-")
            .tempdir_in(crate::work_folder())?
            .keep();
        let bridge = Bridge::start()?;
        let mut started = Vec::new();
        for number in 1..=nodes {
            let hostname = format!("hearth-{number}");
            let identity = Identity::open(&dir.join("identity"), &hostname)?;
            let configuration = identity.cluster_configuration(Some(&hostname), &[], &[])?;
            let dir = dir.join(&hostname);
            fs::create_dir(&dir)?;
            let cable = bridge.cable(number);
            started.push(Native::inhabit(
                dir,
                &hostname,
                identity,
                configuration,
                Some(cable),
                &[],
            )?);
        }
        started.iter().for_each(Native::wait);
        let cluster = Self {
            nodes: started,
            bridge,
        };
        cluster.wait_for_members(nodes.into());
        Ok(cluster)
    }

    /// Waits until every node sees so many that are ready.
    #[track_caller]
    pub fn wait_for_members(&self, count: usize) {
        for node in &self.nodes {
            eventually("the nodes don't find each other", || {
                let listed = node
                    .api()
                    .docker()
                    .run(&["node", "ls", "--format", "{{.Status}}"]);
                let ready = listed
                    .text()
                    .lines()
                    .filter(|line| *line == "Ready")
                    .count();
                (listed.code == Some(0) && ready == count).then_some(())
            });
        }
    }

    /// Mends all cables, starts those that were killed, and waits until all see each other.
    #[track_caller]
    pub fn restore(&self) {
        for (number, node) in self.nodes.iter().enumerate() {
            self.heal(number);
            if node.is_dead() {
                node.power_on();
            }
        }
        self.nodes.iter().for_each(Native::wait);
        self.wait_for_members(self.nodes.len());
    }

    /// A node.
    pub fn node(&self, node: usize) -> &Native {
        &self.nodes[node]
    }

    /// The owner's docker CLI, at that node.
    pub fn docker(&self, node: usize) -> Docker {
        self.nodes[node].api().docker()
    }

    /// Cuts a node's cable.
    pub fn cut(&self, node: usize) {
        self.bridge.set(node as u8 + 1, false);
    }

    /// Mends it.
    pub fn heal(&self, node: usize) {
        self.bridge.set(node as u8 + 1, true);
    }
}
