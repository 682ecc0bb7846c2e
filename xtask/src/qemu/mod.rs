//! A machine in QEMU: the appliance as firmware starts it, with a disk, a network and a console.

mod accelerator;
mod qmp;

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

pub use accelerator::Accelerator;
pub use qmp::Qmp;

/// Where a node finds its `hearth.toml` in QEMU's firmware configuration device.
const CONFIGURATION_NAME: &str = "opt/org.hearth/hearth.toml";

/// How long QEMU may take to open its monitor.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Processors of a machine under KVM that isn't asked for any number: enough for things to happen at the same time.
const KVM_CPUS: usize = 2;

/// How often a state is looked at that nothing announces.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

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

/// Transport protocol of a forwarded port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

impl Protocol {
    /// As QEMU and docker write it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// A port of the machine that appears on loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Port on 127.0.0.1.
    pub host: u16,
    /// Port of the machine.
    pub machine: u16,
}

impl Forward {
    fn host_side(self) -> String {
        format!("{}:127.0.0.1:{}", self.protocol.name(), self.host)
    }

    fn rule(self) -> String {
        format!("{}-:{}", self.host_side(), self.machine)
    }
}

/// A free port on loopback.
pub fn free_port(protocol: Protocol) -> Result<u16> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Ok(match protocol {
        Protocol::Tcp => TcpListener::bind(any)?.local_addr()?.port(),
        Protocol::Udp => UdpSocket::bind(any)?.local_addr()?.port(),
    })
}

/// Whether a port on loopback is free for TCP.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
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
    /// Ports to appear on loopback from the start.
    pub forwards: Vec<Forward>,
    /// More for the kernel command line of a unified kernel image.
    pub extra_command_line: Option<String>,
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
            forwards: Vec::new(),
            extra_command_line: None,
        }
    }

    /// Starts it in a process group of its own, so that a Ctrl-C is the caller's to handle.
    pub fn start(&self) -> Result<Running> {
        fs::create_dir_all(&self.dir)?;
        let mut running = Running::attach(&self.dir);
        if running.qmp.exists() {
            fs::remove_file(&running.qmp)?;
        }
        let log = File::create(self.dir.join("qemu.log"))?;
        let mut child = self
            .command()?
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("starting qemu-system-x86_64")?;
        let begun = Instant::now();
        while Qmp::connect(&running.qmp).is_err() {
            if let Some(status) = child.try_wait()? {
                let log = fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default();
                bail!("QEMU didn't start ({status}): {log}");
            }
            if begun.elapsed() > START_TIMEOUT {
                child.kill()?;
                child.wait()?;
                bail!("QEMU doesn't open its monitor {}", running.qmp.display());
            }
            thread::sleep(LOOK_INTERVAL);
        }
        running.child = Some(child);
        Ok(running)
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
        let mut network = String::from("user,id=net");
        for forward in &self.forwards {
            network += &format!(",hostfwd={}", forward.rule());
        }
        // Without a boot ROM: nothing is booted from the network.
        qemu.args([
            "-netdev",
            &network,
            "-device",
            "virtio-net-pci,netdev=net,romfile=",
        ]);
        Ok(qemu)
    }
}

/// A machine that was started, by this process or by another.
#[derive(Debug)]
pub struct Running {
    dir: PathBuf,
    qmp: PathBuf,
    child: Option<Child>,
}

impl Running {
    /// The machine whose files are in `dir`; whether it runs shows when it is spoken to.
    pub fn attach(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            qmp: dir.join("qmp"),
            child: None,
        }
    }

    /// Whether QEMU answers.
    pub fn is_running(&self) -> bool {
        self.monitor().is_ok()
    }

    /// What the machine wrote to its serial line so far.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("console")).unwrap_or_default())
            .into_owned()
    }

    /// A conversation with QEMU's monitor.
    pub fn monitor(&self) -> Result<Qmp> {
        Qmp::connect(&self.qmp)
    }

    /// Makes a port of the machine appear on loopback.
    pub fn forward(&self, forward: Forward) -> Result<()> {
        self.monitor()?
            .monitor(&format!("hostfwd_add net {}", forward.rule()))
    }

    /// Undoes [`Running::forward`].
    pub fn stop_forwarding(&self, forward: Forward) -> Result<()> {
        // It prints what it removed, which is no complaint.
        let line = format!("hostfwd_remove net {}", forward.host_side());
        self.monitor()?
            .execute("human-monitor-command", json!({ "command-line": line }))?;
        Ok(())
    }

    /// Presses the power button and waits; pulls the plug if the machine takes longer than `patience`. Says whether it went
    /// by itself.
    pub fn power_off(mut self, patience: Duration) -> Result<bool> {
        self.monitor()?.execute("system_powerdown", json!({}))?;
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if self.has_exited()? {
                return Ok(true);
            }
            thread::sleep(LOOK_INTERVAL);
        }
        self.kill()?;
        Ok(false)
    }

    /// Pulls the plug: QEMU ends at once, and what the machine hadn't written to its disk is lost.
    pub fn kill(mut self) -> Result<()> {
        match self.child.take() {
            Some(mut child) => {
                child.kill()?;
                child.wait()?;
            }
            None => {
                // The connection ends before the answer.
                let _ = self.monitor()?.execute("quit", json!({}));
            }
        }
        Ok(())
    }

    /// The exit status, if QEMU has ended and is this process's child.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Ok(match &mut self.child {
            Some(child) => child.try_wait()?,
            None => None,
        })
    }

    /// Leaves the machine running when this value goes.
    pub fn detach(mut self) {
        self.child = None;
    }

    fn has_exited(&mut self) -> Result<bool> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?.is_some()),
            None => Ok(!self.is_running()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
