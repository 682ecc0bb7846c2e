//! The node agent: what happens on one machine. Today a call, tomorrow a connection to another node; so every answer is data or a
//! stream, and nothing here hands out a descriptor, a path or a reference into a VM.

pub mod local;
mod streams;

pub use streams::{Attached, InputSink, LogOptions, LogRecord, LogStream, OutputChunk, Stream};

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;

use crate::state::{Action, Container, ContainerId, PortBinding, Signal};

/// Names an exec: 64 hexadecimal digits.
pub type ExecId = String;

/// A further process in a running container, as asked for.
#[derive(Debug, Clone, Default)]
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
#[derive(Debug, Clone)]
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
#[derive(Debug, Clone, thiserror::Error)]
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
        what: &'static str,
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
    /// The node has less memory, disk or addresses than asked for.
    #[error("{0}")]
    Exhausted(String),
    /// The disk is full.
    #[error(
        "no space left on the node's data disk: remove containers or images that are no longer needed"
    )]
    DiskFull,
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

/// What one node does with containers. Called by [`crate::controller::Controller`] only, from any task.
///
/// Order for one container: `prepare` once, then any number of (`start`, … , exit), then `discard` once. `start` is called only
/// while the container isn't up on this node, `discard` likewise. The agent commits `Started`, and `Exited` by itself through the
/// [`ExitSink`] it was made with; `start`'s caller commits `StartFailed`.
#[async_trait]
pub trait Agent: Send + Sync {
    /// Make what outlives runs: the container's directory and its writable layer.
    async fn prepare(&self, container: &Container) -> Result<(), AgentError>;
    /// Boot the microVM and start the main process. Returns once the process runs.
    async fn start(
        &self,
        container: &Container,
        ports: &[PortBinding],
    ) -> Result<StartTimes, AgentError>;
    /// Send a signal to the main process. SIGKILL ends the VM even where the guest doesn't answer. Of a
    /// container that is being started: waits until the process runs, and is an error where it doesn't come to that.
    async fn signal(&self, id: &ContainerId, signal: Signal) -> Result<(), AgentError>;
    /// Set the size of the main process's terminal.
    async fn resize(&self, id: &ContainerId, rows: u16, columns: u16) -> Result<(), AgentError>;
    /// What a container has in its writable layer, bytes on the node's disk. What its guest hasn't written back yet isn't counted.
    async fn written_bytes(&self, id: &ContainerId) -> Result<u64, AgentError>;
    /// What `discard` undoes: writable layer, logs. Of a container that doesn't exist here: nothing to do, no error.
    async fn discard(&self, id: &ContainerId) -> Result<(), AgentError>;

    /// Live output from now on, and stdin. Legal from `prepare` on: a client attaches before it starts. The output ends when
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
}

/// Where an agent reports what becomes of its containers; commits it.
#[async_trait]
pub trait ExitSink: Send + Sync {
    /// The main process runs. Returns once that is committed; the exit is reported after.
    async fn started(&self, id: &ContainerId, pid: u32, at_ns: u64);
    /// The kernel has killed for want of memory in it, `kills` processes of this run so far. Returns once that is committed.
    async fn out_of_memory(&self, id: &ContainerId, kills: u64, at_ns: u64);
    /// Returns once it is committed.
    async fn exited(&self, id: &ContainerId, exit: crate::state::Exit, at_ns: u64);
    /// Something that changes nothing, for those who watch: of an exec. Returns once it is committed.
    async fn happened(
        &self,
        id: &ContainerId,
        action: Action,
        attributes: BTreeMap<String, String>,
        at_ns: u64,
    );
}

/// Facts about a node, for `info` and `version`.
#[derive(Debug, Clone, Default)]
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
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
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
