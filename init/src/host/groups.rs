//! Control groups, and who ends first: what becomes of a node that has less than everybody asks for.
//!
//! ```text
//! /sys/fs/cgroup
//! ├─ control   its memory is not taken from it; goes before the pods where processors or disks are short
//! └─ pods      the node's memory less what is kept for all others, and no swap; each pod has a group below, of equal weight
//! ```
//!
//! A pod that asks for memory when there is none left is ended, or the largest of them; then control; init never is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::kmsg;

/// Root of the cgroup v2 hierarchy.
pub const ROOT: &str = "/sys/fs/cgroup";
/// The controller's group below it.
pub const CONTROL: &str = "/sys/fs/cgroup/control";
/// The microVMs' group below it.
const PODS: &str = "/sys/fs/cgroup/pods";
/// Controllers handed down to microVMs.
const CONTROLLERS: [&str; 5] = ["+cpu", "+memory", "+pids", "+io", "+cpuset"];

const MIB: u64 = 1 << 20;
/// Kept from pods: an idle node of ours takes less than 100 MiB, kernel and files in RAM included; control unpacks images beside that.
const KEPT_MIB: u64 = 192;
/// And this part of the memory: what the kernel keeps about each page, and its reserves, grow with it.
const KEPT_PART: u64 = 32;
/// Of the pods' limit, the last part is given out slowly. Control ends a pod where that begins; the rest is for what others take until its
/// memory has come back.
const SLOW_PART: u64 = 16;
/// Of control's memory, this much is never taken back for others. It is what it takes at work, page cache included.
const CONTROL_MIN_MIB: u64 = 128;
/// Against the pods' 100 together: an API that answers, and commits that are written, on the busiest node.
const CONTROL_WEIGHT: &str = "1000";
/// init is never ended for want of memory (proc_pid_oom_score_adj(5)).
const INIT_OOM_SCORE: &str = "-1000";
/// Control only after every pod, whose own are above zero.
pub const CONTROL_OOM_SCORE: &[u8] = b"-900";

/// Makes the groups of a node with this much memory.
pub fn make(memory_bytes: u64) {
    for path in [ROOT, PODS] {
        if path != ROOT {
            note(path, fs::create_dir_all(path));
        }
        for controller in CONTROLLERS {
            set(path, "cgroup.subtree_control", controller);
        }
    }
    note(CONTROL, fs::create_dir_all(CONTROL));
    let limit = for_pods(memory_bytes);
    set(
        PODS,
        "memory.high",
        &(limit - limit / SLOW_PART).to_string(),
    );
    set(PODS, "memory.max", &limit.to_string());
    set(PODS, "memory.swap.max", "0");
    set(
        CONTROL,
        "memory.min",
        &(CONTROL_MIN_MIB * MIB).min(memory_bytes / 4).to_string(),
    );
    set(CONTROL, "cpu.weight", CONTROL_WEIGHT);
    set(CONTROL, "io.weight", CONTROL_WEIGHT);
    note(
        "init's own end",
        fs::write("/proc/self/oom_score_adj", INIT_OOM_SCORE),
    );
}

/// What all pods together may have. On the smallest machines, half.
fn for_pods(memory_bytes: u64) -> u64 {
    let kept = KEPT_MIB * MIB + memory_bytes / KEPT_PART;
    memory_bytes - kept.min(memory_bytes / 2)
}

/// From here on groups share the disk by weight: the kernel reckons what each request costs on a disk of its kind
/// (Documentation/admin-guide/cgroup-v2.rst, "IO Interface Files"). BFQ would do so too, and costs every request a lock; an `io.max`
/// would leave a disk idle that nobody else uses.
pub fn share_disk(device: &Path) -> io::Result<()> {
    let number = fs::read_to_string(whole_disk(device)?.join("dev"))?;
    let line = format!("{} enable=1", number.trim());
    fs::write(Path::new(ROOT).join("io.cost.qos"), line)
}

/// The directory in sysfs of the disk that a device is, or is a part of.
fn whole_disk(device: &Path) -> io::Result<PathBuf> {
    let name = device.file_name().unwrap_or_default();
    let place = fs::canonicalize(Path::new("/sys/class/block").join(name))?;
    match place.parent() {
        Some(disk) if place.join("partition").exists() => Ok(disk.to_owned()),
        _ => Ok(place),
    }
}

fn set(group: &str, file: &str, value: &str) {
    note(file, fs::write(Path::new(group).join(file), value));
}

fn note(what: &str, result: io::Result<()>) {
    if let Err(error) = result {
        kmsg::log(&format!("init: setting {what}: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_what_a_node_does_not_need_itself() {
        let mib = |memory_mib: u64| for_pods(memory_mib * MIB) / MIB;
        assert_eq!(mib(256), 128);
        assert_eq!(mib(2048), 2048 - 192 - 64);
        assert_eq!(mib(65536), 65536 - 192 - 2048);
    }
}
