//! The node agent: what happens on one machine.
//!
//! What is to run there, it reads from the state: [`keeper`] compares that with what runs, and acts. What users ask of something that
//! runs is asked of the agent of its node ([`Agent`]), here or over a connection ([`Agents`]); so every answer is data or a stream, and
//! nothing hands out a descriptor, a path or a reference into a VM.

mod agents;
mod exec_id;
pub mod keeper;
pub mod local;
pub mod remote;
mod streams;

pub use agents::{Agents, Reach};
pub use exec_id::{exec_id, node_of_exec};

pub use streams::{
    Attached, Happenings, InputSink, LogOptions, LogRecord, LogStream, OutputChunk, Stream,
};

use std::borrow::Cow;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

#[cfg(doc)]
use crate::state::Container;
use crate::state::{ContainerId, Exit, FailureKind, Layer, Placed, Run, Signal, What};

/// Names an exec: 64 hexadecimal digits.
pub type ExecId = String;

/// A further process in a running container, as asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Added to the container's.
    pub env: Vec<String>,
    /// Empty: the container's.
    pub working_dir: String,
    /// Empty: the container's.
    pub user: String,
    /// Give it a terminal.
    pub tty: bool,
    /// A client will send stdin.
    pub stdin: bool,
    /// A client wants stdout.
    pub stdout: bool,
    /// A client wants stderr.
    pub stderr: bool,
    /// All capabilities.
    pub privileged: bool,
    /// As docker's; shown by inspect only.
    pub detach_keys: String,
}

/// An exec as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecStatus {
    /// Names it.
    pub id: ExecId,
    /// Where it runs.
    pub container: ContainerId,
    /// What was asked for.
    pub spec: ExecSpec,
    /// It has been started and has not ended.
    pub running: bool,
    /// Once it has ended (126 and 127 included where it could not start).
    pub exit_code: Option<u8>,
    /// In the microVM; 0 before it runs.
    pub pid: u32,
}

/// One row of `top`.
pub use hearth_guest_protocol::ProcessInfo;

/// Why an agent could not do something.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize)]
pub enum AgentError {
    /// The container has no VM here.
    #[error("container {0} is not running")]
    NotRunning(ContainerId),
    /// No exec of that id (they are forgotten some minutes after their end, and when their container ends).
    #[error("No such exec instance: {0}")]
    NoSuchExec(ExecId),
    /// The exec was started before.
    #[error("exec {0} has already been started")]
    ExecStarted(ExecId),
    /// The container has as many of something as it may.
    #[error("container {container} has {limit} {what} already, and may have no more")]
    TooMany {
        /// Which.
        container: ContainerId,
        /// Of what, in the plural.
        what: Cow<'static, str>,
        /// How many there may be.
        limit: usize,
    },
    /// The guest could not start the process; `code` is docker's 125, 126 or 127.
    #[error("{message}")]
    Start {
        /// For the user.
        message: String,
        /// 125, 126 or 127.
        code: u8,
    },
    /// The container is on no node: none has room for it, or the one that it is to go to has yet to get it.
    #[error("container {id} is on no node: {why}")]
    Nowhere {
        /// Which.
        id: ContainerId,
        /// Why, for the user.
        why: String,
    },
    /// The container's node is out of reach.
    #[error("node {node} is out of reach: {why}")]
    OutOfReach {
        /// Which.
        node: String,
        /// The way's words.
        why: String,
    },
    /// The node's lease is over: what may run elsewhere does not start here.
    #[error(
        "the node is out of touch with its cluster, and the container may run on another node: it is not started here"
    )]
    LeaseOver,
    /// The node has less memory, disk or addresses than asked for.
    #[error("{0}")]
    Exhausted(String),
    /// The disk is full.
    #[error(
        "no space left on the node's data disk: remove containers or images that are no longer needed"
    )]
    DiskFull,
    /// Something on the node failed, in its own words.
    #[error("{0}")]
    Told(String),
    /// Something on the node failed.
    #[error("{doing}: {reason}")]
    Failed {
        /// What it was doing.
        doing: String,
        /// Why it failed.
        reason: String,
    },
}

/// Where the time of a start went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartTimes {
    /// When the monitor was about to be started, on the host's `CLOCK_MONOTONIC`.
    pub monitor_at: Duration,
    /// When the guest's word that the process runs had come, on the same clock.
    pub running_at: Duration,
    /// From the beginning of the guest's PID 1 to its word that the process runs.
    pub guest_init: Duration,
    /// What committing `Started` took.
    pub commit: Duration,
}

/// What a node's machine does. Called by [`keeper`] only, which is on the same node.
///
/// Order for one container: `prepare` and `start` in any order and number (`start` prepares what isn't), then `discard` once. `start`
/// is called only while nothing of the container runs ([`Runtime::running`]) but what has been told to have ended, for which it waits;
/// `discard` only once [`Runtime::ended`] has returned; each from one task at a time. `sweep` is called once, before all of these.
/// `Started` and `Exited` are reported through the [`Reports`] that it was made with; that a start has failed, by its caller.
#[async_trait]
pub trait Runtime: Agent {
    /// Make what outlives runs: the container's directory and its writable layer.
    async fn prepare(&self, placed: &Placed) -> Result<(), AgentError>;
    /// Boot the microVM and start the main process. Returns once the process runs and that is committed.
    async fn start(&self, placed: &Placed, run: Run) -> Result<StartTimes, AgentError>;
    /// Whether it may be started now: one that may run elsewhere may not while the node's lease is over. Where it may not, the keeper is
    /// told once the lease holds.
    fn may_start(&self, placed: &Placed) -> bool;
    /// The run whose process runs here, or whose end has yet to be reported.
    fn running(&self, id: &ContainerId) -> Option<Run>;
    /// Have what runs of it stand still, or go on. Repeated: nothing.
    async fn pause(&self, id: &ContainerId, paused: bool) -> Result<(), AgentError>;
    /// Whether what runs of it stands still.
    fn is_paused(&self, id: &ContainerId) -> bool;
    /// Returns once no microVM of it is left here.
    async fn ended(&self, id: &ContainerId);
    /// End what runs of it at once, without asking it.
    async fn destroy(&self, id: &ContainerId);
    /// What `prepare` made is the container's no more. Layers that other containers of this node have ([`Container::layer_in`]) stay. Of
    /// a container that isn't here: nothing to do, no error.
    async fn discard(&self, id: &ContainerId, others: &[Layer]) -> Result<(), AgentError>;
    /// Containers that run here, or have files here.
    async fn present(&self) -> Vec<ContainerId>;
    /// The layers of containers that this node has. What else lies on its disk goes.
    async fn sweep(&self, known: Vec<(ContainerId, Layer)>);
}

/// What users ask of one node about what is there. Called from any task; of another node, it may fail with
/// [`AgentError::OutOfReach`] besides, and nobody knows then whether it was done.
#[async_trait]
pub trait Agent: Send + Sync {
    /// Send a signal to the main process. SIGKILL ends the VM even where the guest doesn't answer. Of a
    /// container that is being started: waits until the process runs, and is an error where it doesn't come to that.
    async fn signal(&self, id: &ContainerId, signal: Signal) -> Result<(), AgentError>;
    /// Set the size of the main process's terminal.
    async fn resize(&self, id: &ContainerId, rows: u16, columns: u16) -> Result<(), AgentError>;
    /// What a container has in its writable layer, bytes on the node's disk. What its guest hasn't written back yet isn't counted.
    async fn written_bytes(&self, id: &ContainerId) -> Result<u64, AgentError>;

    /// Live output from now on, and stdin. Legal of every container that is there: a client attaches before it starts. The output ends when
    /// the run that is on, or comes next, ends.
    async fn attach(&self, id: &ContainerId, stdin: bool) -> Result<Attached, AgentError>;
    /// What the container has written, from all its runs.
    async fn logs(&self, id: &ContainerId, options: LogOptions) -> Result<LogStream, AgentError>;
    /// Processes, for `top`.
    async fn processes(&self, id: &ContainerId) -> Result<Vec<ProcessInfo>, AgentError>;

    /// Remember an exec. Refused where the container isn't running, or has too many that haven't ended.
    async fn exec_create(&self, id: &ContainerId, spec: ExecSpec) -> Result<ExecId, AgentError>;
    /// Start it; its output begins with its first byte.
    async fn exec_start(
        &self,
        exec: &ExecId,
        size: Option<(u16, u16)>,
    ) -> Result<Attached, AgentError>;
    /// Set the size of its terminal.
    async fn exec_resize(&self, exec: &ExecId, rows: u16, columns: u16) -> Result<(), AgentError>;
    /// As it stands.
    async fn exec_status(&self, exec: &ExecId) -> Result<ExecStatus, AgentError>;
    /// Ids of a container's execs that run.
    async fn execs(&self, id: &ContainerId) -> Vec<ExecId>;

    /// The node as it stands.
    async fn node(&self) -> NodeInfo;
    /// What happens there from now on that isn't in the log.
    async fn happenings(&self) -> Result<Happenings, AgentError>;
}

/// What has happened to a container on a node, and has changed nothing of the state: for those who watch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Happening {
    /// To which.
    pub container: ContainerId,
    /// What.
    pub what: What,
    /// When, nanoseconds since the Unix epoch.
    pub at_ns: u64,
}

/// Where a [`Runtime`] reports what becomes of its containers.
#[async_trait]
pub trait Reports: Send + Sync {
    /// The main process runs. Returns once that is committed; the exit is reported after.
    async fn started(&self, id: &ContainerId, run: Run, pid: u32, at_ns: u64);
    /// The kernel has killed for want of memory in it, `kills` processes of this run so far. Returns once that is committed.
    async fn out_of_memory(&self, id: &ContainerId, run: Run, kills: u64, at_ns: u64);
    /// Returns once it is committed.
    async fn exited(&self, id: &ContainerId, run: Run, exit: Exit, at_ns: u64);
    /// Something that changes nothing, for those who watch: of an exec.
    fn happened(&self, id: &ContainerId, what: What, at_ns: u64);
    /// What [`Reports::happened`] is told from now on.
    fn happenings(&self) -> broadcast::Receiver<Happening>;
}

impl AgentError {
    /// Which kind of failure it is of a run that could not begin, and docker's exit code for it.
    pub fn failure(&self) -> (FailureKind, u8) {
        /// docker's code for a failure that is not the program's.
        const START_FAILED: u8 = 128;
        match self {
            Self::Start { code, .. } => (FailureKind::Program, *code),
            Self::Exhausted(_) => (FailureKind::Exhausted, START_FAILED),
            Self::DiskFull => (FailureKind::DiskFull, START_FAILED),
            _ => (FailureKind::Node, START_FAILED),
        }
    }

    /// What [`Self::failure`] was made of, as far as that is kept.
    pub fn of_failure(kind: FailureKind, message: String, code: u8) -> Self {
        match kind {
            FailureKind::Program => Self::Start { message, code },
            FailureKind::Exhausted => Self::Exhausted(message),
            FailureKind::DiskFull => Self::DiskFull,
            FailureKind::Node => Self::Told(message),
        }
    }
}

/// Facts about a node, for `info` and `version`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeInfo {
    /// Host name.
    pub name: String,
    /// `0.1.0`.
    pub version: String,
    /// `uname -r`.
    pub kernel_version: String,
    /// Logical CPUs.
    pub cpus: usize,
    /// MemTotal, bytes.
    pub memory_bytes: u64,
    /// `disk` or `ram`.
    pub storage: String,
    /// Why RAM, or which disk.
    pub storage_note: String,
    /// Bytes of the data file system.
    pub storage_total_bytes: u64,
    /// Bytes free there.
    pub storage_free_bytes: u64,
    /// Registries that may be spoken to in plain HTTP.
    pub insecure_registries: Vec<String>,
    /// Size of the smallest writable layer, bytes.
    pub layer_bytes_min: u64,
    /// Processors share cores, on which tenants are kept apart.
    pub siblings: bool,
    /// What the processor is known for.
    pub weaknesses: Vec<Weakness>,
}

/// A weakness of a processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weakness {
    /// The kernel's name for it.
    pub name: String,
    /// The kernel's words: what is done about it, or that nothing is.
    pub state: String,
}

impl Weakness {
    /// Some of it stays open.
    pub fn is_open(&self) -> bool {
        self.state.to_lowercase().contains("vulnerable")
    }
}
