//! `cargo xtask try`: one node in QEMU, a first container in a microVM, and a docker context to go on with.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::identity::{self, Identity};
use crate::kernel::Kernel;
use crate::prerequisites::{self, Prerequisites};
use crate::qemu::{self, Accelerator, Boot, Forward, Machine, Protocol, Running};
use crate::{busybox, docker, image, paths, ports, process};

/// The node's name.
const NODE: &str = "hearth-1";

/// Where a node's Docker API listens.
pub const API_PORT: u16 = 2376;

/// More processors make nothing faster that one person tries out.
const MOST_CPUS: usize = 4;

/// How long a node may take from power on to answering. Minutes, for firmware and kernel run emulated on any machine.
const BOOT_TIMEOUT: Duration = Duration::from_secs(300);

/// How long after a failed attempt the API is asked again.
const ASK_INTERVAL: Duration = Duration::from_millis(300);

/// How long a node may take to shut down before its plug is pulled: longer than the minute after which the node itself gives
/// up on what doesn't stop.
const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(90);

/// How often the console is looked at for new lines.
const CONSOLE_INTERVAL: Duration = Duration::from_millis(200);

/// What a trial is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Leave the node running and return.
    pub detach: bool,
    /// Processors of the node; as many as are useful if it isn't said.
    pub cpus: Option<usize>,
    /// MiB of its memory.
    pub memory_mib: u64,
    /// MiB of its data disk, if the disk doesn't exist yet.
    pub disk_mib: u64,
    /// Show everything that the kernel says.
    pub kernel_log: bool,
}

/// Builds, boots, runs a first container, and stays.
pub fn run(options: &Options) -> Result<()> {
    let dir = dir()?;
    if Running::attach(&dir).is_running() {
        bail!(
            "a node is running already: use it by `docker --context hearth`, or end it by `cargo xtask try --stop`"
        );
    }
    let prerequisites = step("what the machine needs", prerequisites::ensure)?;
    let efi = step("hearth.efi", || image::build(&prerequisites))?;
    let accelerator = step("how to run it", || accelerator(&prerequisites))?;

    let port = if qemu::is_free(API_PORT) {
        API_PORT
    } else {
        qemu::free_port(Protocol::Tcp)?
    };
    let identity = Identity::open(&dir, NODE)?;
    docker::create_context(port, &identity.owner_dir())?;
    let machine = machine(&dir, &efi, accelerator, port, &identity, options)?;

    // From here on Ctrl-C must not leave a machine behind.
    let interrupted = interruption()?;
    let mut node = step("QEMU", || machine.start())?;
    let console = options
        .kernel_log
        .then(|| Console::follow(dir.join("console")));
    let version = step("the node's API", || wait_for_api(&mut node, &interrupted))?;
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
    if options.detach {
        forward_in_background(&dir)?;
        node.detach();
        println!(
            "It runs until `cargo xtask try --stop`; its console is {}",
            dir.join("console").display()
        );
        return Ok(());
    }
    println!(
        "Ctrl-C ends it; its console is {}",
        dir.join("console").display()
    );
    stay(node, &interrupted)
}

/// Shuts the node of an earlier trial down.
pub fn stop() -> Result<()> {
    let node = Running::attach(&dir()?);
    if !node.is_running() {
        println!("No node is running.");
        return Ok(());
    }
    power_off(node)
}

/// Forwards ports for a node that was left running, until it is gone.
pub fn forward_ports() -> Result<()> {
    let (_running, stopped) = mpsc::channel();
    ports::follow(&Running::attach(&dir()?), &stopped)
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

fn machine(
    dir: &Path,
    efi: &Path,
    accelerator: Accelerator,
    port: u16,
    identity: &Identity,
    options: &Options,
) -> Result<Machine> {
    let configuration = dir.join("hearth.toml");
    identity::write_private(&configuration, &identity.configuration(&[]))?;
    let disk = dir.join("disk");
    if !disk.exists() {
        File::create(&disk)?.set_len(options.disk_mib << 20)?;
    }
    let mut machine = Machine::new(dir, Boot::Firmware(efi.to_owned()), accelerator);
    let here = thread::available_parallelism().map_or(1, usize::from);
    machine.cpus = options
        .cpus
        .unwrap_or(accelerator.cpus(here.min(MOST_CPUS)));
    machine.memory_mib = options.memory_mib;
    machine.disk = Some(disk);
    machine.configuration = Some(configuration);
    machine.forwards = vec![Forward {
        protocol: Protocol::Tcp,
        host: port,
        machine: API_PORT,
    }];
    machine.extra_command_line = options.kernel_log.then(|| "loglevel=7".to_owned());
    Ok(machine)
}

/// Does one thing, and tells how long it took.
fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    eprintln!("  {what} …");
    let result = work().with_context(|| format!("{what} failed"))?;
    eprintln!("  {what}: {:.1} s", begun.elapsed().as_secs_f32());
    Ok(result)
}

fn wait_for_api(node: &mut Running, interrupted: &AtomicBool) -> Result<String> {
    let begun = Instant::now();
    let mut shown = 0;
    loop {
        let error = match docker::server_version() {
            Ok(version) => return Ok(version),
            Err(error) => error,
        };
        let console = node.console();
        let lines: Vec<&str> = console.lines().collect();
        if let Some(status) = node.try_wait()? {
            bail!(
                "the node went off ({status}). The end of its console:\n{}",
                end(&lines)
            );
        }
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        if begun.elapsed() > BOOT_TIMEOUT {
            bail!(
                "no answer in {} s: {error:#}\nThe end of its console:\n{}",
                BOOT_TIMEOUT.as_secs(),
                end(&lines)
            );
        }
        // The node tells its own progress; only the last line is complete for sure once another follows.
        for line in lines.iter().take(lines.len().saturating_sub(1)).skip(shown) {
            let line = readable(line);
            if !line.is_empty() {
                eprintln!("    {:>3} s  {line}", begun.elapsed().as_secs());
            }
        }
        shown = shown.max(lines.len().saturating_sub(1));
        thread::sleep(ASK_INTERVAL);
    }
}

/// A console line without what moves cursors and sets colours.
fn readable(line: &str) -> String {
    let mut text = String::new();
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            // A control sequence ends with its first letter.
            for inner in characters.by_ref() {
                if inner.is_ascii_alphabetic() {
                    break;
                }
            }
        } else if !character.is_control() {
            text.push(character);
        }
    }
    text.trim().to_owned()
}

fn end(lines: &[&str]) -> String {
    /// Enough to see a kernel's last words.
    const LINES: usize = 30;
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

fn first_container(busybox: &Path) -> Result<()> {
    let archive = busybox::build(busybox)?;
    step("loading busybox", || {
        process::capture(docker::command().arg("load").arg("--input").arg(&archive))
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
fn stay(mut node: Running, interrupted: &AtomicBool) -> Result<()> {
    let (running, stopped) = mpsc::channel();
    let watched = Running::attach(&dir()?);
    let forwarding = thread::spawn(move || ports::follow(&watched, &stopped));
    while !interrupted.load(Ordering::Relaxed) {
        if node.try_wait()?.is_some() {
            bail!("the node went off");
        }
        thread::sleep(CONSOLE_INTERVAL);
    }
    drop(running);
    power_off(node)?;
    // It ends when it sees that the node is gone, and has nothing left to do if it failed.
    let _ = forwarding.join();
    Ok(())
}

fn power_off(node: Running) -> Result<()> {
    eprintln!("  shutting down …");
    if node.power_off(POWER_OFF_TIMEOUT)? {
        println!("The node is off; what it stored is kept for the next time.");
    } else {
        println!(
            "The node didn't shut down in {} s: its plug was pulled.",
            POWER_OFF_TIMEOUT.as_secs()
        );
    }
    Ok(())
}

/// Starts this program once more, to watch over the ports of a node that stays.
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

/// Copies a growing console to stderr until it is dropped.
struct Console {
    ended: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Console {
    fn follow(path: PathBuf) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let ended = Arc::clone(&ended);
            move || {
                let mut at = 0;
                loop {
                    let last = ended.load(Ordering::Relaxed);
                    // Shown as an extra; a console that can't be read is no reason to stop a trial.
                    at = copy(&path, at).unwrap_or(at);
                    if last {
                        return;
                    }
                    thread::sleep(CONSOLE_INTERVAL);
                }
            }
        });
        Self {
            ended,
            thread: Some(thread),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panics only if stderr is gone.
            let _ = thread.join();
        }
    }
}

fn copy(path: &Path, at: u64) -> Result<u64> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    let mut fresh = Vec::new();
    file.read_to_end(&mut fresh)?;
    std::io::stderr().write_all(&fresh)?;
    Ok(at + fresh.len() as u64)
}
