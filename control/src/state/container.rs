//! Containers: what was asked for, and where they are in their life.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{ContainerId, ContainerName, PodId, Signal, Tenant};

/// One container: an image, a layer and a process in a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// Never reused.
    pub id: ContainerId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Unique within the tenant.
    pub name: ContainerName,
    /// The machine that it is in.
    pub pod: PodId,
    /// Nanoseconds since the Unix epoch.
    pub created_ns: u64,
    /// `sha256:…` of the image's configuration. A tag that moves later changes nothing.
    pub image: String,
    /// The image's name as the user gave it.
    pub image_name: String,
    /// What was asked for, the image's defaults merged in.
    pub spec: ContainerSpec,
    /// What users want of it now. Agents never write it.
    pub wanted: Wanted,
    /// What it is, as far as its node has told. Users never write it.
    pub status: Status,
    /// The layer of another container that this one keeps: of one that was started elsewhere when its node was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<Layer>,
    /// The state's revision that changed it last.
    pub version: u64,
}

/// A writable layer on a node's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Layer {
    /// The container that it was made for.
    pub container: ContainerId,
    /// Of its pod's assignment that it was made in: each begins with a fresh layer.
    pub epoch: u64,
}

/// What users want of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wanted {
    /// It is to run: until a user has it end, or it has ended and its policy asks for no more.
    #[serde(skip_serializing_if = "is_default")]
    pub up: bool,
    /// Counts the starts that users have asked for. What runs because of an earlier one is to end first.
    #[serde(skip_serializing_if = "is_default")]
    pub start: u64,
    /// That start was a `restart`.
    #[serde(skip_serializing_if = "is_default")]
    pub restart: bool,
    /// How what runs, or boots, is to end, where it is to.
    #[serde(skip_serializing_if = "is_default")]
    pub stop: Option<Stop>,
    /// It is to go once it has ended.
    #[serde(skip_serializing_if = "is_default")]
    pub removed: bool,
    /// What runs is to stand still. Ends with the run, and with whatever else is asked of that.
    #[serde(skip_serializing_if = "is_default")]
    pub paused: bool,
}

/// How a run is to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Sent first.
    pub signal: Signal,
    /// From then to SIGKILL, seconds; None: never.
    pub timeout_s: Option<u64>,
    /// The state's revision that asked for it: a later one is sent though an earlier was.
    pub revision: u64,
    /// By `stop` or `restart`, not `kill`: those who watch are told of its end as well.
    pub tell: bool,
}

/// What a container is to be. The image's defaults are merged in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// Run before `command`'s words.
    #[serde(skip_serializing_if = "is_default")]
    pub entrypoint: Vec<String>,
    /// Arguments, or the program where `entrypoint` is empty.
    #[serde(skip_serializing_if = "is_default")]
    pub command: Vec<String>,
    /// `NAME=value`, the image's first.
    #[serde(skip_serializing_if = "is_default")]
    pub env: Vec<String>,
    /// Empty: `/`.
    #[serde(skip_serializing_if = "is_default")]
    pub working_dir: String,
    /// As `docker run -u`.
    #[serde(skip_serializing_if = "is_default")]
    pub user: String,
    /// Supplementary groups.
    #[serde(skip_serializing_if = "is_default")]
    pub groups: Vec<String>,
    /// The image's and the user's.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    /// UTS host name; defaults to the short id.
    #[serde(skip_serializing_if = "is_default")]
    pub hostname: String,
    /// Domain name, often empty.
    #[serde(skip_serializing_if = "is_default")]
    pub domainname: String,
    /// Give it a terminal.
    #[serde(skip_serializing_if = "is_default")]
    pub tty: bool,
    /// Keep stdin open.
    #[serde(skip_serializing_if = "is_default")]
    pub open_stdin: bool,
    /// Close stdin when the first attached client goes.
    #[serde(skip_serializing_if = "is_default")]
    pub stdin_once: bool,
    /// As the client said at creation; shown by inspect only.
    #[serde(skip_serializing_if = "is_default")]
    pub attach: [bool; 3],
    /// `80/tcp`.
    #[serde(skip_serializing_if = "is_default")]
    pub exposed_ports: BTreeSet<String>,
    /// Ports that the node is to forward to the container.
    #[serde(skip_serializing_if = "is_default")]
    pub ports: Vec<PortRequest>,
    /// Publish every exposed port (`-P`).
    #[serde(skip_serializing_if = "is_default")]
    pub publish_all: bool,
    /// Signal that `stop` sends first (`SIGTERM`, `15`), as asked for; empty: SIGTERM.
    #[serde(skip_serializing_if = "is_default")]
    pub stop_signal: String,
    /// Seconds that `stop` waits before it kills, negative: without end; None: docker's default.
    #[serde(skip_serializing_if = "is_default")]
    pub stop_timeout_s: Option<i64>,
    /// `-m`, bytes; 0: no limit asked for.
    #[serde(skip_serializing_if = "is_default")]
    pub memory_bytes: u64,
    /// `--cpus` in 1e-9 CPUs; 0: no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub nano_cpus: u64,
    /// `--pids-limit`; 0: none.
    #[serde(skip_serializing_if = "is_default")]
    pub pids_limit: u64,
    /// `--storage-opt size=`, bytes; None: the node's default.
    #[serde(skip_serializing_if = "is_default")]
    pub storage_bytes: Option<u64>,
    /// Remove when it exits.
    #[serde(skip_serializing_if = "is_default")]
    pub auto_remove: bool,
    /// What happens after an exit.
    #[serde(skip_serializing_if = "is_default")]
    pub restart: RestartPolicy,
    /// Root read-only.
    #[serde(skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// All capabilities.
    #[serde(skip_serializing_if = "is_default")]
    pub privileged: bool,
    /// As docker's `CapAdd`.
    #[serde(skip_serializing_if = "is_default")]
    pub cap_add: Vec<String>,
    /// As docker's `CapDrop`.
    #[serde(skip_serializing_if = "is_default")]
    pub cap_drop: Vec<String>,
    /// Path and options.
    #[serde(skip_serializing_if = "is_default")]
    pub tmpfs: BTreeMap<String, String>,
    /// `name:address` for /etc/hosts.
    #[serde(skip_serializing_if = "is_default")]
    pub extra_hosts: Vec<String>,
    /// Name servers instead of the node's.
    #[serde(skip_serializing_if = "is_default")]
    pub dns: Vec<String>,
    /// Search domains.
    #[serde(skip_serializing_if = "is_default")]
    pub dns_search: Vec<String>,
    /// Options for resolv.conf.
    #[serde(skip_serializing_if = "is_default")]
    pub dns_options: Vec<String>,
    /// The network that it is in.
    #[serde(skip_serializing_if = "is_default")]
    pub network_mode: NetworkMode,
    /// `--ulimit`: of the main process and of execs; what isn't named here is docker's default.
    #[serde(skip_serializing_if = "is_default")]
    pub ulimits: Vec<Ulimit>,
    /// What the container may not read. None: [`DEFAULT_MASKED_PATHS`], or nothing where it is privileged.
    #[serde(skip_serializing_if = "is_default")]
    pub masked_paths: Option<Vec<String>>,
    /// What the container may not write. None: [`DEFAULT_READONLY_PATHS`], or nothing where it is privileged.
    #[serde(skip_serializing_if = "is_default")]
    pub readonly_paths: Option<Vec<String>>,
    /// First size of the terminal, rows and columns.
    #[serde(skip_serializing_if = "is_default")]
    pub console_size: Option<(u16, u16)>,
    /// Size of /dev/shm, bytes; 0: [`DEFAULT_SHM_BYTES`].
    #[serde(skip_serializing_if = "is_default")]
    pub shm_bytes: u64,
    /// `--init`: the program is not process 1, a small one is that reaps and passes signals on.
    #[serde(skip_serializing_if = "is_default")]
    pub init: bool,
    /// Kernel settings of the container's own (`net.core.somaxconn`) and their values.
    #[serde(skip_serializing_if = "is_default")]
    pub sysctls: BTreeMap<String, String>,
    /// -1000 to 1000; see proc_pid_oom_score_adj(5).
    #[serde(skip_serializing_if = "is_default")]
    pub oom_score_adj: i32,
    /// Who may read its output.
    #[serde(skip_serializing_if = "is_default")]
    pub log_driver: LogDriver,
    /// What `inspect` shows of the request.
    #[serde(skip_serializing_if = "is_default")]
    pub as_asked: AsAsked,
}

/// Most of what can be asked for isn't, and most of what can happen hasn't: what is as by default isn't written.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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
    /// A start is asked for, and its first run has not begun yet. Never in a [`Status`]: it lies between that and what is wanted.
    Starting,
    /// Its main process runs.
    Running,
    /// Its main process has ended, or could not be started.
    Exited,
}

/// A run of this length is no failure: the next restart waits as little as the first. docker's own.
pub const GOOD_RUN_NS: u64 = 10_000_000_000;

/// From the stop signal to SIGKILL where nobody says: docker's own.
const STOP_TIMEOUT_S: u64 = 10;

/// One run of a container. Later ones compare as greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Run {
    /// The scheduler's number of the pod's assignment to a node. 0: there was no run yet.
    pub epoch: u64,
    /// The agent's number within it.
    pub number: u64,
    /// The user's start that it belongs to ([`Wanted::start`]).
    pub start: u64,
}

/// What a container is, as its node has told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The latest run that was heard of. What is told of an earlier one changes nothing.
    #[serde(skip_serializing_if = "is_default")]
    pub run: Run,
    /// Where that run is.
    #[serde(skip_serializing_if = "is_default")]
    pub phase: Phase,
    /// The monitor's process id on its node while it runs, else 0.
    #[serde(skip_serializing_if = "is_default")]
    pub pid: u32,
    /// When the run began; nanoseconds since the Unix epoch; 0: there was none.
    #[serde(skip_serializing_if = "is_default")]
    pub started_ns: u64,
    /// Nanoseconds since the Unix epoch; 0: never.
    #[serde(skip_serializing_if = "is_default")]
    pub finished_ns: u64,
    /// Of the last run.
    #[serde(skip_serializing_if = "is_default")]
    pub exit: Exit,
    /// Why it could not be started.
    #[serde(skip_serializing_if = "is_default")]
    pub failure: Option<Failure>,
    /// Runs begun because of the restart policy since the last start by a user.
    #[serde(skip_serializing_if = "is_default")]
    pub restarts: u32,
    /// Runs of less than [`GOOD_RUN_NS`] in a row since the last start by a user, that which has ended last included.
    #[serde(skip_serializing_if = "is_default")]
    pub short_runs: u32,
    /// Processes of this run, or the last, that the kernel has killed for want of memory, as far as it was told.
    #[serde(skip_serializing_if = "is_default")]
    pub oom_kills: u64,
    /// The run stands still.
    #[serde(skip_serializing_if = "is_default")]
    pub paused: bool,
}

/// Why a run could not begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of thing it was.
    pub kind: FailureKind,
    /// For the user.
    pub message: String,
}

/// See [`Failure::kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The program: it isn't there, can't be executed, is refused.
    Program,
    /// The node has less of something than it wants.
    Exhausted,
    /// The node's disk is full.
    DiskFull,
    /// Something on the node failed.
    Node,
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
    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        match self.status.phase {
            Phase::Running => Phase::Running,
            _ if self.start_is_open() => Phase::Starting,
            ended => ended,
        }
    }

    /// Nobody has told yet what became of the last start. One that is to end already counts as well, until its node says that nothing of
    /// it runs: it may be booting.
    pub fn start_is_open(&self) -> bool {
        let wanted = &self.wanted;
        wanted.start > self.status.run.start && (wanted.up || wanted.stop.is_some())
    }

    /// It runs, or is about to because a user has started it.
    pub fn is_up(&self) -> bool {
        matches!(self.phase(), Phase::Starting | Phase::Running)
    }

    /// Between two runs: its policy asks for another one after the run that has ended.
    pub fn awaits_restart(&self) -> bool {
        self.wanted.up && self.phase() == Phase::Exited
    }

    /// Whether its policy asks for another run after the last.
    pub(super) fn policy_wants_more(&self) -> bool {
        let status = &self.status;
        // One that a user could not even start is the user's to correct; docker does so as well.
        if status.failure.is_some() && status.restarts == 0 {
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

    /// The layer that it writes to, where its pod is in an epoch.
    pub fn layer_in(&self, epoch: u64) -> Layer {
        self.layer.unwrap_or(Layer {
            container: self.id,
            epoch,
        })
    }

    /// Seconds from the stop signal to SIGKILL where whoever stops it says nothing of that; None: never.
    pub fn stop_timeout_s(&self) -> Option<u64> {
        match self.spec.stop_timeout_s {
            None => Some(STOP_TIMEOUT_S),
            Some(seconds) => u64::try_from(seconds).ok(),
        }
    }

    /// What asks its main process to end. An image's STOPSIGNAL is nobody's to correct here: one that is no signal is SIGTERM.
    pub fn stop_signal(&self) -> Signal {
        self.spec.stop_signal.parse().unwrap_or(Signal::TERM)
    }
}
