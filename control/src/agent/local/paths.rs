//! Where an agent finds and keeps things.

use std::path::PathBuf;

use crate::state::ContainerId;

/// The places on a node; the default is the image's layout.
#[derive(Debug, Clone)]
pub struct Paths {
    /// A directory per container, with its writable layer and log. On the data disk.
    pub containers: PathBuf,
    /// A directory per running pod, with its sockets. Gone after a restart of the machine.
    pub pods: PathBuf,
    /// An empty directory: every monitor's root.
    pub empty: PathBuf,
    /// cgroup of all pods.
    pub cgroup: PathBuf,
    /// The monitor.
    pub vmm: PathBuf,
    /// Guest kernel.
    pub kernel: PathBuf,
    /// Guest's initial RAM file system.
    pub initramfs: PathBuf,
    /// Directory of packed empty writable layers, one for each size.
    pub templates: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            containers: "/data/containers".into(),
            pods: "/run/hearth/pods".into(),
            empty: "/run/hearth/empty".into(),
            cgroup: "/sys/fs/cgroup/pods".into(),
            vmm: "/usr/lib/hearth/vmm".into(),
            kernel: "/usr/lib/hearth/guest/vmlinux".into(),
            initramfs: "/usr/lib/hearth/guest/initramfs".into(),
            templates: "/usr/lib/hearth/templates".into(),
        }
    }
}

impl Paths {
    /// What outlives runs of a container.
    pub fn container(&self, id: &ContainerId) -> PathBuf {
        self.containers.join(id.to_string())
    }

    /// What a run of a container needs.
    pub fn pod(&self, id: &ContainerId) -> PathBuf {
        self.pods.join(id.to_string())
    }

    /// Where the monitor takes commands.
    pub fn api_socket(&self, id: &ContainerId) -> PathBuf {
        self.pod(id).join("api.sock")
    }

    /// Where the monitor passes connections to the guest.
    pub fn vsock_socket(&self, id: &ContainerId) -> PathBuf {
        self.pod(id).join("vsock.sock")
    }

    /// What the monitor says.
    pub fn stderr(&self, id: &ContainerId) -> PathBuf {
        self.pod(id).join("stderr")
    }

    /// The monitor's own cgroup.
    pub fn pod_cgroup(&self, id: &ContainerId) -> PathBuf {
        self.cgroup.join(id.to_string())
    }
}
