//! A Hearth node in QEMU: the image under test, with an identity and a disk of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use xtask::checks::EFI_VARIABLE;
use xtask::identity::Identity;
use xtask::qemu::{self, Accelerator, Boot, Forward, Machine, Protocol, Running};

use crate::api::{self, Api};
use crate::console;
use crate::docker::Docker;
use crate::process;
use crate::side::{self, Side};
use crate::stick;

/// The node's disk.
#[derive(Clone, Debug)]
pub enum Disk {
    /// None at all.
    None,
    /// A blank, sparse one of this many MiB.
    Blank(u64),
    /// What the file holds; the node gets the file itself.
    File(PathBuf),
}

/// How a node is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its disk.
    pub disk: Disk,
    /// MiB of memory.
    pub memory_mib: u64,
    /// One core with two hyper-threads.
    pub hyper_threads: bool,
    /// More sections of `hearth.toml`.
    pub configuration: String,
    /// Registries (`host:port`) that it may speak plain HTTP to.
    pub insecure: Vec<String>,
    /// Boot from a USB stick, which has the configuration on it too.
    pub stick: bool,
    /// Whether something beside the shipped image looks into the node; see [`Side`].
    pub side: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            disk: Disk::Blank(16 * 1024),
            memory_mib: 2048,
            hyper_threads: false,
            configuration: String::new(),
            insecure: vec![],
            stick: false,
            side: false,
        }
    }
}

/// A booted node. It ends with the test binary, or when it's dropped.
pub struct Node {
    dir: PathBuf,
    machine: Machine,
    api: Api,
    /// QEMU; none while the power is cut.
    child: Mutex<Option<Child>>,
    /// The forwards so far, by the node's port: each is asked for once.
    forwards: Mutex<BTreeMap<(Protocol, u16), u16>>,
    side: Option<Side>,
}

impl Node {
    /// Boots a node and waits for its API.
    #[track_caller]
    pub fn boot(setup: &Setup) -> Self {
        let node =
            Self::start(setup).unwrap_or_else(|error| panic!("can't boot a node: {error:#}"));
        node.wait_for_api();
        node
    }

    /// Starts a node without waiting for anything.
    pub fn start(setup: &Setup) -> Result<Self> {
        let efi = std::env::var_os(EFI_VARIABLE)
            .map(PathBuf::from)
            .with_context(|| {
                format!("{EFI_VARIABLE} isn't set: run the end-to-end tests by `cargo xtask test`")
            })?;
        ensure!(
            efi.is_file(),
            "{EFI_VARIABLE} names {}, which is no file",
            efi.display()
        );
        let dir = tempfile::Builder::new()
            .prefix("node-")
            .tempdir_in(crate::work_folder())?
            .keep();
        let identity = Identity::open(&dir.join("identity"), "hearth-1")?;
        let configuration = dir.join("hearth.toml");
        let text = identity.configuration(&setup.insecure) + &setup.configuration;
        fs::write(&configuration, text)?;

        let accelerator = Accelerator::probe(&kernel_of(&efi)?)?;
        let boot = if setup.side {
            xtask::side::boot(&efi, &dir.join("side"), "serve", &[])?
        } else if setup.stick {
            let stick = dir.join("stick");
            stick::make(&stick, &efi, &configuration)?;
            Boot::Stick(stick)
        } else {
            Boot::Firmware(efi)
        };
        let mut machine = Machine::new(&dir, boot, accelerator);
        machine.memory_mib = setup.memory_mib;
        machine.hyper_threads = setup.hyper_threads;
        if accelerator == Accelerator::Tcg {
            // QEMU's processors run code that another of them has just patched as it was before: KVM flips branches of the
            // running kernel with each VM (static keys), and the node dies of a breakpoint that is no longer there. One
            // processor sees its own writes.
            machine.cpus = 1;
        }
        machine.configuration = (!setup.stick).then_some(configuration);
        machine.disk = match &setup.disk {
            Disk::None => None,
            Disk::Blank(mib) => {
                let disk = dir.join("disk");
                File::create(&disk)?.set_len(mib << 20)?;
                Some(disk)
            }
            Disk::File(path) => Some(path.clone()),
        };
        let api_port = qemu::free_port(Protocol::Tcp)?;
        machine.forwards.push(Forward {
            protocol: Protocol::Tcp,
            host: api_port,
            machine: api::PORT,
        });
        let side = if setup.side {
            let port = qemu::free_port(Protocol::Tcp)?;
            machine.forwards.push(Forward {
                protocol: Protocol::Tcp,
                host: port,
                machine: side::PORT,
            });
            Some(Side::on(port))
        } else {
            None
        };
        console::show_with_failures(&dir);
        let node = Self {
            dir,
            machine,
            api: Api::on(api_port, identity),
            child: Mutex::default(),
            forwards: Mutex::default(),
            side,
        };
        node.power_on()?;
        Ok(node)
    }

    /// Starts QEMU, on the disk as it is.
    fn power_on(&self) -> Result<()> {
        let console = self.dir.join("console");
        if console.exists() {
            // The console of each boot is kept.
            let earlier = (1..)
                .map(|n| self.dir.join(format!("console.{n}")))
                .find(|path| !path.exists());
            fs::rename(&console, earlier.context("there is always another number")?)?;
        }
        let log = File::create(self.dir.join("qemu.log"))?;
        let mut command = self.machine.command()?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = process::spawn_bound(command).context("starting qemu-system-x86_64")?;
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    /// Waits until the owner's docker gets an answer.
    #[track_caller]
    pub fn wait_for_api(&self) {
        self.api.wait(
            || Some(format!("QEMU ended ({})", self.ended()?)),
            || console::tail(&self.dir) + &self.log(),
        );
    }

    /// Waits until the node's console shows `wanted`, for nodes that don't listen.
    #[track_caller]
    pub fn wait_for_console(&self, wanted: &str) {
        process::eventually(&format!("the console doesn't show {wanted:?}"), || {
            self.console().contains(wanted).then_some(())
        });
    }

    fn ended(&self) -> Option<std::process::ExitStatus> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_mut()?.try_wait().ok()?
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default()
    }

    /// Cuts the power: QEMU is killed where it stands.
    pub fn cut_power(&self) {
        let child = self
            .child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(mut child) = child {
            // It has ended by itself if killing it fails.
            let _ = child.kill();
            let _ = child.wait();
        }
        // The monitor of the next QEMU starts with nothing forwarded but what the machine says.
        self.forwards
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Gives the power back, and waits for the API.
    #[track_caller]
    pub fn restore_power(&self) {
        self.power_on()
            .unwrap_or_else(|error| panic!("can't boot the node again: {error:#}"));
        self.wait_for_api();
    }

    /// Presses the power button, and waits until the node has gone off by itself.
    #[track_caller]
    pub fn press_power_button(&self) {
        let pressed = self
            .running()
            .monitor()
            .and_then(|mut monitor| monitor.execute("system_powerdown", serde_json::json!({})));
        pressed.unwrap_or_else(|error| panic!("QEMU's monitor: {error:#}"));
        process::eventually("the node doesn't go off", || self.ended());
        self.cut_power();
    }

    /// Presses Ctrl-Alt-Del, and waits until the node restarts by itself. It stays off then.
    #[track_caller]
    pub fn press_ctrl_alt_del(&self) {
        let keys = ["ctrl", "alt", "delete"]
            .map(|key| serde_json::json!({ "type": "qcode", "data": key }));
        let pressed = self.running().monitor().and_then(|mut monitor| {
            monitor.execute("send-key", serde_json::json!({ "keys": keys }))
        });
        pressed.unwrap_or_else(|error| panic!("QEMU's monitor: {error:#}"));
        self.wait_for_reset();
    }

    /// Waits until the node restarts by itself. It stays off then.
    #[track_caller]
    pub fn wait_for_reset(&self) {
        process::eventually("the node doesn't restart", || self.ended());
        self.cut_power();
    }

    fn running(&self) -> Running {
        Running::attach(&self.dir)
    }

    /// What looks into the node; the node was set up with it.
    #[track_caller]
    pub fn side(&self) -> &Side {
        self.side.as_ref().expect("the node was set up with a side")
    }

    /// Everything on the console since the last boot.
    pub fn console(&self) -> String {
        self.running().console()
    }

    /// Its disk, if it has one.
    pub fn disk(&self) -> Option<&Path> {
        self.machine.disk.as_deref()
    }

    /// Its API.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The owner's docker CLI.
    pub fn docker(&self) -> Docker {
        self.api.docker()
    }

    /// Makes a port of the node appear on loopback; where.
    #[track_caller]
    pub fn forward(&self, node_port: u16, udp: bool) -> SocketAddr {
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        let mut forwards = self.forwards.lock().unwrap_or_else(PoisonError::into_inner);
        let port = *forwards.entry((protocol, node_port)).or_insert_with(|| {
            let host = qemu::free_port(protocol).expect("loopback has a free port");
            self.running()
                .forward(Forward {
                    protocol,
                    host,
                    machine: node_port,
                })
                .unwrap_or_else(|error| panic!("QEMU doesn't forward {node_port}: {error:#}"));
            host
        });
        SocketAddr::from(([127, 0, 0, 1], port))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.cut_power();
        console::hide(&self.dir);
        if !std::thread::panicking() {
            // Only what a failure needs is kept.
            let _ = fs::remove_file(self.dir.join("disk"));
        }
    }
}

/// The kernel in the image (UAPI Group specification 5, section `.linux`), to see how QEMU can run it.
fn kernel_of(efi: &Path) -> Result<PathBuf> {
    let kernel = xtask::paths::project().join("target/e2e/linux");
    let output = Command::new("objcopy")
        .args(["-O", "binary", "--only-section=.linux"])
        .arg(efi)
        .arg(&kernel)
        .output()
        .context("running objcopy (package binutils)")?;
    ensure!(
        output.status.success(),
        "objcopy finds no kernel in {}: {}",
        efi.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(kernel)
}
