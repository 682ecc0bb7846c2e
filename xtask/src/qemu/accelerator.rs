//! Which of QEMU's ways to run a machine works here.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::paths;

/// How instructions are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// By the processor, through KVM, with virtualization nested for our microVMs.
    Kvm,
    /// By QEMU, with its emulation of AMD's virtualization.
    Tcg,
    /// By QEMU on one processor, one nanosecond of its clock per instruction: for measuring, not for using.
    InstructionClock,
}

/// How long a kernel under KVM may take to its first line. It takes milliseconds; where KVM only pretends, for ever.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// How the kernel's first line begins.
const FIRST_LINE: &str = "Linux version ";

impl Accelerator {
    /// QEMU's arguments for it.
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Accelerator::Kvm => &["-accel", "kvm", "-cpu", "host"],
            Accelerator::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "max"],
            Accelerator::InstructionClock => &[
                "-accel",
                "tcg,thread=single",
                "-cpu",
                // The clock counts every step of a string instruction. Without these two the kernel clears and copies pages by words,
                // and that costs what it does on hardware, give or take.
                "max,-erms,-fsrm",
                "-icount",
                "shift=0,sleep=off",
            ],
        }
    }

    /// Processors to give a machine that may have up to `most`. Emulated, it is one: QEMU's processors may run code that
    /// another of them has just patched as it was before, and KVM in the machine patches its kernel with each VM; a node dies of a
    /// breakpoint that is no longer there.
    pub fn cpus(self, most: usize) -> usize {
        match self {
            Accelerator::Kvm => most,
            Accelerator::Tcg | Accelerator::InstructionClock => 1,
        }
    }

    /// KVM if it boots this kernel, else TCG. The answer is kept until the machine reboots.
    pub fn probe(kernel: &Path) -> Result<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let key = format!("{} {}", boot_id.trim(), kernel.display());
        let memory = paths::cache()?.join("accelerator");
        let remembered = fs::read_to_string(&memory).unwrap_or_default();
        match remembered.strip_prefix(&format!("{key}\n")) {
            Some("kvm") => return Ok(Accelerator::Kvm),
            Some("tcg") => return Ok(Accelerator::Tcg),
            _ => {}
        }
        let kvm = nested() && boots_under_kvm(kernel)?;
        fs::write(
            memory,
            format!("{key}\n{}", if kvm { "kvm" } else { "tcg" }),
        )?;
        Ok(if kvm {
            Accelerator::Kvm
        } else {
            Accelerator::Tcg
        })
    }
}

/// Whether this machine's KVM lets its guests run guests of their own.
fn nested() -> bool {
    ["kvm_intel", "kvm_amd"].iter().any(|module| {
        fs::read_to_string(format!("/sys/module/{module}/parameters/nested"))
            .is_ok_and(|value| matches!(value.trim(), "Y" | "1"))
    })
}

/// A device that opens is no proof: some virtual machines offer a KVM that runs only kernels made for it.
fn boots_under_kvm(kernel: &Path) -> Result<bool> {
    if fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(false);
    }
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(Accelerator::Kvm.arguments())
        .args([
            "-machine",
            "q35",
            "-m",
            "256",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args([
            "-serial",
            "stdio",
            "-append",
            "console=ttyS0 earlyprintk=serial panic=-1",
            "-kernel",
        ])
        .arg(kernel)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let stdout = qemu.stdout.take().expect("stdout was asked for as a pipe");
    let (said, heard) = mpsc::channel();
    let reader = thread::spawn(move || {
        let spoke = BufReader::new(stdout)
            .split(b'\n')
            .map_while(Result::ok)
            .any(|line| String::from_utf8_lossy(&line).contains(FIRST_LINE));
        // Nobody listens any more if the time was up.
        let _ = said.send(spoke);
    });
    let booted = heard.recv_timeout(PROBE_TIMEOUT).unwrap_or(false);
    qemu.kill()?;
    qemu.wait()?;
    // The pipe has closed with QEMU, so that the reader comes to its end.
    let _ = reader.join();
    Ok(booted)
}
