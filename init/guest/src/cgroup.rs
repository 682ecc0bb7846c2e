//! A container's control group (cgroup v2): its limits, its processes, and whether it ran out of memory.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hearth_guest_protocol::{Container, Error};
use rustix::fs::{Mode, OFlags, open};

use super::{device_policy, system};

/// Period of `cpu.max`, microseconds: the kernel's own default and docker's.
const CPU_PERIOD_US: u64 = 100_000;
/// Controllers that containers are limited by, or limit their own by.
const CONTROLLERS: [&str; 5] = ["+cpu", "+memory", "+pids", "+io", "+cpuset"];

/// More than the half dozen lines of `memory.events`, bytes.
const MEMORY_EVENTS_MAX: usize = 512;

/// One container's group.
pub struct Cgroup {
    path: PathBuf,
    dir: OwnedFd,
}

/// Lets the groups below `root` use the controllers. One that the kernel lacks is left out; what needs it will say so.
pub fn enable_controllers(root: &Path) {
    let file = root.join("cgroup.subtree_control");
    if fs::write(&file, CONTROLLERS.join(" ")).is_err() {
        for controller in CONTROLLERS {
            let _ = fs::write(&file, controller);
        }
    }
}

impl Cgroup {
    /// Makes the group of a container, sets its limits, and closes all devices to it that it isn't meant to have.
    pub fn create(root: &Path, container: &Container) -> Result<Self, Error> {
        let path = root.join(&container.id);
        match fs::create_dir(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(system("making a cgroup")(e));
            }
            _ => {}
        }
        let dir = open_dir(&path).map_err(system("opening a cgroup"))?;
        let cgroup = Self { path, dir };
        let limits = [
            (
                "memory.max",
                container.memory_max.map(|bytes| bytes.to_string()),
            ),
            (
                "cpu.max",
                container
                    .cpu_quota_us
                    .map(|quota| format!("{quota} {CPU_PERIOD_US}")),
            ),
            (
                "pids.max",
                container.pids_max.map(|count| count.to_string()),
            ),
        ];
        for (file, value) in limits {
            if let Some(value) = value {
                fs::write(cgroup.path.join(file), value)
                    .map_err(system(format!("setting {file}")))?;
            }
        }
        if !container.privileged {
            device_policy::attach(cgroup.dir())
                .map_err(system("limiting the container's devices"))?;
        }
        Ok(cgroup)
    }

    /// The directory, for clone3.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The group in which a process is now: a container may have moved its own processes into groups below its own, and then
    /// no other process can enter the container's.
    pub fn dir_of_process(&self, root: &Path, pid: u32) -> io::Result<OwnedFd> {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let path = groups
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap_or_default();
        open_dir(&root.join(path))
    }

    /// What happens to the memory of the group and those below it.
    pub fn memory_events(&self) -> io::Result<MemoryEvents> {
        Ok(MemoryEvents(fs::File::open(
            self.path.join("memory.events"),
        )?))
    }

    /// Ids of all processes in the group and those below it.
    pub fn processes(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        collect_processes(&self.path, &mut pids);
        pids.sort_unstable();
        pids
    }

    /// Kills all that is left in the group and removes it.
    pub fn remove(&self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        remove_tree(&self.path);
    }
}

/// `memory.events` of a group. Becomes ready (`POLLPRI`) whenever something has happened since it was last read.
pub struct MemoryEvents(fs::File);

impl MemoryEvents {
    /// How many processes the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let mut events = [0; MEMORY_EVENTS_MAX];
        let length = rustix::io::pread(&self.0, &mut events, 0).unwrap_or(0);
        parse_oom_kills(&String::from_utf8_lossy(&events[..length]))
    }
}

impl AsFd for MemoryEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn parse_oom_kills(events: &str) -> u64 {
    events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
        .unwrap_or(0)
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn subgroups(path: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(path).ok().into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
}

fn collect_processes(path: &Path, pids: &mut Vec<u32>) {
    let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    pids.extend(procs.lines().filter_map(|line| line.parse::<u32>().ok()));
    for below in subgroups(path) {
        collect_processes(&below, pids);
    }
}

fn remove_tree(path: &Path) {
    for below in subgroups(path) {
        remove_tree(&below);
    }
    // A group that is still in use stays, and costs a little memory until the microVM ends.
    let _ = fs::remove_dir(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_told_apart_from_what_only_sounds_like_them() {
        let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(parse_oom_kills(events), 2);
        assert_eq!(parse_oom_kills(""), 0);
    }
}
