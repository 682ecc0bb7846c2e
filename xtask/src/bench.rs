//! `cargo xtask bench`: what users wait and pay for, in numbers that any machine repeats.
//!
//! Time is the instruction clock's: QEMU runs the node on one processor whose clock advances one nanosecond per instruction. It
//! doesn't charge for exits of the microVM, so they are counted beside it. The client runs inside the node (`tests/side`), for
//! that clock runs away while a machine waits for the world outside.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::identity::{self, Identity};
use crate::qemu::{Accelerator, Machine};
use crate::{busybox, image, paths, prerequisites, side};

/// Where the table goes, in the checkout.
const TABLE: &str = "docs/BENCHMARKS.md";
/// How long the emulated node may take, in real time: an emulation twenty times slower than a small machine's still fits.
const PATIENCE: Duration = Duration::from_secs(1800);
/// How often the console is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// What the benchmark's containers run: a line at once, and life until stdin ends, so that the monitor can be asked.
const COMMAND: [&str; 3] = ["/bin/sh", "-c", "echo ready; cat"];
/// How the side process marks its result.
const RESULT: &str = "side: ";
/// Shares of a start, in the order in which they begin.
const SHARES: [(&str, &str); 5] = [
    ("api", "API, and the client's half of it"),
    ("commit", "commits to the replicated log"),
    (
        "monitor",
        "the monitor, up to the guest's first instruction",
    ),
    ("guest_kernel", "the guest's kernel"),
    (
        "guest_init",
        "the guest's init, up to the container's own process",
    ),
];

/// A number, what it is, and what it must not exceed.
struct Row {
    key: &'static str,
    what: &'static str,
    unit: &'static str,
    budget: Option<f64>,
}

const ROWS: [Row; 8] = [
    Row {
        key: "boot_to_api_ms",
        what: "kernel's start to the API answering",
        unit: "ms",
        budget: Some(3000.0),
    },
    Row {
        key: "run_to_first_byte_ms",
        what: "`create` and `start` of a present image to the first byte of its stdout",
        unit: "ms",
        budget: Some(200.0),
    },
    Row {
        key: "run_vm_exits",
        what: "exits of the microVM in that time, those the kernel handles included",
        unit: "",
        budget: None,
    },
    Row {
        key: "run_exits_to_monitor",
        what: "of these, exits to the monitor",
        unit: "",
        budget: None,
    },
    Row {
        key: "efi_mib",
        what: "size of `hearth.efi`",
        unit: "MiB",
        budget: Some(32.0),
    },
    Row {
        key: "vmm_overhead_mib",
        what: "monitor's memory beside the guest's",
        unit: "MiB",
        budget: Some(8.0),
    },
    Row {
        key: "another_container_mib",
        what: "memory of a node for each idle container after the first, of the same image",
        unit: "MiB",
        budget: Some(64.0),
    },
    Row {
        key: "idle_node_mib",
        what: "memory of an idle node of 2 GiB (MemTotal − MemAvailable)",
        unit: "MiB",
        budget: Some(96.0),
    },
];

/// Measures `efi`, or what it builds, and prints one JSON object, or the table, which it also writes unless told which file to measure.
pub fn run(efi: Option<&Path>, as_json: bool) -> Result<()> {
    let prerequisites = prerequisites::ensure()?;
    let built = efi.is_none();
    let efi = match efi {
        Some(efi) => efi.to_owned(),
        None => image::build(&prerequisites)?,
    };
    let dir = paths::build().join("bench");
    fs::create_dir_all(&dir)?;

    let console = measure(&efi, &dir, &prerequisites.busybox)?;
    let line = console
        .lines()
        .find_map(|line| line.split_once(RESULT))
        .context("a result")?
        .1;
    let side: Value = serde_json::from_str(line).with_context(|| format!("reading {line:?}"))?;
    if let Some(error) = side["error"].as_str() {
        bail!(
            "the benchmark failed on the node: {error}; its console is {}",
            dir.join("console").display()
        );
    }
    let mib = |kib: &Value| kib.as_f64().map(|kib| kib / 1024.0);
    let result = json!({
        "boot_to_api_ms": side["boot_to_api_ms"],
        "run_to_first_byte_ms": side["run_to_first_byte_ms"],
        "run_vm_exits": side["run_vm_exits"],
        "run_exits_to_monitor": side["run_exits_to_monitor"],
        "efi_mib": fs::metadata(&efi)?.len() as f64 / f64::from(1 << 20),
        "vmm_overhead_mib": mib(&side["vmm_overhead_kib"]),
        "another_container_mib": mib(&side["another_container_kib"]),
        "idle_node_mib": mib(&side["idle_node_kib"]),
        "run_shares_ms": side["run_shares_ms"],
        "runs_ms": side["runs_ms"],
    });
    let table = table(&result);
    if built {
        fs::write(paths::project().join(TABLE), &table)?;
    }
    if as_json {
        println!("{result}");
    } else {
        print!("{table}");
    }
    Ok(())
}

/// Boots a node on the instruction clock and returns its console once the side process has said something.
fn measure(efi: &Path, dir: &Path, busybox: &Path) -> Result<String> {
    let identity = Identity::open(&dir.join("identity"), "bench")?;
    let archive = busybox::build_as(busybox, "bench:latest", &COMMAND)?;
    let mut files = vec![("image.tar", fs::read(archive)?)];
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        files.push((name, fs::read(identity.owner_dir().join(name))?));
    }
    let boot = side::boot(efi, dir, "bench", &files)?;
    let configuration = dir.join("hearth.toml");
    identity::write_private(&configuration, &identity.configuration(&[]))?;
    let mut machine = Machine::new(dir, boot, Accelerator::InstructionClock);
    machine.configuration = Some(configuration);

    let mut node = machine.start()?;
    let begun = Instant::now();
    loop {
        let console = node.console();
        // The line is whole once another begins or it has ended.
        if console
            .split_once(RESULT)
            .is_some_and(|(_, rest)| rest.contains('\n'))
        {
            node.kill()?;
            return Ok(console);
        }
        if let Some(status) = node.try_wait()? {
            bail!(
                "the node ended ({status}) before it had a result; its console is {}",
                dir.join("console").display()
            );
        }
        if begun.elapsed() > PATIENCE {
            bail!(
                "no result within {} s; the node's console is {}",
                PATIENCE.as_secs(),
                dir.join("console").display()
            );
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

fn table(result: &Value) -> String {
    let mut text = String::from(
        "# Benchmarks\n\nWritten by `cargo xtask bench`; edits are lost. Times are on the instruction clock: QEMU's emulation with one\n\
         processor and one nanosecond per instruction, the client inside the node, storage in RAM. Two runs agree to about one\n\
         per cent on any machine. The clock doesn't charge for exits of the microVM, which are counted beside it. It charges for\n\
         each step of a string instruction, as no hardware does: the processor says that it has no fast ones (`erms`, `fsrm`).\n\n\
         | what | measured | budget |\n|---|---|---|\n",
    );
    for row in ROWS {
        let value = result[row.key].as_f64();
        let shown = |value: f64| {
            let digits = usize::from(row.unit == "MiB" || value < 100.0 && value.fract() != 0.0);
            format!("{value:.digits$} {}", row.unit)
                .trim_end()
                .to_owned()
        };
        let measured = value.map_or("not measured".to_owned(), shown);
        let budget = row
            .budget
            .map_or(String::new(), |budget| format!("≤ {}", shown(budget)));
        // Writing to a string doesn't fail.
        let _ = writeln!(text, "| {} | {measured} | {budget} |", row.what);
    }
    if let Some(shares) = result["run_shares_ms"].as_object() {
        text += "\nWhere the time of the median start goes:\n\n| part | ms |\n|---|---|\n";
        for (key, part) in SHARES {
            let ms = shares.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN);
            let _ = writeln!(text, "| {part} | {ms:.1} |");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_not_a_number() {
        assert!(table(&json!({"efi_mib": 12.0})).contains("| not measured |"));
    }
}
