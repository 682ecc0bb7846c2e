//! What a node costs that has nothing to do: alone, and as one of three. One JSON object, read by `cargo xtask bench`.
//!
//! Whole machines, emulated: how many instructions each executes, and how often something wakes its processor. That is the same on any
//! computer, but for what a slow one delays.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hearth_tests::cluster::{self, Cluster};
use hearth_tests::node::{Node, Setup};
use serde_json::{Value, json};

/// What is done once after a start is over by then, on a slow computer as well.
const SETTLED: Duration = Duration::from_secs(40);
/// As long as the rarest thing that an idle node does, several times.
const MEASURED: Duration = Duration::from_secs(120);

/// Per second, of each of them.
fn measure(nodes: &[&Node]) -> Result<Vec<Value>> {
    thread::sleep(SETTLED);
    let counts = || {
        nodes
            .iter()
            .map(|node| node.counts())
            .collect::<Result<Vec<_>>>()
    };
    let (before, begun) = (counts()?, Instant::now());
    thread::sleep(MEASURED);
    let (after, seconds) = (counts()?, begun.elapsed().as_secs_f64());
    let mut measured: Vec<_> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| {
            (
                (after.instructions - before.instructions) as f64 / seconds,
                (after.wakes - before.wakes) as f64 / seconds,
            )
        })
        .collect();
    // The one that executes most first: the leader, mostly.
    measured.sort_by(|a, b| b.0.total_cmp(&a.0));
    let shown = |(instructions, wakes): &(f64, f64)| json!({ "instructions_per_s": instructions, "wakes_per_s": wakes });
    Ok(measured.iter().map(shown).collect())
}

fn main() -> Result<()> {
    let plugin = std::env::args_os().nth(1).map(PathBuf::from);
    let setup = Setup {
        memory_mib: cluster::MEMORY_MIB,
        meter: Some(plugin.context("the plugin that counts is missing: tests/meter")?),
        ..Setup::default()
    };
    let alone = measure(&[&Node::boot(&setup)])?;
    let cluster = Cluster::boot_as(cluster::NODES, &setup);
    let nodes: Vec<&Node> = (0..cluster.len()).map(|at| cluster.node(at)).collect();
    let members = measure(&nodes)?;
    println!("{}", json!({ "alone": alone[0], "members": members }));
    Ok(())
}
