//! `cargo xtask bench`: what users wait and pay for, in numbers that any machine repeats.
//!
//! Time is the instruction clock's: QEMU runs the node on one processor whose clock advances one nanosecond per instruction. It
//! doesn't charge for exits of the microVM, so they are counted beside it. The client runs inside the node (`tests/side`), for
//! that clock runs away while a machine waits for the world outside.
//!
//! What a cluster of thousands of nodes costs is measured on the machine itself, in its processor's time (`control/examples/scale.rs`).
//! What idle nodes do is counted in emulated machines as well (`tests/src/bin/idle-cost.rs`), whose clock is the world's.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::identity::{self, Identity};
use crate::qemu::{Accelerator, Machine};
use crate::{busybox, checks, image, paths, prerequisites, process, side};

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

/// A number of a large cluster, what it is, what is aimed at, and what others have published.
struct ScaleRow {
    key: &'static str,
    what: &'static str,
    unit: &'static str,
    goal: &'static str,
    others: &'static str,
}

const SCALE: [ScaleRow; 9] = [
    ScaleRow {
        key: "placements_per_s",
        what: "placements, one after the other",
        unit: "/s",
        goal: "≥ 10,000/s",
        others: "Nomad: 3,750/s with their starts, 1,000,000 containers on 5,000 hosts in 5 min; Borg: above 10,000/min; Swarm: \
                 95,000 tasks on 2,384 nodes, no rate told",
    },
    ScaleRow {
        key: "pass_ms",
        what: "a pass over 10,000 pods that wait, half of which fit nowhere",
        unit: "ms",
        goal: "< 500 ms",
        others: "Borg: < 500 ms, some 10,000 machines",
    },
    ScaleRow {
        key: "view_anew_ms",
        what: "the scheduler's view made anew from the state",
        unit: "ms",
        goal: "",
        others: "",
    },
    ScaleRow {
        key: "commands_per_s",
        what: "commands applied to the state, most of them creations",
        unit: "/s",
        goal: "≥ 100,000/s",
        others: "",
    },
    ScaleRow {
        key: "containers_of_a_tenant_ms",
        what: "the 100 containers of a tenant found and sorted, as for `ps`",
        unit: "ms",
        goal: "≤ 5 ms",
        others: "",
    },
    ScaleRow {
        key: "snapshot_pause_ms",
        what: "for how long a snapshot stops commands",
        unit: "ms",
        goal: "≤ 10 ms",
        others: "",
    },
    ScaleRow {
        key: "memory_mib",
        what: "memory of the state and the scheduler, with the commands that made them",
        unit: "MiB",
        goal: "≤ 1024 MiB",
        others: "",
    },
    ScaleRow {
        key: "commits_per_fsync",
        what: "small commits of one proposer, one after the other, for each `fdatasync` that the disk does in that time",
        unit: "",
        goal: "",
        others: "",
    },
    ScaleRow {
        key: "commands_per_fsync",
        what: "small commands of many proposers, committed together, likewise",
        unit: "",
        goal: "≥ 0.8",
        others: "",
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

    let scale = scale()?;
    let idle = idle(&efi)?;
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
        "scale": scale,
        "idle": idle,
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

/// What a large cluster costs.
fn scale() -> Result<Value> {
    let mut example = Command::new("cargo");
    example
        .args(["run", "--release", "--quiet", "-p", "hearth-control"])
        .args(["--example", "scale"])
        .current_dir(paths::project());
    let printed = process::capture(&mut example)?;
    serde_json::from_str(&printed).with_context(|| format!("reading {printed:?}"))
}

/// What an idle node does, alone and in a cluster (`tests/src/bin/idle-cost.rs`).
fn idle(efi: &Path) -> Result<Value> {
    let mut build = Command::new("cargo");
    build
        .args(["build", "--quiet", "-p", "hearth-tests", "--bins"])
        .args(["-p", "hearth-meter", "--lib"])
        .current_dir(paths::project());
    process::capture(&mut build)?;
    let built = paths::project().join("target/debug");
    let mut program = Command::new(built.join("idle-cost"));
    program
        .arg(built.join("libhearth_meter.so"))
        .env(checks::EFI_VARIABLE, efi)
        .current_dir(paths::project());
    let printed = process::capture(&mut program)?;
    let line = printed.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("reading {printed:?}"))
}

/// Boots a node on the instruction clock and returns its console once the side process has said something.
fn measure(efi: &Path, dir: &Path, busybox: &Path) -> Result<String> {
    let identity = Identity::open(&dir.join("identity"), "bench")?;
    let archive = busybox::archive_as(busybox, "bench:latest", &COMMAND)?;
    let mut files = vec![("image.tar", archive)];
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
    if result["scale"].is_object() {
        text += "\nA cluster of 10,000 nodes and 100,000 pods, in the time of one processor of the machine that measured, without disks \
                 and networks:\n\n| what | measured | goal | published of others |\n|---|---|---|---|\n";
        for row in SCALE {
            let measured = result["scale"][row.key].as_f64();
            let measured = measured.map_or("not measured".to_owned(), |value| match row.unit {
                "/s" => format!("{value:.0}/s"),
                unit => format!("{value:.3} {unit}").trim_end().to_owned(),
            });
            let (what, goal, others) = (row.what, row.goal, row.others);
            let _ = writeln!(text, "| {what} | {measured} | {goal} | {others} |");
        }
    }
    text += &idle_table(&result["idle"]);
    text
}

/// A cluster's price where nothing happens.
fn idle_table(idle: &Value) -> String {
    let Some(members) = idle["members"].as_array() else {
        return String::new();
    };
    let mut text = "\nWhat a node executes where nothing is asked of it, and how often something wakes its processor: the whole machine, emulated. Of a \
                    cluster's members the one that executes most is the first; the goal is twice what a node takes that is alone.\n\n\
                    | node | instructions | wakes | of one alone |\n|---|---|---|---|\n"
        .to_owned();
    let of = |measured: &Value| {
        ["instructions_per_s", "wakes_per_s"].map(|key| measured[key].as_f64().unwrap_or(f64::NAN))
    };
    let alone = of(&idle["alone"]);
    let members = members.iter().enumerate();
    let members = members.map(|(at, member)| (format!("{} of three", at + 1), of(member)));
    for (node, [instructions, wakes]) in std::iter::once(("alone".to_owned(), alone)).chain(members)
    {
        let _ = writeln!(
            text,
            "| {node} | {:.0} k/s | {wakes:.1}/s | {:.2}, {:.2} |",
            instructions / 1e3,
            instructions / alone[0],
            wakes / alone[1]
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_not_a_number() {
        assert!(table(&json!({"efi_mib": 12.0})).contains("| not measured |"));
        let scale = table(&json!({"scale": {"pass_ms": 12.3456, "placements_per_s": 20000.0}}));
        assert!(scale.contains("| 12.346 ms | < 500 ms |"), "{scale}");
        assert!(scale.contains("| 20000/s | ≥ 10,000/s |"), "{scale}");
        assert!(scale.contains("| not measured | ≥ 100,000/s |"), "{scale}");
        assert!(!scale.contains("alone"), "{scale}");
        let node =
            |times: f64| json!({"instructions_per_s": 2e5 * times, "wakes_per_s": 8.0 * times});
        let idle = table(&json!({"idle": {"alone": node(1.0), "members": [node(1.5)]}}));
        assert!(
            idle.contains("| 1 of three | 300 k/s | 12.0/s | 1.50, 1.50 |"),
            "{idle}"
        );
    }
}
