//! A machine in QEMU: the appliance as firmware starts it, with a disk, a network and a console.

mod accelerator;
mod forward;
mod qmp;
mod running;
mod segment;
mod switch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

pub use accelerator::Accelerator;
use forward::USER_NETWORK;
pub use forward::{Forward, Gateway, Protocol, free_port, is_free};
pub use qmp::Qmp;
pub use running::Running;
pub use segment::{Plug, Segment, address_in, gateway};
pub use switch::{Switch, Way};

/// Where a node finds its `hearth.toml` in QEMU's firmware configuration device.
const CONFIGURATION_NAME: &str = "opt/org.hearth/hearth.toml";

/// Processors of a machine under KVM that isn't asked for any number: enough for things to happen at the same time.
const KVM_CPUS: usize = 2;

/// Code and variables of UEFI firmware, in the places where distributions have them.
pub fn firmware() -> Option<(&'static Path, &'static Path)> {
    [
        (
            "/usr/share/OVMF/OVMF_CODE_4M.fd",
            "/usr/share/OVMF/OVMF_VARS_4M.fd",
        ),
        (
            "/usr/share/OVMF/OVMF_CODE.fd",
            "/usr/share/OVMF/OVMF_VARS.fd",
        ),
    ]
    .map(|(code, variables)| (Path::new(code), Path::new(variables)))
    .into_iter()
    .find(|(code, variables)| code.exists() && variables.exists())
}

/// What the machine starts.
#[derive(Debug, Clone)]
pub enum Boot {
    /// A unified kernel image, by UEFI firmware.
    Firmware(PathBuf),
    /// Whatever the image of a USB stick holds, by UEFI firmware.
    Stick(PathBuf),
    /// A kernel, by QEMU itself.
    Kernel {
        /// `bzImage` or an ELF file that is entered by PVH.
        kernel: PathBuf,
        /// Initial RAM disk.
        initramfs: Option<PathBuf>,
        /// Kernel command line.
        command_line: String,
    },
}

/// What a machine's network card is connected to.
#[derive(Debug, Clone)]
pub enum Network {
    /// A user-mode network of its own, with ports that appear on loopback from the start.
    Own(Vec<Forward>),
    /// An Ethernet segment with other machines on it.
    Segment(Plug),
}

/// What counts an emulated machine's instructions and wakes (`tests/meter`).
#[derive(Debug, Clone)]
pub struct Meter {
    /// The plugin.
    pub plugin: PathBuf,
    /// Where it counts: an existing file of [`Meter::BYTES`].
    pub counts: PathBuf,
}

impl Meter {
    /// Two numbers of eight bytes, little-endian.
    pub const BYTES: usize = 16;
}

/// A machine to be started.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Where its sockets, its firmware's variables and its logs are.
    pub dir: PathBuf,
    /// What it starts.
    pub boot: Boot,
    /// Who executes it.
    pub accelerator: Accelerator,
    /// Processors. More than [`Accelerator::cpus`] advises are at one's own risk.
    pub cpus: usize,
    /// One core with two hyper-threads, instead of `cpus`.
    pub hyper_threads: bool,
    /// MiB of memory.
    pub memory_mib: u64,
    /// A disk: an existing file, raw.
    pub disk: Option<PathBuf>,
    /// The node's `hearth.toml`.
    pub configuration: Option<PathBuf>,
    /// What its network card is connected to.
    pub network: Network,
    /// More for the kernel command line of a unified kernel image.
    pub extra_command_line: Option<String>,
    /// Counts what it does, if it's emulated.
    pub meter: Option<Meter>,
}

impl Machine {
    /// A machine without disk, ports or configuration, with the memory of the benchmarks.
    pub fn new(dir: &Path, boot: Boot, accelerator: Accelerator) -> Self {
        Self {
            dir: dir.to_owned(),
            boot,
            accelerator,
            cpus: accelerator.cpus(KVM_CPUS),
            hyper_threads: false,
            memory_mib: 2048,
            disk: None,
            configuration: None,
            network: Network::Own(Vec::new()),
            extra_command_line: None,
            meter: None,
        }
    }

    /// Starts it in a process group of its own, so that a Ctrl-C is the caller's to handle.
    pub fn start(&self) -> Result<Running> {
        fs::create_dir_all(&self.dir)?;
        Running::launch(&self.dir, self.command()?)
    }

    /// An emulated processor may not get to run for as long as the kernel waits for a timer to tick; the kernel then takes
    /// the timer for broken, and stops.
    fn emulation_option(&self) -> Option<&'static str> {
        (self.accelerator != Accelerator::Kvm).then_some("no_timer_check")
    }

    /// The command that [`Machine::start`] runs.
    pub fn command(&self) -> Result<Command> {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(match self.accelerator {
            // Both processors in one thread of QEMU's see each other's writes to code, see `Accelerator::cpus`.
            Accelerator::Tcg if self.hyper_threads => {
                &["-accel", "tcg,thread=single", "-cpu", "max"]
            }
            other => other.arguments(),
        });
        qemu.args([
            "-machine",
            "q35",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            // The chipset's watchdog resets the machine, as hardware's does; older versions of QEMU leave it without teeth.
            "-global",
            "ICH9-LPC.noreboot=false",
        ]);
        let processors = if self.hyper_threads {
            "2,cores=1,threads=2".to_owned()
        } else {
            self.cpus.to_string()
        };
        qemu.args(["-smp", &processors, "-m", &self.memory_mib.to_string()]);
        qemu.args(["-device", "virtio-rng-pci"]);
        qemu.arg("-pidfile").arg(self.dir.join("pid"));
        qemu.arg("-serial")
            .arg(format!("file:{}", self.dir.join("console").display()));
        qemu.arg("-qmp").arg(format!(
            "unix:{},server=on,wait=off",
            self.dir.join("qmp").display()
        ));
        match &self.boot {
            Boot::Firmware(start) | Boot::Stick(start) => {
                let (code, template) =
                    firmware().context("no UEFI firmware for QEMU: install ovmf")?;
                let variables = self.dir.join("firmware-variables");
                fs::copy(template, &variables)?;
                let flash = |file: &Path, readonly: &str| {
                    format!(
                        "if=pflash,format=raw,readonly={readonly},file={}",
                        file.display()
                    )
                };
                qemu.args([
                    "-drive",
                    &flash(code, "on"),
                    "-drive",
                    &flash(&variables, "off"),
                ]);
                if let Boot::Stick(_) = self.boot {
                    let drive = format!("if=none,id=stick,format=raw,file={}", start.display());
                    qemu.args(["-device", "qemu-xhci", "-drive", &drive]);
                    qemu.args(["-device", "usb-storage,drive=stick,bootindex=1"]);
                } else {
                    qemu.arg("-kernel").arg(start);
                }
                let extra = [self.emulation_option(), self.extra_command_line.as_deref()];
                let extra: Vec<&str> = extra.into_iter().flatten().collect();
                if !extra.is_empty() {
                    let extra = extra.join(" ");
                    qemu.args([
                        "-smbios",
                        &format!("type=11,value=io.systemd.stub.kernel-cmdline-extra={extra}"),
                    ]);
                }
            }
            Boot::Kernel {
                kernel,
                initramfs,
                command_line,
            } => {
                let extra = self.emulation_option().unwrap_or_default();
                qemu.arg("-kernel").arg(kernel).arg("-append");
                qemu.arg(format!("{command_line} {extra}").trim_end());
                if let Some(initramfs) = initramfs {
                    qemu.arg("-initrd").arg(initramfs);
                }
            }
        }
        if let Some(disk) = &self.disk {
            qemu.arg("-drive").arg(format!(
                "if=none,id=data,format=raw,discard=unmap,file={}",
                disk.display()
            ));
            qemu.args(["-device", "virtio-blk-pci,drive=data"]);
        }
        if let Some(configuration) = &self.configuration {
            qemu.arg("-fw_cfg").arg(format!(
                "name={CONFIGURATION_NAME},file={}",
                configuration.display()
            ));
        }
        // Without a boot ROM: nothing is booted from the network.
        let mut card = format!("virtio-net-pci,netdev={USER_NETWORK},romfile=");
        let network = match &self.network {
            Network::Own(forwards) => {
                let mut network = format!("user,id={USER_NETWORK}");
                for forward in forwards {
                    network += &format!(",hostfwd={}", forward.rule(None));
                }
                network
            }
            Network::Segment(plug) => {
                let mac = plug.mac().map(|byte| format!("{byte:02x}"));
                card += &format!(",mac={}", mac.join(":"));
                plug.backend(USER_NETWORK)
            }
        };
        qemu.args(["-netdev", &network, "-device", &card]);
        if let Some(Meter { plugin, counts }) = &self.meter {
            qemu.arg("-plugin")
                .arg(format!("{},counts={}", plugin.display(), counts.display()));
        }
        Ok(qemu)
    }
}
