//! The end-to-end tests, spread over processes by how long they took the last time.
//!
//! A test program boots a node that its cases share, so a program runs as one process, unless it alone would take longer than a
//! processor's share of everything: then its cases are divided. Processes start longest first, one for each processor of
//! the emulated nodes.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::count::{self, Count};
use crate::{paths, process};

/// Processes at once: an emulated node keeps one processor busy, and the machine that checks changes has two.
const AT_ONCE: usize = 2;
/// Cases at once in each: while one waits for its node, the other has the client's work to do.
const CASES_AT_ONCE: usize = 2;
/// What a case is taken for that was never measured, in seconds.
const UNMEASURED_S: f64 = 10.0;
/// Where measured times are kept, in the cache.
const TIMES: &str = "test-times.json";

/// Seconds by `program::case`.
type Times = BTreeMap<String, f64>;

/// Cases of one program that run in one process.
#[derive(Debug, Clone, PartialEq)]
struct Shard {
    program: String,
    executable: PathBuf,
    /// In the order in which the harness starts them, with what they took.
    cases: Vec<(String, f64)>,
}

impl Shard {
    fn seconds(&self) -> f64 {
        self.cases.iter().map(|(_, seconds)| seconds).sum()
    }

    /// Two halves that take equally long, each with at least one case.
    fn halves(mut self) -> [Self; 2] {
        let half = self.seconds() / 2.0;
        let mut sum = 0.0;
        let at = self.cases.iter().position(|(_, seconds)| {
            sum += seconds;
            sum > half
        });
        let last = self.cases.len().saturating_sub(1).max(1);
        let rest = self.cases.split_off(at.unwrap_or(last).clamp(1, last));
        let second = Self {
            cases: rest,
            ..self.clone()
        };
        [self, second]
    }
}

/// Runs the programs that `compile` names; with `filter`, only the cases whose name contains it.
pub fn run(
    compile: Command,
    filter: Option<&str>,
    variables: &[(&str, OsString)],
) -> Result<Count> {
    let file = paths::cache()?.join(TIMES);
    let times: Times = fs::read(&file)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let mut programs = Vec::new();
    for (program, executable) in executables(compile)? {
        let mut cases = Vec::new();
        for case in cases_of(&executable)? {
            if filter.is_none_or(|filter| case.contains(filter)) {
                let known = times.get(&format!("{program}::{case}"));
                cases.push((case, known.copied().unwrap_or(UNMEASURED_S)));
            }
        }
        if !cases.is_empty() {
            programs.push(Shard {
                program,
                executable,
                cases,
            });
        }
    }
    // Behind the lock: what is still to run, and what has come of the rest. It is held for no longer than a look.
    let shared = Mutex::new((VecDeque::from(divided(programs)), Count::default(), times));
    let worker = || -> Result<()> {
        loop {
            let next = locked(&shared).0.pop_front();
            let Some(shard) = next else { return Ok(()) };
            let (count, measured) = execute(&shard, variables)?;
            let mut shared = locked(&shared);
            shared.1.include(count);
            shared.2.extend(measured);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        ended
            .into_iter()
            .try_for_each(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let (_, count, times) = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    fs::write(&file, serde_json::to_vec_pretty(&times)?)
        .with_context(|| format!("writing {}", file.display()))?;
    Ok(count)
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Divides what is longer than a worker's share, and puts the longest first.
fn divided(mut shards: Vec<Shard>) -> Vec<Shard> {
    let share = shards.iter().map(Shard::seconds).sum::<f64>() / AT_ONCE as f64;
    while let Some(at) = shards
        .iter()
        .position(|shard| shard.seconds() > share && shard.cases.len() > 1)
    {
        let halves = shards.swap_remove(at).halves();
        shards.extend(halves);
    }
    shards.sort_by(|a, b| b.seconds().total_cmp(&a.seconds()));
    shards
}

/// Compiles the test programs; their names and where they are.
fn executables(mut compile: Command) -> Result<Vec<(String, PathBuf)>> {
    let output = compile
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("starting {}", process::shown(&compile)))?;
    if !output.status.success() {
        bail!("{} failed, see above", process::shown(&compile));
    }
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Value = serde_json::from_str(line).context("cargo speaks JSON")?;
        if let (Some(name), Some(executable)) = (
            message["target"]["name"].as_str(),
            message["executable"].as_str(),
        ) && message["profile"]["test"] == true
        {
            found.push((name.to_owned(), executable.into()));
        }
    }
    Ok(found)
}

/// From lines `NAME: test`.
fn cases_of(executable: &Path) -> Result<Vec<String>> {
    let listed = process::capture(Command::new(executable).args(["--list", "--format", "terse"]))?;
    let cases = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    Ok(cases.map(str::to_owned).collect())
}

/// Runs a shard, and shows how each case ended at once, and the rest of what was printed if one failed.
fn execute(shard: &Shard, variables: &[(&str, OsString)]) -> Result<(Count, Times)> {
    let mut command = Command::new(&shard.executable);
    command
        .args(shard.cases.iter().map(|(case, _)| case))
        .args(["--exact", "--test-threads", &CASES_AT_ONCE.to_string()])
        .current_dir(paths::project())
        .envs(variables.iter().cloned());
    let begun = Instant::now();
    let mut held = Vec::new();
    let mut ended = Vec::new();
    let (count, status) = count::follow(&mut command, |line| match result_of(line) {
        Some(case) => {
            ended.push((case.to_owned(), begun.elapsed().as_secs_f64()));
            println!("{}: {line}", shard.program);
        }
        None => held.push(line.to_owned()),
    })?;
    println!(
        "{}: {count}, {} s",
        shard.program,
        begun.elapsed().as_secs()
    );
    if !status.success() {
        println!("{}", held.join("\n"));
        if count.failed == 0 {
            bail!(
                "{} ended without a count: {status}, see above",
                shard.program
            );
        }
    }
    let measured = durations(&shard.cases, &ended).into_iter();
    let times = measured.map(|(case, seconds)| (format!("{}::{case}", shard.program), seconds));
    Ok((count, times.collect()))
}

/// The case whose end a line tells: `test NAME ... ok`.
fn result_of(line: &str) -> Option<&str> {
    let (case, _) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some(case)
}

/// How long each case took, from when each ended: the harness starts them in order, the next when one ends.
fn durations(order: &[(String, f64)], ended: &[(String, f64)]) -> Vec<(String, f64)> {
    let mut begun: BTreeMap<&str, f64> = BTreeMap::new();
    let mut waiting = order.iter().map(|(case, _)| case.as_str());
    for case in waiting.by_ref().take(CASES_AT_ONCE) {
        begun.insert(case, 0.0);
    }
    let mut measured = Vec::new();
    for (case, at) in ended {
        if let Some(next) = waiting.next() {
            begun.insert(next, *at);
        }
        if let Some(since) = begun.get(case.as_str()) {
            measured.push((case.clone(), at - since));
        }
    }
    measured
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(program: &str, seconds: &[f64]) -> Shard {
        let cases = seconds.iter().enumerate();
        Shard {
            program: program.into(),
            executable: PathBuf::new(),
            cases: cases.map(|(n, s)| (format!("case{n}"), *s)).collect(),
        }
    }

    #[test]
    fn only_a_program_longer_than_a_workers_share_is_divided_and_the_longest_goes_first() {
        let short = shard("short", &[10.0]);
        let middle = shard("middle", &[20.0, 10.0]);
        let long = shard("long", &[10.0; 9]);
        let divided = divided(vec![short.clone(), long, middle.clone()]);
        let programs: Vec<_> = divided
            .iter()
            .map(|s| (s.program.as_str(), s.seconds()))
            .collect();
        assert_eq!(
            programs,
            [
                ("long", 50.0),
                ("long", 40.0),
                ("middle", 30.0),
                ("short", 10.0)
            ]
        );
    }

    #[test]
    fn one_case_is_never_divided_and_no_half_is_empty() {
        assert_eq!(divided(vec![shard("a", &[100.0])]).len(), 1);
        for seconds in [[1.0, 9.0], [9.0, 1.0], [0.0, 0.0]] {
            let halves = shard("a", &seconds).halves();
            assert!(
                halves.iter().all(|half| half.cases.len() == 1),
                "{halves:?}"
            );
        }
    }

    #[test]
    fn a_cases_time_begins_when_the_one_before_it_ended() {
        let named = |name: &str, at| (name.to_owned(), at);
        let order = ["a", "b", "c", "d"].map(|name| named(name, 0.0));
        let ended = [
            named("b", 5.0),
            named("c", 6.0),
            named("a", 9.0),
            named("d", 10.0),
        ];
        let expected = [
            named("b", 5.0),
            named("c", 1.0),
            named("a", 9.0),
            named("d", 4.0),
        ];
        assert_eq!(durations(&order, &ended), expected);
    }
}
