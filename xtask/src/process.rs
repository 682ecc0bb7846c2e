//! Running programs: quietly, with everything they said at hand when they fail.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How many lines of a failed program's output are shown; the rest is in its log.
const LINES_SHOWN: usize = 30;

/// How often a long-running program's progress is repeated where the output is no terminal.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(60);

/// How often it is looked whether a program has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The first place in `PATH`, or in the system's directories for administrators, where a program is found.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Runs a program to its end and returns its stdout; stderr is part of the error.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", shown(command)))?;
    if !output.status.success() {
        bail!(
            "{} failed ({}):\n{}{}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Like [`capture`], for a program that prints little and may hang: it is ended after `patience`.
pub fn capture_within(command: &mut Command, patience: Duration) -> Result<String> {
    let begun = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", shown(command)))?;
    while child.try_wait()?.is_none() {
        if begun.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            bail!("{}: no answer in {} s", shown(command), patience.as_secs());
        }
        thread::sleep(LOOK_INTERVAL);
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program to its end with its output in `log`, and shows the end of that log if it fails.
pub fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    let file = create(log)?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("starting {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status}). {}", shown(command), end_of(log));
    }
    Ok(())
}

/// Like [`run_logged`], for what takes minutes: shows how many lines it has printed, which for a build is how many
/// files it has made.
pub fn run_long(what: &str, command: &mut Command, log: &Path) -> Result<()> {
    let mut file = create(log)?;
    let begun = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file.try_clone()?)
        .spawn()
        .with_context(|| format!("starting {}", shown(command)))?;
    let stdout = child.stdout.take().expect("stdout was asked for as a pipe");
    let terminal = std::io::stderr().is_terminal();
    let every = if terminal {
        Duration::from_millis(500)
    } else {
        PROGRESS_INTERVAL
    };
    let mut shown_at = begun;
    for (count, line) in (1u64..).zip(BufReader::new(stdout).lines()) {
        writeln!(file, "{}", line?)?;
        if shown_at.elapsed() >= every {
            shown_at = Instant::now();
            let end = if terminal { "\r" } else { "\n" };
            eprint!(
                "    {what}: {count} steps, {} s{end}",
                begun.elapsed().as_secs()
            );
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!(
            "{what}: {} failed ({status}). {}",
            shown(command),
            end_of(log)
        );
    }
    eprintln!("    {what}: {} s              ", begun.elapsed().as_secs());
    Ok(())
}

/// A command line for people to read, not for a shell to parse.
pub fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

fn create(log: &Path) -> Result<File> {
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir)?;
    }
    File::create(log).with_context(|| format!("creating {}", log.display()))
}

fn end_of(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let end = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
    format!("The end of {}:\n{}", log.display(), end.join("\n"))
}

/// Kills a program and all that it has started, as far as they are its descendants still. Those that have ended are no error.
pub fn kill_tree(pid: u32) {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let children: Vec<u32> = tasks
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| {
            let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
            pids.collect::<Vec<_>>()
        })
        .collect();
    // The parent first, so that it starts no more.
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
    for child in children {
        kill_tree(child);
    }
}
