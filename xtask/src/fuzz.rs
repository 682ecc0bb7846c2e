//! `cargo xtask fuzz`: coverage-guided fuzzing with libFuzzer on the stable toolchain.
//!
//! The targets are the executables of `tests/fuzz`; `cargo fuzz list --fuzz-dir tests/fuzz` finds them too. Each begins with
//! the inputs kept in `tests/fuzz/seeds`, and goes on with what earlier runs found new, under `target/fuzz/corpus`. An input
//! that fails is left in `target/fuzz/failed`: once mended, it belongs among the seeds, which `cargo xtask test` replays.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::{paths, process};

/// Named, so that flags for it don't reach build scripts and macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What libFuzzer is told by (LLVM's documentation, SanitizerCoverage): a counter for each edge, where each lies, and what is compared
/// with what. Memory is Rust's to guard; address sanitizing would want another toolchain.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks --cfg fuzzing";

/// Seconds for one input: all of them take far less than a millisecond on average; what takes longer than this hangs.
const HANGS_AFTER_S: u32 = 20;

/// MiB that one process may hold: images' parsers are allowed some dozens.
const MEMORY_MIB: u32 = 2048;

/// A file system in memory, on every Linux (shm_overview(7)).
const MEMORY: &str = "/dev/shm";

/// Fuzzes one target, or all one after the other, each for so long.
pub fn run(only: Option<&str>, each: Duration) -> Result<()> {
    let all = targets()?;
    let chosen: Vec<&String> =
        match only {
            Some(name) => vec![all.iter().find(|target| *target == name).with_context(|| {
                format!("there is no target {name}: these are {}", all.join(", "))
            })?],
            None => all.iter().collect(),
        };
    let executables = compile(&chosen)?;
    let mut failed = Vec::new();
    let mut rows = Vec::new();
    for name in chosen {
        eprintln!("== {name}: {} s", each.as_secs());
        match fuzz(&executables.join(name), name, each)? {
            Some(executions) => {
                rows.push(format!("{name}: {executions} executions, nothing found"))
            }
            None => {
                rows.push(format!("{name}: FAILED"));
                failed.push(name.as_str());
            }
        }
    }
    println!("\n{}", rows.join("\n"));
    ensure!(
        failed.is_empty(),
        "{} failed: the inputs are under {}",
        failed.join(", "),
        folder("failed").display()
    );
    Ok(())
}

/// Their names, sorted.
fn targets() -> Result<Vec<String>> {
    let folder = package().join("fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn package() -> PathBuf {
    paths::project().join("tests/fuzz")
}

fn folder(what: &str) -> PathBuf {
    paths::project().join("target/fuzz").join(what)
}

/// Compiles the targets, instrumented, and returns the directory that they are in.
fn compile(names: &[&String]) -> Result<PathBuf> {
    let build = folder("build");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--release", "--locked", "--package", "hearth-fuzz"])
        .args(["--target", TARGET])
        .arg("--target-dir")
        .arg(&build);
    for name in names {
        cargo.args(["--bin", name]);
    }
    cargo
        .env("RUSTFLAGS", COVERAGE)
        // Optimising across crates takes longer than it gives.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only")
        .current_dir(paths::project());
    eprintln!("    compiling {} targets", names.len());
    let status = cargo.status().context("starting cargo")?;
    ensure!(
        status.success(),
        "the targets don't compile ({status}), see above"
    );
    Ok(build.join(TARGET).join("release"))
}

/// Runs one target; the number of executions, or none if an input failed.
fn fuzz(executable: &Path, name: &str, time: Duration) -> Result<Option<u64>> {
    let corpus = folder("corpus").join(name);
    let failed = folder("failed").join(name);
    for folder in [&corpus, &failed] {
        fs::create_dir_all(folder)?;
    }
    // In memory: nobody should wait for a disk here, and what an input that fails leaves behind goes as well.
    let scratch = tempfile::tempdir_in(MEMORY).or_else(|_| tempfile::tempdir())?;
    let mut command = Command::new(executable);
    command
        .env("TMPDIR", scratch.path())
        .arg(&corpus)
        .arg(package().join("seeds").join(name))
        .arg(format!("-artifact_prefix={}/", failed.display()))
        .arg(format!("-max_total_time={}", time.as_secs()))
        .arg(format!("-timeout={HANGS_AFTER_S}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg("-print_final_stats=1")
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("starting {}", process::shown(&command)))?;
    let stderr = child
        .stderr
        .take()
        .context("stderr was asked for as a pipe")?;
    let mut executions = None;
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            executions = Some(count.trim().parse()?);
        }
        eprintln!("{line}");
    }
    let status = child.wait()?;
    if !status.success() {
        return Ok(None);
    }
    match executions {
        Some(count) => Ok(Some(count)),
        None => bail!("{name} ended without saying how often it ran"),
    }
}
