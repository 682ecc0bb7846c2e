//! `cargo xtask simulate`: clusters on simulated time, network and disks, with all bad luck drawn from a seed
//! (`control/src/simulation`). A seed that fails does so again whenever it is simulated.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, process};

/// Simulates so many seeds, from the first one on; `tell`: everything that happens is printed.
pub fn run(seeds: u64, first: u64, tell: bool) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::project()).args([
        "run",
        "--quiet",
        "--package",
        "hearth-control",
        "--features",
        "simulation",
        "--bin",
        "simulate",
        "--",
        "--seeds",
        &seeds.to_string(),
        "--seed",
        &first.to_string(),
    ]);
    if tell {
        cargo.arg("--tell");
    }
    let status = cargo
        .status()
        .with_context(|| format!("starting {}", process::shown(&cargo)))?;
    if !status.success() {
        bail!("the simulation has failed, see above");
    }
    Ok(())
}
