//! Containers: what was asked for, and where they are in their life.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::{ContainerId, ContainerName, NodeId, Tenant};

/// One container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// Never reused.
    pub id: ContainerId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Unique within the tenant.
    pub name: ContainerName,
    /// Where it runs, or will.
    pub node: NodeId,
    /// Nanoseconds since the Unix epoch.
    pub created_ns: u64,
    /// `sha256:…` of the image's configuration. A tag that moves later changes nothing.
    pub image: String,
    /// The image's name as the user gave it.
    pub image_name: String,
    /// What was asked for, the image's defaults merged in.
    pub spec: ContainerSpec,
    /// Where it is in its life.
    pub status: Status,
    /// The pod's address; from creation to removal. None: no network (`--network none`).
    pub address: Option<Ipv4Addr>,
}

/// What a container is to be. The image's defaults are merged in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Run before `command`'s words.
    pub entrypoint: Vec<String>,
    /// Arguments, or the program where `entrypoint` is empty.
    pub command: Vec<String>,
    /// `NAME=value`, the image's first.
    pub env: Vec<String>,
    /// Empty: `/`.
    pub working_dir: String,
    /// As `docker run -u`.
    pub user: String,
    /// Supplementary groups.
    pub groups: Vec<String>,
    /// The image's and the user's.
    pub labels: BTreeMap<String, String>,
    /// UTS host name; defaults to the short id.
    pub hostname: String,
    /// Domain name, often empty.
    pub domainname: String,
    /// Give it a terminal.
    pub tty: bool,
    /// Keep stdin open.
    pub open_stdin: bool,
    /// Close stdin when the first attached client goes.
    pub stdin_once: bool,
    /// As the client said at creation; shown by inspect only.
    pub attach: [bool; 3],
    /// `80/tcp`.
    pub exposed_ports: BTreeSet<String>,
    /// Ports that the node forwards to the container; host port 0 asks for a free one at each start.
    pub ports: Vec<PortBinding>,
    /// Publish every exposed port (`-P`).
    pub publish_all: bool,
    /// Signal that `stop` sends first (`SIGTERM`, `15`); empty: SIGTERM.
    pub stop_signal: String,
    /// Seconds that `stop` waits before it kills; None: the API's default.
    pub stop_timeout_s: Option<i64>,
    /// `-m`, bytes; 0: no limit asked for.
    pub memory_bytes: u64,
    /// `--cpus` in 1e-9 CPUs; 0: no limit.
    pub nano_cpus: u64,
    /// `--pids-limit`; 0: none.
    pub pids_limit: u64,
    /// `--storage-opt size=`, bytes; None: the node's default.
    #[serde(default)]
    pub storage_bytes: Option<u64>,
    /// Remove when it exits.
    pub auto_remove: bool,
    /// What happens after an exit.
    pub restart: RestartPolicy,
    /// Root read-only.
    pub read_only: bool,
    /// All capabilities.
    pub privileged: bool,
    /// As docker's `CapAdd`.
    pub cap_add: Vec<String>,
    /// As docker's `CapDrop`.
    pub cap_drop: Vec<String>,
    /// Path and options.
    pub tmpfs: BTreeMap<String, String>,
    /// `name:address` for /etc/hosts.
    pub extra_hosts: Vec<String>,
    /// Name servers instead of the node's.
    pub dns: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// Options for resolv.conf.
    pub dns_options: Vec<String>,
    /// `default`, `bridge`, `none`, as asked for.
    pub network_mode: String,
}

/// What happens after an exit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// Start again, also after the node's restart.
    Always,
    /// As `Always`, but not after a `stop`, not even at the node's restart.
    UnlessStopped,
    /// Start again after a non-zero exit.
    OnFailure {
        /// 0: no maximum.
        maximum_retries: u32,
    },
}

/// Transport of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One forwarded port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortBinding {
    /// In the container.
    pub container_port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Address on the node; None: all.
    pub host_ip: Option<IpAddr>,
    /// On the node; 0: the state machine picks a free one at start.
    pub host_port: u16,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Never started.
    #[default]
    Created,
    /// Its node is starting it.
    Starting,
    /// Its main process runs.
    Running,
    /// Its main process has ended, or could not be started.
    Exited,
}

/// A container's life so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Where it is.
    pub phase: Phase,
    /// The monitor's process id on its node while it runs, else 0.
    pub pid: u32,
    /// Nanoseconds since the Unix epoch; 0: never.
    pub started_ns: u64,
    /// Nanoseconds since the Unix epoch; 0: never.
    pub finished_ns: u64,
    /// Of the last run.
    pub exit: Exit,
    /// Why it could not be started; empty otherwise.
    pub error: String,
    /// Runs begun because of the restart policy since the last start by a user.
    pub restarts: u32,
    /// A user's `stop` or `kill` ended the last run: `unless-stopped` stays down.
    pub stopped_by_user: bool,
    /// The forwarded ports of this run, free ones filled in; empty unless running.
    pub ports: Vec<PortBinding>,
}

/// How the main process ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0–255.
    pub code: u8,
    /// By the OOM killer.
    pub oom_killed: bool,
}

impl Container {
    /// A start has been committed and no exit since.
    pub fn is_up(&self) -> bool {
        matches!(self.status.phase, Phase::Starting | Phase::Running)
    }
}
