//! `cargo xtask try`: nodes in QEMU, a first container in a microVM, and a docker context to go on with.

mod console;
mod network;
mod nodes;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::console::Console;
pub use self::network::serve;
use self::nodes::{Nodes, Plan};
use crate::kernel::Kernel;
use crate::prerequisites::{self, Prerequisites};
use crate::qemu::Accelerator;
use crate::{busybox, docker, image, paths, ports, process};

/// Where a node's Docker API listens.
pub const API_PORT: u16 = 2376;

/// How often it is looked whether nodes are still there.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// What a trial is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Leave the nodes running and return.
    pub detach: bool,
    /// How many nodes.
    pub nodes: u8,
    /// Processors of each; as many as are useful if it isn't said.
    pub cpus: Option<usize>,
    /// MiB of memory of each; what a node alone or one of several needs if it isn't said.
    pub memory_mib: Option<u64>,
    /// MiB of each one's data disk, if the disk doesn't exist yet.
    pub disk_mib: u64,
    /// Show everything that the first node's kernel says.
    pub kernel_log: bool,
}

/// Builds, boots, runs a first container, and stays.
pub fn run(options: &Options) -> Result<()> {
    let dir = dir()?;
    if Nodes::attach(&dir)?.is_some() {
        bail!(
            "a node is running already: use it by `docker --context hearth`, or end it by `cargo xtask try --stop`"
        );
    }
    nodes::check_count(&dir, options.nodes)?;
    let prerequisites = step("what the machine needs", prerequisites::ensure)?;
    let efi = step("hearth.efi", || image::build(&prerequisites))?;
    let accelerator = step("how to run it", || accelerator(&prerequisites))?;

    let plan = Plan::new(&dir, &efi, accelerator, options)?;
    docker::create_context(plan.first_port(), plan.owner_dir())?;

    // From here on Ctrl-C must not leave a machine behind.
    let interrupted = interruption()?;
    let mut nodes = step("QEMU", || plan.start())?;
    let console = options
        .kernel_log
        .then(|| Console::follow(dir.join("console")));
    let version = nodes.wait_for_apis(plan.owner_dir(), &interrupted)?;
    nodes.wait_for_each_other(&interrupted)?;
    first_container(&prerequisites.busybox)?;
    drop(console);

    println!(
        "\nHearth {version} runs. Go on with it:\n    docker --context {} run -it --rm busybox",
        docker::CONTEXT
    );
    println!(
        "    docker context use {}    (and leave out --context from then on)",
        docker::CONTEXT
    );
    nodes.introduce(plan.owner_dir());
    if options.detach {
        forward_in_background(&dir)?;
        nodes.detach();
        println!("It runs until `cargo xtask try --stop`.");
        return Ok(());
    }
    println!("Ctrl-C ends it.");
    stay(nodes, &interrupted)
}

/// Shuts the nodes of an earlier trial down.
pub fn stop() -> Result<()> {
    match Nodes::attach(&dir()?)? {
        Some(nodes) => nodes.power_off(),
        None => {
            println!("No node is running.");
            Ok(())
        }
    }
}

/// Forwards ports for nodes that were left running, until the first of them is gone.
pub fn forward_ports() -> Result<()> {
    let (_running, stopped) = mpsc::channel();
    let (first, gateway) = nodes::first(&dir()?)?;
    ports::follow(&first, &gateway, &stopped)
}

fn dir() -> Result<PathBuf> {
    Ok(paths::cache()?.join("try"))
}

fn accelerator(prerequisites: &Prerequisites) -> Result<Accelerator> {
    let kernel = Kernel::Host.build(&prerequisites.source)?;
    let accelerator = Accelerator::probe(&kernel.file)?;
    eprintln!(
        "    {}",
        match accelerator {
            Accelerator::Kvm => "KVM works here",
            _ =>
                "no KVM that runs virtual machines within virtual machines: QEMU emulates, which is slower",
        }
    );
    Ok(accelerator)
}

/// Does one thing, and tells how long it took.
fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    eprintln!("  {what} …");
    let result = work().with_context(|| format!("{what} failed"))?;
    eprintln!("  {what}: {:.1} s", begun.elapsed().as_secs_f32());
    Ok(result)
}

fn first_container(busybox: &Path) -> Result<()> {
    let mut archive = tempfile::NamedTempFile::new()?;
    archive.write_all(&busybox::archive(busybox)?)?;
    step("loading busybox", || {
        process::capture(
            docker::command()
                .arg("load")
                .arg("--input")
                .arg(archive.path()),
        )
    })?;
    let script = "echo \"Hello from $(uname -s) $(uname -r), a kernel of my own: up $(cut -d' ' -f1 /proc/uptime) s\"";
    let said = step("a first container", || {
        process::capture(docker::command().args(["run", "--rm", busybox::NAME, "sh", "-c", script]))
    })?;
    print!("{said}");
    std::io::stdout().flush()?;
    Ok(())
}

/// Set by Ctrl-C from now on.
fn interruption() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second one ends this process at once.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

/// Forwards published ports until Ctrl-C, then shuts down.
fn stay(mut nodes: Nodes, interrupted: &AtomicBool) -> Result<()> {
    let (running, stopped) = mpsc::channel();
    let (first, gateway) = nodes::first(&dir()?)?;
    let forwarding = thread::spawn(move || ports::follow(&first, &gateway, &stopped));
    while !interrupted.load(Ordering::Relaxed) {
        nodes.bury()?;
        thread::sleep(LOOK_INTERVAL);
    }
    drop(running);
    nodes.power_off()?;
    // It ends when it sees that the node is gone, and has nothing left to do if it failed.
    let _ = forwarding.join();
    Ok(())
}

/// Starts this program once more, to watch over the ports of nodes that stay.
fn forward_in_background(dir: &Path) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let log = File::create(dir.join("ports.log"))?;
    Command::new(std::env::current_exe()?)
        .arg("forward-ports")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("starting the forwarding of ports")?;
    Ok(())
}
