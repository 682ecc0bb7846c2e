//! What a pod has on the node beside its monitor: a directory with its sockets, a user id, a cgroup.
//!
//! Directories under [`Paths::pods`] are what a new control process finds running pods by.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::paths::Paths;
use crate::state::{ContainerId, PortBinding};

/// First user id of monitors; above what distributions and images use.
const FIRST_UID: u32 = 100_000;
/// Monitors with ids of their own at the same time: as many as there are pod addresses.
const UIDS: u32 = 65_536;
/// cgroup's CPU period, microseconds.
const CPU_PERIOD_US: u64 = 100_000;
const RECORD: &str = "pod.json";

/// What a later control process needs to know of a pod and can't ask anybody.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PodRecord {
    /// The monitor's user and group id.
    pub uid: u32,
    /// The monitor.
    pub pid: u32,
    /// Of this run.
    pub ports: Vec<PortBinding>,
}

/// Sockets and descriptors for a monitor to inherit.
pub struct PodFiles {
    /// Listening.
    pub api: UnixListener,
    /// Listening.
    pub vsock: UnixListener,
    /// Empty directory.
    pub root: File,
    /// None: the node has no cgroup for pods.
    pub cgroup_procs: Option<File>,
}

/// Makes a pod's directory, sockets and cgroup. What an earlier run left is removed.
pub fn make(paths: &Paths, id: &ContainerId, cpu_quota_us: Option<u64>) -> io::Result<PodFiles> {
    remove(paths, id);
    private_dir(&paths.pods)?;
    private_dir(&paths.pod(id))?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o555)
        .create(&paths.empty)?;
    Ok(PodFiles {
        api: UnixListener::bind(paths.api_socket(id))?,
        vsock: UnixListener::bind(paths.vsock_socket(id))?,
        root: File::open(&paths.empty)?,
        cgroup_procs: match cgroup(paths, id, cpu_quota_us) {
            Ok(procs) => Some(procs),
            Err(error) => {
                tracing::warn!(pod = id.short(), %error, "no cgroup for the pod; it runs in control's");
                None
            }
        },
    })
}

fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn cgroup(paths: &Paths, id: &ContainerId, cpu_quota_us: Option<u64>) -> io::Result<File> {
    fs::create_dir_all(&paths.cgroup)?;
    // Whether the controllers are handed down is the machine's matter, and no reason not to start.
    if let Err(error) = fs::write(
        paths.cgroup.join("cgroup.subtree_control"),
        "+cpu +memory +pids",
    ) {
        tracing::debug!(%error, "pods have no controllers of their own");
    }
    let dir = paths.pod_cgroup(id);
    fs::create_dir_all(&dir)?;
    if let Some(quota) = cpu_quota_us {
        fs::write(dir.join("cpu.max"), format!("{quota} {CPU_PERIOD_US}"))?;
    }
    OpenOptions::new()
        .write(true)
        .open(dir.join("cgroup.procs"))
}

/// Writes what [`read`] gives back.
pub fn record(paths: &Paths, id: &ContainerId, record: &PodRecord) -> io::Result<()> {
    fs::write(paths.pod(id).join(RECORD), serde_json::to_vec(record)?)
}

/// What [`record`] wrote.
pub fn read(paths: &Paths, id: &ContainerId) -> io::Result<PodRecord> {
    Ok(serde_json::from_slice(&fs::read(
        paths.pod(id).join(RECORD),
    )?)?)
}

/// Removes what [`make`] made; a process that is still in the cgroup is killed. Errors are told, not returned: the next run, and the
/// next process, try again.
pub fn remove(paths: &Paths, id: &ContainerId) {
    let tolerate = |what: &str, done: io::Result<()>| match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(pod = id.short(), %error, what, "removing what is left of the pod");
        }
        _ => {}
    };
    tolerate("directory", fs::remove_dir_all(paths.pod(id)));
    let cgroup = paths.pod_cgroup(id);
    if cgroup.exists() {
        tolerate("processes", fs::write(cgroup.join("cgroup.kill"), "1"));
        tolerate("cgroup", fs::remove_dir(&cgroup));
    }
}

/// Ids of the pods that have a directory.
pub fn list(paths: &Paths) -> io::Result<Vec<ContainerId>> {
    let entries = match fs::read_dir(&paths.pods) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        if let Ok(id) = entry?.file_name().to_string_lossy().parse() {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// A user id that no pod in `taken` has.
pub fn free_uid(mut taken: Vec<u32>) -> Option<u32> {
    taken.sort_unstable();
    (FIRST_UID..FIRST_UID + UIDS).find(|uid| taken.binary_search(uid).is_err())
}
