//! The node's processes, from /proc.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags};
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

/// The cookie by which the kernel keeps a process off the hyper-threads of others; 0: none
/// (Documentation/admin-guide/hw-vuln/core-scheduling.rst).
pub fn cookie(pid: i32) -> Result<u64> {
    /// `PR_SCHED_CORE`, `PR_SCHED_CORE_GET` and `PR_SCHED_CORE_SCOPE_THREAD`, `linux/prctl.h`.
    const GET: [libc::c_ulong; 3] = [62, 0, 0];
    let mut cookie = 0u64;
    let [option, get, thread] = GET;
    // SAFETY: the call writes one u64 to where the last argument points.
    let done = unsafe { libc::prctl(option as libc::c_int, get, pid, thread, &raw mut cookie) };
    match (done, std::io::Error::last_os_error()) {
        (0, _) => Ok(cookie),
        // No processors share a core.
        (_, error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(0),
        (_, error) => Err(error).context("asking for a cookie"),
    }
}

/// What is added to a process's badness when memory is short.
pub fn oom_score(pid: i32) -> Result<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?;
    Ok(text.trim().parse()?)
}

/// A mapping larger than this is the guest's memory, which advice to the kernel divides into several. A monitor's own are at most
/// a thread's stack (2 MiB).
const OWN_MAPPING_MAX_KIB: u64 = 8 << 10;

/// Resident KiB of a monitor beside its guest's memory.
pub fn overhead_kib(pid: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut size, mut overhead) = (0, 0);
    for line in text.lines() {
        let kib = |rest: &str| rest.trim().trim_end_matches(" kB").parse::<u64>();
        if let Some(rest) = line.strip_prefix("Size:") {
            size = kib(rest)?;
        } else if let Some(rest) = line.strip_prefix("Rss:")
            && size <= OWN_MAPPING_MAX_KIB
        {
            overhead += kib(rest)?;
        }
    }
    Ok(overhead)
}

/// A field of /proc/meminfo, KiB.
pub fn meminfo_kib(field: &str) -> Result<u64> {
    field_kib("/proc/meminfo", field)
}

/// A field of this process's own /proc/self/status, KiB.
pub fn status_kib(field: &str) -> Result<u64> {
    field_kib("/proc/self/status", field)
}

fn field_kib(file: &str, field: &str) -> Result<u64> {
    let text = fs::read_to_string(file)?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let value = line.with_context(|| format!("{file} has no {field}"))?;
    Ok(value.trim().trim_end_matches(" kB").parse()?)
}

/// Records of the kernel's log, where init writes what control says too (`Documentation/ABI/testing/dev-kmsg`).
pub fn kernel_log() -> Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut log = File::from(rustix::fs::open("/dev/kmsg", flags, Mode::empty())?);
    let mut records = Vec::new();
    // One read is one record, and no record is longer.
    let mut record = vec![0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(length) => records.push(String::from_utf8_lossy(&record[..length]).into_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(records),
            // Records that were overwritten before they were read.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) => return Err(error.into()),
        }
    }
}
