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

/// Resident KiB of a monitor beside its guest's memory: its largest stretch of addresses, which advice to the kernel may have divided
/// into several mappings that adjoin.
pub fn overhead_kib(pid: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    // (where it ends, its size in bytes, resident KiB)
    let mut stretches: Vec<(u64, u64, u64)> = Vec::new();
    for line in text.lines() {
        let range = line.split(' ').next().and_then(|word| word.split_once('-'));
        let range = range.and_then(|(from, to)| {
            Some((
                u64::from_str_radix(from, 16).ok()?,
                u64::from_str_radix(to, 16).ok()?,
            ))
        });
        if let Some((from, to)) = range {
            match stretches.last_mut() {
                Some(last) if last.0 == from => (last.0, last.1) = (to, last.1 + to - from),
                _ => stretches.push((to, to - from, 0)),
            }
        } else if let Some(rest) = line.strip_prefix("Rss:") {
            let resident: u64 = rest.trim().trim_end_matches(" kB").parse()?;
            let stretch = stretches.last_mut();
            stretch.context("smaps names a range before its Rss")?.2 += resident;
        }
    }
    let total: u64 = stretches.iter().map(|s| s.2).sum();
    let guest = stretches.iter().max_by_key(|s| s.1).map_or(0, |s| s.2);
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
