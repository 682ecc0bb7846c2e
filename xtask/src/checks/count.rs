//! What test programs count, read from what they print.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context, Result};

use crate::process;

/// How a test begins the line that says why it couldn't run here. It writes that line to stderr itself, where the test harness
/// doesn't hold it back; the harness takes such a test for passed.
const SKIPPED: &str = "SKIPPED: ";

/// Tests by how they ended.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Held.
    pub passed: u64,
    /// Didn't.
    pub failed: u64,
    /// Were not asked.
    pub skipped: u64,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

impl Count {
    /// Adds another count.
    pub fn include(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// What a line of a test program's output says: `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`.
    fn of(line: &str) -> Option<Self> {
        let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
        let mut result = Self::default();
        for part in counts.split("; ") {
            let (number, what) = part.split_once(' ')?;
            let place = match what {
                "passed" => &mut result.passed,
                "failed" => &mut result.failed,
                "ignored" => &mut result.skipped,
                _ => continue,
            };
            *place = number.parse().ok()?;
        }
        Some(result)
    }

    /// `tests` that the harness counted as passed have said that they were skipped.
    fn withdraw(&mut self, tests: u64) {
        let withdrawn = tests.min(self.passed);
        self.passed -= withdrawn;
        self.skipped += withdrawn;
    }
}

/// Runs test programs to their end, hands on each line of their stdout, and counts.
pub fn follow(command: &mut Command, mut line: impl FnMut(&str)) -> Result<(Count, ExitStatus)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", process::shown(command)))?;
    let stdout = child.stdout.take().expect("stdout was asked for as a pipe");
    let stderr = child.stderr.take().expect("stderr was asked for as a pipe");
    let skipped = thread::spawn(move || pass_on(stderr, io::stderr()));
    let mut count = Count::default();
    for text in BufReader::new(stdout).lines() {
        let text = text?;
        if let Some(counted) = Count::of(&text) {
            count.include(counted);
        }
        line(&text);
    }
    let status = child.wait()?;
    let skipped = skipped
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    count.withdraw(skipped);
    Ok((count, status))
}

/// Shows a test program's stderr, and counts the tests that say they were skipped.
fn pass_on(stderr: impl io::Read, mut to: impl Write) -> u64 {
    let mut skipped = 0;
    for text in BufReader::new(stderr).lines().map_while(Result::ok) {
        skipped += u64::from(text.starts_with(SKIPPED));
        // It is for people to read; the count is what matters.
        let _ = writeln!(to, "{text}");
    }
    skipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_a_test_program_is_read() {
        let line = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s";
        let counted = Count {
            passed: 3,
            failed: 2,
            skipped: 1,
        };
        assert_eq!(Count::of(line), Some(counted));
        assert_eq!(Count::of("test result: "), None);
        assert_eq!(Count::of("running 3 tests"), None);
    }

    #[test]
    fn a_test_that_says_it_was_skipped_has_not_passed() {
        let mut count = Count {
            passed: 3,
            ..Count::default()
        };
        count.withdraw(pass_on(
            &b"SKIPPED: needs root\nsomething else\n"[..],
            io::sink(),
        ));
        assert_eq!(count.to_string(), "2 passed, 0 failed, 1 skipped");
    }
}
