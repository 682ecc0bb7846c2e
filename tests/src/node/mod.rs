//! A Hearth node in QEMU: the image under test, with an identity and a disk of its own.

mod setup;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

pub use self::setup::{Disk, Place, Setup};
use anyhow::{Context, Result, bail, ensure};
use xtask::checks::EFI_VARIABLE;
use xtask::identity::Identity;
use xtask::qemu::{
    self, Accelerator, Boot, Forward, Gateway, Machine, Meter, Network, Protocol, Running, Segment,
};

use crate::api::{self, Api};
use crate::console;
use crate::docker::Docker;
use crate::process;
use crate::side::{self, Side};
use crate::stick;

/// In a node's folder: where its instructions and wakes are counted.
const COUNTS: &str = "counts";

/// What an emulated machine has done since it was started.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Executed.
    pub instructions: u64,
    /// How often its processor had halted, and something woke it.
    pub wakes: u64,
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
    /// Where it is on a network that it shares.
    shared: Option<Shared>,
}

/// A node's place on a network that it shares.
struct Shared {
    segment: Segment,
    /// The address that it had when ports were forwarded to it; none before.
    address: Mutex<Option<Ipv4Addr>>,
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
        let (identity, own) = match &setup.place {
            Some(place) => {
                let identity = Identity::open(&place.identity, &place.name)?;
                // One file would do for all of them; cases tell them apart by their names.
                let own =
                    identity.cluster_configuration(Some(&place.name), &[], &setup.insecure)?;
                (identity, own)
            }
            None => {
                let identity = Identity::open(&dir.join("identity"), "hearth-1")?;
                let own = identity.configuration(&setup.insecure);
                (identity, own)
            }
        };
        let configuration = dir.join("hearth.toml");
        let text = own + &setup.configuration;
        fs::write(&configuration, text)?;

        let accelerator = match setup.meter {
            Some(_) => Accelerator::Tcg,
            None => Accelerator::probe(&kernel_of(&efi)?)?,
        };
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
        let mut forwards = BTreeMap::from([((Protocol::Tcp, api::PORT), api_port)]);
        let side = if setup.side {
            let port = qemu::free_port(Protocol::Tcp)?;
            forwards.insert((Protocol::Tcp, side::PORT), port);
            Some(Side::on(port))
        } else {
            None
        };
        let shared = setup.place.as_ref().map(|place| Shared {
            segment: place.segment.clone(),
            address: Mutex::default(),
        });
        machine.network = match &setup.place {
            Some(place) => Network::Segment(place.plug),
            None => Network::Own(
                forwards
                    .iter()
                    .map(|((protocol, machine), host)| Forward {
                        protocol: *protocol,
                        host: *host,
                        machine: *machine,
                    })
                    .collect(),
            ),
        };
        if let Some(plugin) = &setup.meter {
            let counts = dir.join(COUNTS);
            fs::write(&counts, [0; Meter::BYTES])?;
            machine.meter = Some(Meter {
                plugin: plugin.clone(),
                counts,
            });
        }
        console::show_with_failures(&dir);
        let node = Self {
            dir,
            machine,
            api: Api::on(api_port, identity),
            child: Mutex::default(),
            forwards: Mutex::new(forwards),
            side,
            shared,
        };
        node.power_on()?;
        Ok(node)
    }

    /// What it has done so far, where that is counted.
    pub fn counts(&self) -> Result<Counts> {
        let bytes = fs::read(self.dir.join(COUNTS))?;
        let (numbers, _) = bytes.as_chunks::<8>();
        let [instructions, wakes] = *numbers else {
            bail!("{} bytes were counted to", bytes.len());
        };
        Ok(Counts {
            instructions: u64::from_le_bytes(instructions),
            wakes: u64::from_le_bytes(wakes),
        })
    }

    /// Starts QEMU, on the disk as it is, and waits for nothing.
    pub fn power_on(&self) -> Result<()> {
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
        if let Some(shared) = &self.shared {
            self.connect(shared);
        }
        self.api.wait(
            || Some(format!("QEMU ended ({})", self.ended()?)),
            || console::tail(&self.dir) + &self.log(),
        );
    }

    /// Waits for the node's address, and leads its ports there.
    #[track_caller]
    fn connect(&self, shared: &Shared) {
        let what = format!("{} gets no address", self.dir.display());
        let address = process::eventually(&what, || {
            if let Some(status) = self.ended() {
                panic!("QEMU ended ({status}): {}", self.log());
            }
            qemu::address_in(&self.console())
        });
        let before = shared
            .address
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(address);
        if before == Some(address) {
            // The switch has forwarded all the while.
            return;
        }
        let gateway = shared.segment.gateway(address);
        let forwards = self.forwards.lock().unwrap_or_else(PoisonError::into_inner);
        for ((protocol, machine), host) in forwards.iter() {
            let forward = Forward {
                protocol: *protocol,
                host: *host,
                machine: *machine,
            };
            let led = match before {
                Some(_) => gateway.stop_forwarding(forward),
                None => Ok(()),
            };
            led.and_then(|()| gateway.forward(forward))
                .unwrap_or_else(|error| panic!("QEMU doesn't forward {machine}: {error:#}"));
        }
    }

    /// Its address on the network that it shares with others.
    #[track_caller]
    pub fn address(&self) -> Ipv4Addr {
        self.shared
            .as_ref()
            .and_then(|shared| {
                *shared
                    .address
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
            })
            .expect("the node shares a network, and was waited for")
    }

    fn gateway(&self) -> Gateway {
        match &self.shared {
            Some(shared) => shared.segment.gateway(self.address()),
            None => self.running().gateway(),
        }
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
        if self.shared.is_none() {
            // The monitor of the next QEMU starts with nothing forwarded but what the machine says.
            self.forwards
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clear();
        }
    }

    /// Whether it has power.
    pub fn has_power(&self) -> bool {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.is_some()
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
            self.gateway()
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
