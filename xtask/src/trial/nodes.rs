//! The nodes of a trial, on one Ethernet segment. The first one's files are in the trial's folder, each other's in a folder of its own
//! within: what one node has stored is there when others join it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::network::Network;
use super::{API_PORT, Options, console, step};
use crate::identity::{self, Identity};
use crate::qemu::{
    self, Accelerator, Boot, Forward, Gateway, Machine, Protocol, Running, Segment, address_in,
};
use crate::{docker, process};

/// More processors make nothing faster that one person tries out.
const MOST_CPUS: usize = 4;

/// MiB of a node alone: room for a few containers of any kind.
const MEMORY_ALONE_MIB: u64 = 2048;
/// MiB of each of several: three of them on a laptop that does other things too.
const MEMORY_AMONG_MIB: u64 = 1024;

/// How long a node may take from power on to answering. Minutes, for firmware and kernel run emulated on any machine.
const BOOT_TIMEOUT: Duration = Duration::from_secs(300);

/// How long nodes that answer may take until all of them are one: seconds; here, too, on any machine.
const MEET_TIMEOUT: Duration = Duration::from_secs(180);

/// How long after a failed attempt the API is asked again.
const ASK_INTERVAL: Duration = Duration::from_millis(300);

/// How long a node may take to shut down before its plug is pulled: longer than the minute after which the node itself gives
/// up on what doesn't stop.
const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(90);

/// Refuses to start fewer nodes than there have been: they are a cluster, and a few of them wait for the others.
pub(super) fn check_count(dir: &Path, nodes: u8) -> Result<()> {
    let kept = (1..=u8::MAX)
        .take_while(|number| node_dir(dir, *number).join("disk").exists())
        .count();
    if kept > 1 && kept > usize::from(nodes) {
        bail!(
            "the nodes of earlier trials are a cluster of {kept}, and fewer of them decide nothing: start all by --nodes {kept}, or remove {} to begin anew",
            dir.display()
        );
    }
    Ok(())
}

/// Nodes to be started.
pub(super) struct Plan {
    segment: Segment,
    segment_dir: PathBuf,
    owner_dir: PathBuf,
    /// Machine, and the port of loopback for its API.
    machines: Vec<(Machine, u16)>,
}

impl Plan {
    /// Makes whatever nodes need that isn't there from an earlier trial.
    pub(super) fn new(
        dir: &Path,
        efi: &Path,
        accelerator: Accelerator,
        options: &Options,
    ) -> Result<Self> {
        let kept = (1..=u8::MAX)
            .take_while(|number| node_dir(dir, *number).join("disk").exists())
            .count();
        if kept > usize::from(options.nodes.max(1)) {
            bail!(
                "the nodes of earlier trials are a cluster of {kept}, and fewer of them decide nothing: start them by --nodes {kept}, or remove {} to begin anew",
                dir.display()
            );
        }
        let segment_dir = segment_dir(dir);
        let segment = Segment::plan(&segment_dir, options.nodes)?;
        let memory_mib = options.memory_mib.unwrap_or(if options.nodes > 1 {
            MEMORY_AMONG_MIB
        } else {
            MEMORY_ALONE_MIB
        });
        let mut owner_dir = dir.to_owned();
        let mut machines = Vec::new();
        for (number, plug) in (1..).zip(segment.machines()) {
            // One CA and one owner: the folder is the same.
            let identity = Identity::open(dir, &name(number))?;
            owner_dir = identity.owner_dir();
            let dir = node_dir(dir, number);
            fs::create_dir_all(&dir)?;
            let configuration = dir.join("hearth.toml");
            // One file does for all nodes of a cluster; in these each has a name, for a person to read.
            let text = match options.nodes > 1 {
                true => identity.cluster_configuration(Some(&name(number)), &[], &[])?,
                false => identity.configuration(&[]),
            };
            identity::write_private(&configuration, &text)?;
            let disk = dir.join("disk");
            if !disk.exists() {
                File::create(&disk)?.set_len(options.disk_mib << 20)?;
            }
            let mut machine = Machine::new(&dir, Boot::Firmware(efi.to_owned()), accelerator);
            let here = thread::available_parallelism().map_or(1, usize::from);
            machine.cpus = options
                .cpus
                .unwrap_or(accelerator.cpus(here.min(MOST_CPUS)));
            machine.memory_mib = memory_mib;
            machine.disk = Some(disk);
            machine.configuration = Some(configuration);
            machine.network = qemu::Network::Segment(*plug);
            machine.extra_command_line = options.kernel_log.then(|| "loglevel=7".to_owned());
            let port = if number == 1 && qemu::is_free(API_PORT) {
                API_PORT
            } else {
                qemu::free_port(Protocol::Tcp)?
            };
            machines.push((machine, port));
        }
        Ok(Self {
            segment,
            segment_dir,
            owner_dir,
            machines,
        })
    }

    /// The port of loopback where the first node's API will be.
    pub(super) fn first_port(&self) -> u16 {
        self.machines.first().map_or(API_PORT, |(_, port)| *port)
    }

    /// The folder with the owner's `ca.pem`, `cert.pem` and `key.pem`.
    pub(super) fn owner_dir(&self) -> &Path {
        &self.owner_dir
    }

    /// Starts what connects the nodes, and all nodes.
    pub(super) fn start(&self) -> Result<Nodes> {
        let network = Network::start(&self.segment, &self.segment_dir)?;
        let mut nodes = Vec::new();
        for (number, (machine, port)) in (1..).zip(&self.machines) {
            nodes.push(Node {
                name: name(number),
                dir: machine.dir.clone(),
                port: *port,
                running: machine.start()?,
            });
        }
        Ok(Nodes { nodes, network })
    }
}

fn name(number: u8) -> String {
    format!("hearth-{number}")
}

fn node_dir(dir: &Path, number: u8) -> PathBuf {
    match number {
        1 => dir.to_owned(),
        other => dir.join(name(other)),
    }
}

fn segment_dir(dir: &Path) -> PathBuf {
    dir.join("segment")
}

/// The first node of a trial that runs, and the way to its ports.
pub(super) fn first(dir: &Path) -> Result<(Running, Gateway)> {
    let running = Running::attach(&node_dir(dir, 1));
    let address = address_in(&running.console()).context("the first node has no address")?;
    Ok((running, qemu::gateway(&segment_dir(dir), address)))
}

/// A node that was started.
struct Node {
    name: String,
    dir: PathBuf,
    port: u16,
    running: Running,
}

/// The nodes that run, and what connects them. Whoever started them ends them with this value, unless it was detached.
pub(super) struct Nodes {
    nodes: Vec<Node>,
    network: Network,
}

impl Nodes {
    /// Those of an earlier trial that still run; none if none does.
    pub(super) fn attach(dir: &Path) -> Result<Option<Self>> {
        let mut nodes = Vec::new();
        for number in 1..=u8::MAX {
            let node_dir = node_dir(dir, number);
            if !node_dir.exists() {
                break;
            }
            let running = Running::attach(&node_dir);
            if running.is_running() {
                nodes.push(Node {
                    name: name(number),
                    dir: node_dir,
                    port: API_PORT,
                    running,
                });
            }
        }
        Ok((!nodes.is_empty()).then(|| Self {
            nodes,
            network: Network::attach(&segment_dir(dir)),
        }))
    }

    /// Waits for all of them; the first one's version.
    pub(super) fn wait_for_apis(
        &mut self,
        owner_dir: &Path,
        interrupted: &AtomicBool,
    ) -> Result<String> {
        let mut first = None;
        for node in &mut self.nodes {
            let version = step(&format!("the API of {}", node.name), || {
                node.wait_for_api(self.network.dir(), owner_dir, interrupted)
            })?;
            first.get_or_insert(version);
        }
        first.context("a trial has a node")
    }

    /// Waits until all of them are one cluster, and a first one of them says so.
    pub(super) fn wait_for_each_other(&mut self, interrupted: &AtomicBool) -> Result<()> {
        let count = self.nodes.len();
        if count < 2 {
            return Ok(());
        }
        step("the nodes find each other", || {
            let begun = Instant::now();
            loop {
                // One that joins the others' cluster begins anew, and doesn't answer meanwhile.
                let listed = process::capture_within(
                    docker::command().args(["node", "ls", "--format", "{{.Status}}"]),
                    docker::ANSWER_TIMEOUT,
                );
                let seen = match &listed {
                    Ok(text) => text.lines().filter(|line| *line == "Ready").count(),
                    Err(_) => 0,
                };
                if seen == count {
                    return Ok(());
                }
                if interrupted.load(Ordering::Relaxed) {
                    bail!("interrupted");
                }
                self.bury()?;
                if begun.elapsed() > MEET_TIMEOUT {
                    bail!(
                        "after {} s `docker node ls` shows {seen} nodes that are ready, not {count}: {listed:?}",
                        MEET_TIMEOUT.as_secs()
                    );
                }
                thread::sleep(ASK_INTERVAL);
            }
        })
    }

    /// Prints where each of them is.
    pub(super) fn introduce(&self, owner_dir: &Path) {
        let several = self.nodes.len() > 1;
        for node in &self.nodes {
            println!(
                "{}: tcp://127.0.0.1:{}, its console is {}",
                node.name,
                node.port,
                node.dir.join("console").display()
            );
            if several {
                println!(
                    "    kill -9 $(cat {})    (pulls its plug)",
                    node.dir.join("pid").display()
                );
            }
        }
        if several {
            let certificates = owner_dir.display();
            println!(
                "They are one: the context leads to the first, which answers for all.\n    docker --context {} node ls\nAny other does as well:\n    DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH={certificates} docker -H tcp://127.0.0.1:PORT ps",
                docker::CONTEXT
            );
        }
    }

    /// Leaves all of them running when this value goes.
    pub(super) fn detach(self) {
        for node in self.nodes {
            node.running.detach();
        }
        self.network.detach();
    }

    /// Forgets those that went off; an error when none is left.
    pub(super) fn bury(&mut self) -> Result<()> {
        for at in (0..self.nodes.len()).rev() {
            if self.nodes[at].running.try_wait()?.is_some() {
                println!("{} went off", self.nodes.remove(at).name);
            }
        }
        if self.nodes.is_empty() {
            bail!("no node is left");
        }
        Ok(())
    }

    /// Shuts all of them down at the same time.
    pub(super) fn power_off(self) -> Result<()> {
        eprintln!("  shutting down …");
        let outcomes = thread::scope(|scope| {
            let going: Vec<_> = self
                .nodes
                .into_iter()
                .map(|node| {
                    scope.spawn(move || (node.name, node.running.power_off(POWER_OFF_TIMEOUT)))
                })
                .collect();
            going
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect::<Vec<_>>()
        });
        drop(self.network);
        for (name, went) in outcomes {
            if went? {
                println!("{name} is off; what it stored is kept for the next time.");
            } else {
                println!(
                    "{name} didn't shut down in {} s: its plug was pulled.",
                    POWER_OFF_TIMEOUT.as_secs()
                );
            }
        }
        Ok(())
    }
}

impl Node {
    fn wait_for_api(
        &mut self,
        segment_dir: &Path,
        owner_dir: &Path,
        interrupted: &AtomicBool,
    ) -> Result<String> {
        let begun = Instant::now();
        let mut shown = 0;
        let mut forwarded = false;
        loop {
            let text = self.running.console();
            if !forwarded && let Some(address) = address_in(&text) {
                qemu::gateway(segment_dir, address).forward(Forward {
                    protocol: Protocol::Tcp,
                    host: self.port,
                    machine: API_PORT,
                })?;
                forwarded = true;
            }
            let error = match docker::server_version(self.port, owner_dir) {
                Ok(version) => return Ok(version),
                Err(error) => error,
            };
            let lines: Vec<&str> = text.lines().collect();
            if let Some(status) = self.running.try_wait()? {
                bail!(
                    "the node went off ({status}). The end of its console:\n{}",
                    console::end(&lines)
                );
            }
            if interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            if begun.elapsed() > BOOT_TIMEOUT {
                bail!(
                    "no answer in {} s: {error:#}\nThe end of its console:\n{}",
                    BOOT_TIMEOUT.as_secs(),
                    console::end(&lines)
                );
            }
            // The node tells its own progress; only the last line is complete for sure once another follows.
            for line in lines.iter().take(lines.len().saturating_sub(1)).skip(shown) {
                let line = console::readable(line);
                if !line.is_empty() {
                    eprintln!("    {:>3} s  {line}", begun.elapsed().as_secs());
                }
            }
            shown = shown.max(lines.len().saturating_sub(1));
            thread::sleep(ASK_INTERVAL);
        }
    }
}
