//! What `control` does on a node that has nothing to do: alone, and as one of three. One JSON object, read by `cargo xtask bench`.
//!
//! Measured on the machine that this runs on: how often its threads gave up a processor of themselves, which is how often something woke them,
//! and what they had of processors. The image's own `control`, each in a network of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hearth_tests::native::{self, Cluster, Native};
use serde_json::json;

/// What is done once after a start is over by then.
const SETTLED: Duration = Duration::from_secs(20);
/// As long as the rarest thing that an idle node does, several times.
const MEASURED: Duration = Duration::from_secs(60);

/// What a process has had so far.
#[derive(Clone, Copy, Default)]
struct Had {
    wakes: u64,
    cpu_ns: u64,
}

fn had(pid: u32) -> Result<Had> {
    let mut had = Had::default();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        let status = fs::read_to_string(task.join("status"))?;
        let wakes = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
            .context("a thread's switches")?;
        had.wakes += wakes.trim().parse::<u64>()?;
        let scheduled = fs::read_to_string(task.join("schedstat"))?;
        let on_cpu = scheduled.split(' ').next().context("a thread's time")?;
        had.cpu_ns += on_cpu.parse::<u64>()?;
    }
    Ok(had)
}

/// The control processes that this one has started.
fn controls() -> Result<Vec<u32>> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // Errors: it has ended.
        let Ok(stat) = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))
        else {
            continue;
        };
        let Some((named, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        if named.ends_with("(control") && rest.split(' ').nth(2) == Some(own.as_str()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Per second, of each of them.
fn measure(count: usize) -> Result<Vec<(f64, f64)>> {
    thread::sleep(SETTLED);
    let controls = controls()?;
    if controls.len() != count {
        bail!("{} of {count} run", controls.len());
    }
    let before: BTreeMap<u32, Had> = controls
        .iter()
        .map(|pid| Ok((*pid, had(*pid)?)))
        .collect::<Result<_>>()?;
    thread::sleep(MEASURED);
    let seconds = MEASURED.as_secs_f64();
    let of = |(pid, before): (&u32, &Had)| {
        let now = had(*pid)?;
        Ok((
            (now.wakes - before.wakes) as f64 / seconds,
            (now.cpu_ns - before.cpu_ns) as f64 / 1e3 / seconds,
        ))
    };
    before.iter().map(of).collect()
}

fn main() -> Result<()> {
    if !native::possible() {
        bail!("this machine gives no networks of one's own");
    }
    let alone = {
        let node = Native::start(&[], &[]);
        let measured = measure(1)?;
        node.kill();
        measured[0]
    };
    let cluster = Cluster::start(3);
    let mut members = measure(3)?;
    // The leader first.
    members.sort_by(|a, b| b.0.total_cmp(&a.0));
    drop(cluster);
    let shown =
        |(wakes, cpu_us): (f64, f64)| json!({ "wakes_per_s": wakes, "cpu_us_per_s": cpu_us });
    println!(
        "{}",
        json!({ "alone": shown(alone), "members": members.into_iter().map(shown).collect::<Vec<_>>() })
    );
    Ok(())
}
