//! `cargo xtask test`: everything a change must pass, each step by the tool that does it, and a count at the end.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{image, paths, prerequisites, process};

/// Names the image to the end-to-end tests.
pub const EFI_VARIABLE: &str = "HEARTH_EFI";

/// End-to-end cases at once: the node has two processors, and on a machine with many more cases would only wait for each other.
const CASES_AT_ONCE: &str = "2";

/// Names of test programs (patterns of cargo's): all but those of the one long program, and it.
const HALVES: [&str; 2] = ["[!r]*", "r*"];

/// What test programs counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Count {
    /// Adds what a line of a test program's output says, if it says something.
    fn add(&mut self, line: &str) {
        if let Some(result) = counted(line) {
            self.passed += result.passed;
            self.failed += result.failed;
            self.ignored += result.ignored;
        }
    }
}

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
    test("unit tests", &mut tests(&["--lib"]), &mut count)?;
    test(
        "examples in the documentation",
        &mut tests(&["--doc"]),
        &mut count,
    )?;

    let registry = prerequisites::registry()?;
    let efi = image::build(&prerequisites)?;
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(dir) = registry.parent() {
        let dirs = std::iter::once(dir.to_owned()).chain(std::env::split_paths(&path));
        path = std::env::join_paths(dirs)?;
    }
    let end_to_end = |programs: &str| {
        let mut tests = tests(&["--test", programs]);
        tests
            .args(filter)
            .args(["--", "--test-threads", CASES_AT_ONCE]);
        tests.env(EFI_VARIABLE, &efi).env("PATH", &path);
        tests
    };
    check(
        "compiling the tests",
        tests(&["--test", "*", "--no-run", "--quiet"]),
    )?;
    let what = "tests of whole programs and of the image";
    // An emulated node keeps one processor busy. So half of the work goes beside the other, its results shown afterwards.
    let [mut most, mut rest] = HALVES.map(end_to_end);
    let (rest, ended) = thread::scope(|scope| {
        let most = scope.spawn(|| test(what, &mut most, &mut count));
        (collect(&mut rest), most.join())
    });
    let (lines, status) = rest?;
    let mut counts = Count::default();
    for line in lines {
        counts.add(&line);
        println!("{line}");
    }
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    if !status.success() && counts.failed == 0 {
        bail!("{what}: {status}, see above");
    }
    count.passed += counts.passed;
    count.failed += counts.failed;
    count.ignored += counts.ignored;

    println!(
        "\n{} passed, {} failed, {} skipped",
        count.passed, count.failed, count.ignored
    );
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
fn test(what: &str, command: &mut Command, count: &mut Count) -> Result<()> {
    eprintln!("== {what}");
    let begun = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", process::shown(command)))?;
    let stdout = child.stdout.take().expect("stdout was asked for as a pipe");
    let before = *count;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        count.add(&line);
        println!("{line}");
    }
    let status = child.wait()?;
    println!(
        "{what}: {} passed, {} failed, {} s",
        count.passed - before.passed,
        count.failed - before.failed,
        begun.elapsed().as_secs()
    );
    // A test program that doesn't compile or dies counts nothing: that must not pass for success.
    if !status.success() && count.failed == before.failed {
        bail!("{what}: {} failed, see above", process::shown(command));
    }
    Ok(())
}

/// Runs tests and keeps their output.
fn collect(command: &mut Command) -> Result<(Vec<String>, ExitStatus)> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {}", process::shown(command)))?;
    let lines = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect();
    Ok((lines, output.status))
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`.
fn counted(line: &str) -> Option<Count> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut result = Count::default();
    for part in counts.split("; ") {
        let (number, what) = part.split_once(' ')?;
        let place = match what {
            "passed" => &mut result.passed,
            "failed" => &mut result.failed,
            "ignored" => &mut result.ignored,
            _ => continue,
        };
        *place = number.parse().ok()?;
    }
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_a_test_program_is_read() {
        let line = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s";
        assert_eq!(
            counted(line),
            Some(Count {
                passed: 3,
                failed: 2,
                ignored: 1
            })
        );
        assert_eq!(counted("test result: "), None);
        assert_eq!(counted("running 3 tests"), None);
    }
}
