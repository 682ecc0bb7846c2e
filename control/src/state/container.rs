//! Containers: what was asked for, and where they are in their life.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::{ContainerId, ContainerName, NodeId, Signal, Tenant};

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
    /// Ports that the node is to forward to the container.
    pub ports: Vec<PortRequest>,
    /// Publish every exposed port (`-P`).
    pub publish_all: bool,
    /// Signal that `stop` sends first (`SIGTERM`, `15`), as asked for; empty: SIGTERM.
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
    /// The network that it is in.
    pub network_mode: NetworkMode,
    /// `--ulimit`: of the main process and of execs; what isn't named here is docker's default.
    #[serde(default)]
    pub ulimits: Vec<Ulimit>,
    /// What the container may not read. None: [`DEFAULT_MASKED_PATHS`], or nothing where it is privileged.
    #[serde(default)]
    pub masked_paths: Option<Vec<String>>,
    /// What the container may not write. None: [`DEFAULT_READONLY_PATHS`], or nothing where it is privileged.
    #[serde(default)]
    pub readonly_paths: Option<Vec<String>>,
    /// First size of the terminal, rows and columns.
    #[serde(default)]
    pub console_size: Option<(u16, u16)>,
    /// Size of /dev/shm, bytes; 0: [`DEFAULT_SHM_BYTES`].
    #[serde(default)]
    pub shm_bytes: u64,
    /// `--init`: the program is not process 1, a small one is that reaps and passes signals on.
    #[serde(default)]
    pub init: bool,
    /// Kernel settings of the container's own (`net.core.somaxconn`) and their values.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// -1000 to 1000; see proc_pid_oom_score_adj(5).
    #[serde(default)]
    pub oom_score_adj: i32,
    /// Who may read its output.
    #[serde(default)]
    pub log_driver: LogDriver,
    /// What `inspect` shows of the request.
    #[serde(default)]
    pub as_asked: AsAsked,
}

/// Parts of a request as the client wrote them, in the JSON of the Docker API. Nothing is in force by being here: it is kept because
/// tools make containers anew from what `inspect` tells of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsAsked {
    /// `HostConfig`, what was left out filled in as docker fills it in; empty: created by a version that didn't keep it.
    pub host_config: String,
    /// Of `Config`, what no other field of the specification holds; empty as above.
    pub config: String,
}

/// The network that a container is in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Not named: the bridge.
    #[default]
    Default,
    /// The network that every pod is in.
    Bridge,
    /// None but its own loopback.
    None,
}

/// Where a container's output goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogDriver {
    /// The node keeps it and shows it.
    #[default]
    Kept,
    /// Whoever is attached sees it, and nobody can ask for it later.
    None,
}

/// A resource limit; -1: unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// docker's name of it (`nofile`).
    pub name: String,
    /// The limit in force.
    pub soft: i64,
    /// Up to which a process may raise it.
    pub hard: i64,
}

/// Size of /dev/shm where none was asked for, as docker's.
pub const DEFAULT_SHM_BYTES: u64 = 64 << 20;

/// What a container may not read unless it was asked for, as in docker: it tells about the machine rather than about the
/// container.
pub const DEFAULT_MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What a container may not write unless it was asked for, as in docker.
pub const DEFAULT_READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

impl ContainerSpec {
    /// The masked paths in force.
    pub fn masked_paths_in_force(&self) -> Vec<String> {
        self.in_force(&self.masked_paths, &DEFAULT_MASKED_PATHS)
    }

    /// The read-only paths in force.
    pub fn readonly_paths_in_force(&self) -> Vec<String> {
        self.in_force(&self.readonly_paths, &DEFAULT_READONLY_PATHS)
    }

    fn in_force(&self, asked: &Option<Vec<String>>, default: &[&str]) -> Vec<String> {
        match asked {
            Some(paths) => paths.clone(),
            None if self.privileged => Vec::new(),
            None => default.iter().map(|path| (*path).to_owned()).collect(),
        }
    }
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

/// A port to be forwarded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRequest {
    /// In the container.
    pub container_port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Address on the node; None: all.
    pub host_ip: Option<IpAddr>,
    /// On the node, or the first that will do; 0: any that is free at the start.
    pub host_port: u16,
    /// The last that will do, where it is a range.
    #[serde(default)]
    pub host_port_last: Option<u16>,
}

impl PortRequest {
    /// The binding that it becomes at a port.
    pub fn at(&self, host_port: u16) -> PortBinding {
        PortBinding {
            container_port: self.container_port,
            protocol: self.protocol,
            host_ip: self.host_ip,
            host_port,
        }
    }
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
    /// On the node.
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

/// A run of this length is no failure: the next restart waits as little as the first. docker's own.
pub const GOOD_RUN_NS: u64 = 10_000_000_000;

/// A container's life so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Where it is.
    pub phase: Phase,
    /// The monitor's process id on its node while it runs, else 0.
    pub pid: u32,
    /// When the run that is on, or was last, began to run; nanoseconds since the Unix epoch; 0: there was none.
    pub started_ns: u64,
    /// Nanoseconds since the Unix epoch; 0: never.
    pub finished_ns: u64,
    /// Of the last run.
    pub exit: Exit,
    /// Why it could not be started; empty otherwise.
    pub error: String,
    /// Runs begun because of the restart policy since the last start by a user.
    pub restarts: u32,
    /// Runs of less than [`GOOD_RUN_NS`] in a row since the last start by a user, that which has ended last included.
    #[serde(default)]
    pub short_runs: u32,
    /// A user's `stop` or `kill` ended the last run: `unless-stopped` stays down.
    pub stopped_by_user: bool,
    /// The forwarded ports of this run, free ones filled in; empty unless running.
    pub ports: Vec<PortBinding>,
    /// Processes of this run, or the last, that the kernel has killed for want of memory, as far as it was told.
    #[serde(default)]
    pub oom_kills: u64,
}

/// How the main process ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0–255.
    pub code: u8,
    /// The kernel has killed for want of memory in this run. Known before the end, where the main process lives on.
    pub oom_killed: bool,
}

impl Container {
    /// A start has been committed and no exit since.
    pub fn is_up(&self) -> bool {
        matches!(self.status.phase, Phase::Starting | Phase::Running)
    }

    /// Between two runs: its policy asks for another one after the run that has ended.
    pub fn awaits_restart(&self) -> bool {
        let status = &self.status;
        if status.phase != Phase::Exited || status.stopped_by_user {
            return false;
        }
        // One that a user could not even start is the user's to correct; docker does so as well.
        if !status.error.is_empty() && status.restarts == 0 {
            return false;
        }
        match self.spec.restart {
            RestartPolicy::No => false,
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
            RestartPolicy::OnFailure { maximum_retries } => {
                status.exit.code != 0 && (maximum_retries == 0 || status.restarts < maximum_retries)
            }
        }
    }

    /// What asks its main process to end. An image's STOPSIGNAL is nobody's to correct here: one that is no signal is SIGTERM.
    pub fn stop_signal(&self) -> Signal {
        self.spec.stop_signal.parse().unwrap_or(Signal::TERM)
    }
}
