//! `cargo xtask test`: everything a change must pass, each step by the tool that does it, and a count at the end.

mod count;
mod shards;

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use self::count::Count;
use crate::{image, paths, prerequisites, process};

/// Names the image to the end-to-end tests.
pub const EFI_VARIABLE: &str = "HEARTH_EFI";

/// Names a static busybox to the tests that need one.
const BUSYBOX_VARIABLE: &str = "HEARTH_BUSYBOX";

/// Runs all checks; `filter` narrows the tests of whole programs and of the image.
pub fn run(filter: Option<&str>) -> Result<()> {
    let mut count = Count::default();
    let prerequisites = prerequisites::ensure()?;
    prerequisites::ensure_for_tests()?;
    check("formatting", cargo(&["fmt", "--all", "--check"]))?;
    check(
        "lints",
        cargo(&[
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--",
            "-Dwarnings",
        ]),
    )?;
    licences()?;
    // All tests are selected the same way each time: with other packages or features, cargo would compile everything anew. Programs are
    // thin mains over libraries and have no tests of their own; asking for them would also run those that have no test harness.
    test("unit tests", tests(&["--lib"]), &mut count)?;
    test(
        "examples in the documentation",
        tests(&["--doc"]),
        &mut count,
    )?;

    let registry = prerequisites::registry()?;
    let efi = image::build(&prerequisites)?;
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(dir) = registry.parent() {
        let dirs = std::iter::once(dir.to_owned()).chain(std::env::split_paths(&path));
        path = std::env::join_paths(dirs)?;
    }
    let what = "tests of whole programs and of the image";
    eprintln!("== {what}");
    let begun = Instant::now();
    let busybox = prerequisites.busybox.clone().into_os_string();
    let variables = [
        (EFI_VARIABLE, efi.into_os_string()),
        (BUSYBOX_VARIABLE, busybox),
        ("PATH", path),
    ];
    let compiled = tests(&[
        "--test",
        "*",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    let whole = shards::run(compiled, filter, &variables)?;
    println!("{what}: {whole}, {} s", begun.elapsed().as_secs());
    count.include(whole);

    println!("\n{count}");
    if count.failed > 0 {
        bail!("{} tests failed, see above", count.failed);
    }
    Ok(())
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).current_dir(paths::project());
    cargo
}

fn tests(which: &[&str]) -> Command {
    let mut cargo = cargo(&["test", "--workspace", "--all-features", "--no-fail-fast"]);
    cargo.args(which);
    cargo
}

fn check(what: &str, mut command: Command) -> Result<()> {
    eprintln!("== {what}");
    let status = command
        .status()
        .with_context(|| format!("starting {}", process::shown(&command)))?;
    if !status.success() {
        bail!("{what}: {} failed, see above", process::shown(&command));
    }
    Ok(())
}

/// Licences, duplicates and sources of all dependencies, where cargo-deny is installed.
fn licences() -> Result<()> {
    if process::find("cargo-deny").is_none() {
        eprintln!(
            "== licences: left out, for cargo-deny isn't installed: cargo install cargo-deny"
        );
        return Ok(());
    }
    // Advisories need a database that isn't on every machine's network.
    check(
        "licences",
        cargo(&["deny", "--offline", "check", "licenses", "bans", "sources"]),
    )
}

/// Runs tests, showing their output as it comes and adding up what each test program counted.
fn test(what: &str, mut command: Command, count: &mut Count) -> Result<()> {
    eprintln!("== {what}");
    let begun = Instant::now();
    let (counted, status) = count::follow(&mut command, |line| println!("{line}"))?;
    println!("{what}: {counted}, {} s", begun.elapsed().as_secs());
    // A test program that doesn't compile or dies counts nothing: that must not pass for success.
    if !status.success() && counted.failed == 0 {
        bail!("{what}: {} failed, see above", process::shown(&command));
    }
    count.include(counted);
    Ok(())
}
