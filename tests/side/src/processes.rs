//! The node's processes, from /proc.

use std::fs;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// Process ids whose command name is `name`.
pub fn named(name: &str) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
        })
        .collect()
}

/// Sends SIGKILL to every process of that name; returns how many there were.
pub fn kill(name: &str) -> Result<usize> {
    let pids = named(name);
    for pid in &pids {
        let pid = Pid::from_raw(*pid).context("a process id is positive")?;
        kill_process(pid, Signal::KILL)?;
    }
    Ok(pids.len())
}

/// Resident KiB of a monitor beside its guest's memory, which is its largest mapping.
pub fn overhead_kib(pid: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    // (size of the mapping, resident part of it)
    let mut mappings: Vec<(u64, u64)> = Vec::new();
    for line in text.lines() {
        let kib = |rest: &str| rest.trim().trim_end_matches(" kB").parse::<u64>();
        if let Some(rest) = line.strip_prefix("Size:") {
            mappings.push((kib(rest)?, 0));
        } else if let Some(rest) = line.strip_prefix("Rss:") {
            mappings
                .last_mut()
                .context("smaps names a size before Rss")?
                .1 = kib(rest)?;
        }
    }
    let total: u64 = mappings.iter().map(|m| m.1).sum();
    let guest = mappings.iter().max_by_key(|m| m.0).map_or(0, |m| m.1);
    Ok(total - guest)
}

/// A field of /proc/meminfo, KiB.
pub fn meminfo_kib(field: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let value = line.with_context(|| format!("/proc/meminfo has no {field}"))?;
    Ok(value.trim().trim_end_matches(" kB").parse()?)
}
