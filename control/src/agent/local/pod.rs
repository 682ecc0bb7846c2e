//! What a pod has on the node beside its monitor: a directory with its sockets, a user id, a cgroup.
//!
//! Directories under [`Paths::pods`] are what a new control process finds running pods by.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cgroup::{self, Limits};
use super::paths::Paths;
use super::words::Words;
use crate::state::{ContainerId, PortBinding, Run};

/// First user id of monitors; above what distributions and images use.
const FIRST_UID: u32 = 100_000;
/// Monitors with ids of their own at the same time: as many as there are pod addresses.
const UIDS: u32 = 65_536;
const RECORD: &str = "pod.json";

/// What a later control process needs to know of a pod and can't ask anybody.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PodRecord {
    /// Which run it is.
    pub run: Run,
    /// The monitor's user and group id.
    pub uid: u32,
    /// The monitor keeps to the node's lease.
    #[serde(default)]
    pub leased: bool,
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
    /// To join the pod's cgroup by.
    pub cgroup_procs: File,
    /// The monitor's.
    pub stderr: File,
    /// The other end of it.
    pub words: Words,
}

/// Makes a pod's directory, sockets and cgroup. What an earlier run left is removed. The directory is root's alone: no monitor can put
/// another socket or pipe in the place of one of these.
pub fn make(paths: &Paths, id: &ContainerId, limits: &Limits) -> io::Result<PodFiles> {
    remove(paths, id);
    private_dir(&paths.pods)?;
    private_dir(&paths.pod(id))?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o555)
        .create(&paths.empty)?;
    let (words, stderr) = Words::make(&paths.stderr(id))?;
    Ok(PodFiles {
        api: UnixListener::bind(paths.api_socket(id))?,
        vsock: UnixListener::bind(paths.vsock_socket(id))?,
        root: File::open(&paths.empty)?,
        cgroup_procs: cgroup::make(&paths.pod_cgroup(id), limits)?,
        stderr,
        words,
    })
}

fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
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
    tolerate("cgroup", cgroup::remove(&paths.pod_cgroup(id)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::local::tests::paths;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn nobody_but_root_can_put_something_else_where_a_pods_sockets_are() {
        let dir = tempfile::tempdir().unwrap();
        let (paths, id) = (paths(dir.path()), ContainerId::from_random([1; 32]));
        let limits = Limits {
            memory_bytes: 1,
            threads: 1,
            cpu_quota_us: None,
        };
        let _files = make(&paths, &id, &limits).unwrap();
        for private in [&paths.pods, &paths.pod(&id)] {
            let mode = fs::metadata(private).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", private.display());
        }
    }
}
