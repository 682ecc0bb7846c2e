//! What test programs count, read from what they print.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process;

/// How a test begins the line that says why it couldn't run here. It writes that line to stderr itself, where the test harness
/// doesn't hold it back; the harness takes such a test for passed.
const SKIPPED: &str = "SKIPPED: ";
/// Test programs that print nothing for this long hang, and are ended so that the rest can be run. The longest cases take a third of it on a
/// machine that has much else to do.
const SILENCE: Duration = Duration::from_secs(15 * 60);

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

/// Runs test programs to their end, hands on each line of their stdout, and counts. One that hangs is ended, and counts as one that failed.
pub fn follow(command: &mut Command, line: impl FnMut(&str)) -> Result<(Count, ExitStatus)> {
    follow_within(command, SILENCE, line)
}

fn follow_within(
    command: &mut Command,
    silence: Duration,
    mut line: impl FnMut(&str),
) -> Result<(Count, ExitStatus)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", process::shown(command)))?;
    let stdout = child.stdout.take().expect("stdout was asked for as a pipe");
    let stderr = child.stderr.take().expect("stderr was asked for as a pipe");
    let heard = Mutex::new(Instant::now());
    let mut count = Count::default();
    let (ended, watched) = mpsc::channel::<()>();
    let pid = child.id();
    let (skipped, hangs) = thread::scope(|scope| -> Result<(u64, bool)> {
        let heard = &heard;
        let skipped = scope.spawn(move || pass_on(stderr, io::stderr(), || note(heard)));
        let watcher = scope.spawn(move || {
            loop {
                let quiet = heard
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .elapsed();
                let Some(left) = silence.checked_sub(quiet) else {
                    process::kill_tree(pid);
                    return true;
                };
                match watched.recv_timeout(left) {
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    _ => return false,
                }
            }
        });
        let mut read = Ok(());
        for text in BufReader::new(stdout).lines() {
            let text = match text {
                Ok(text) => text,
                Err(error) => {
                    read = Err(error);
                    break;
                }
            };
            note(heard);
            if let Some(counted) = Count::of(&text) {
                count.include(counted);
            }
            line(&text);
        }
        drop(ended);
        let hangs = watcher
            .join()
            .unwrap_or_else(|e| std::panic::resume_unwind(e));
        read?;
        Ok((
            skipped
                .join()
                .unwrap_or_else(|e| std::panic::resume_unwind(e)),
            hangs,
        ))
    })?;
    let status = child.wait()?;
    count.withdraw(skipped);
    if hangs {
        count.failed += 1;
        line(&format!(
            "{} has printed nothing for {silence:?} and was ended: a test in it hangs",
            process::shown(command)
        ));
    }
    Ok((count, status))
}

fn note(heard: &Mutex<Instant>) {
    *heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
}

/// Shows a test program's stderr, and counts the tests that say they were skipped.
fn pass_on(stderr: impl io::Read, mut to: impl Write, heard: impl Fn()) -> u64 {
    let mut skipped = 0;
    for text in BufReader::new(stderr).lines().map_while(Result::ok) {
        heard();
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
            || {},
        ));
        assert_eq!(count.to_string(), "2 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_those_that_it_has_started_and_has_failed() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; sleep 1000 & sleep 1000"]);
        let mut lines = Vec::new();
        let silence = Duration::from_millis(300);
        let followed = follow_within(&mut command, silence, |line| lines.push(line.to_owned()));
        let (count, status) = followed.unwrap();
        assert_eq!((count.failed, status.success()), (1, false));
        assert_eq!((lines.len(), lines[0].as_str()), (2, "one"));
    }
}
