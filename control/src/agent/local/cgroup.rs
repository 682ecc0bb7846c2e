//! A pod's control group: the walls around what its monitor takes of the node.
//!
//! init has made the group of all pods, and has limited it to what the node can spare (`init/src/host/groups.rs`). Weights stay the
//! kernel's defaults here: pods share processors and disks equally, whoever they belong to. A monitor is in its group before its
//! program begins, so that nothing of it is ever counted as control's.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use super::size::Size;

const MIB: u64 = 1 << 20;
/// cgroup's CPU period, microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// What a monitor takes beside its guest's memory: about 2 MiB of its own, the kernel's part of the VM, and room for the pages of its
/// disks' files that are being read or written. The kernel takes these back before it ends anybody.
const MONITOR_MIB: u64 = 64;
/// Tables by which guest memory is reached: 8 bytes for each page of 4 KiB in the process's own and in the VM's, and KVM's notes about
/// each page. 1/128 together; twice that to be sure.
const TABLES: u64 = 64;
/// Threads of a monitor beside its virtual CPUs: the main one, the disks', KVM's own, and some that a later kernel may add. A pod that
/// is at its limit has no use for more.
const THREADS: u64 = 8;

/// What a pod may take of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Guest memory, monitor, and the kernel's work for both.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub threads: u64,
    /// Of [`CPU_PERIOD_US`]; None: no limit.
    pub cpu_quota_us: Option<u64>,
}

impl Limits {
    /// For a microVM of this size. `layer_bytes` is the size of its writable layer where that is in RAM: what is written to it counts
    /// as its memory then, and can't be taken back.
    pub fn new(size: Size, cpu_quota_us: Option<u64>, layer_bytes: u64) -> Self {
        let guest = u64::from(size.memory_mib) * MIB;
        Self {
            memory_bytes: guest + guest / TABLES + MONITOR_MIB * MIB + layer_bytes,
            threads: u64::from(size.vcpus) + THREADS,
            cpu_quota_us,
        }
    }
}

/// Makes a group with its limits; what is written to the returned `cgroup.procs` joins it. A limit that can't be set is an error:
/// there is no pod without walls.
pub fn make(dir: &Path, limits: &Limits) -> io::Result<File> {
    fs::create_dir_all(dir)?;
    set(dir, "memory.max", &limits.memory_bytes.to_string())?;
    set(dir, "pids.max", &limits.threads.to_string())?;
    if let Some(quota) = limits.cpu_quota_us {
        set(dir, "cpu.max", &format!("{quota} {CPU_PERIOD_US}"))?;
    }
    let procs = dir.join("cgroup.procs");
    // Where it isn't there it can't be created either.
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&procs)
        .map_err(|error| named(&procs, error))
}

fn set(dir: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = dir.join(file);
    fs::write(&path, value).map_err(|error| named(&path, error))
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The one process in a group, by the kernel's word. None: there is none. A monitor can't start others.
pub fn process(dir: &Path) -> io::Result<Option<u32>> {
    let text = match fs::read_to_string(dir.join("cgroup.procs")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let mut lines = text.lines();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(pid), None) => pid.parse().map(Some).map_err(io::Error::other),
        _ => Err(io::Error::other("several processes where there is one")),
    }
}

/// The kernel has ended something in the group for want of memory, the pod's or the node's.
pub fn ran_out_of_memory(dir: &Path) -> bool {
    let events = fs::read_to_string(dir.join("memory.events")).unwrap_or_default();
    events
        .lines()
        .filter_map(|line| line.strip_prefix("oom_kill "))
        .any(|count| count != "0")
}

/// Kills whatever is in a group.
pub fn kill(dir: &Path) -> io::Result<()> {
    fs::write(dir.join("cgroup.kill"), "1")
}

/// Removes a group; a process that is still in it is killed.
pub fn remove(dir: &Path) -> io::Result<()> {
    match kill(dir).and_then(|()| fs::remove_dir(dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_within_its_guests_memory_never_meets_its_limit() {
        let size = Size {
            memory_mib: 1024,
            vcpus: 2,
        };
        let limits = Limits::new(size, None, 0);
        // 1/512 for each of two kinds of page tables, and the monitor's own.
        assert!(limits.memory_bytes >= (1024 + 2 + 2 + 8) * MIB);
        assert!(limits.memory_bytes <= (1024 + 128) * MIB);
        assert_eq!(
            Limits::new(size, None, 5 * MIB).memory_bytes,
            limits.memory_bytes + 5 * MIB
        );
    }

    #[test]
    fn every_limit_is_written_and_one_that_cannot_be_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let limits = Limits {
            memory_bytes: 4096,
            threads: 3,
            cpu_quota_us: Some(1000),
        };
        for broken in ["", "memory.max", "pids.max", "cpu.max", "cgroup.procs"] {
            let dir = root.path().join(format!("pod-{broken}"));
            // A file that can't be written, as in a group without that controller.
            fs::create_dir_all(dir.join(broken)).unwrap();
            match make(&dir, &limits) {
                Ok(_) => assert_eq!(broken, ""),
                Err(error) => assert!(
                    !broken.is_empty() && error.to_string().contains(broken),
                    "{error}"
                ),
            }
        }
        let read = |file: &str| fs::read_to_string(root.path().join("pod-").join(file)).unwrap();
        assert_eq!(read("memory.max"), "4096");
        assert_eq!(read("pids.max"), "3");
        assert_eq!(read("cpu.max"), "1000 100000");
    }

    #[test]
    fn only_the_one_process_of_a_group_is_its_monitor() {
        let dir = tempfile::tempdir().unwrap();
        let procs = dir.path().join("cgroup.procs");
        assert_eq!(process(dir.path()).unwrap(), None);
        for (text, found) in [
            ("", Some(None)),
            ("17\n", Some(Some(17))),
            ("17\n18\n", None),
        ] {
            fs::write(&procs, text).unwrap();
            assert_eq!(process(dir.path()).ok(), found, "{text:?}");
        }
    }

    #[test]
    fn a_kill_for_want_of_memory_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        for (count, seen) in [(0, false), (1, true)] {
            let events =
                format!("low 0\nhigh 0\nmax 9\noom 1\noom_kill {count}\noom_group_kill 0\n");
            fs::write(dir.path().join("memory.events"), events).unwrap();
            assert_eq!(ran_out_of_memory(dir.path()), seen);
        }
    }
}
