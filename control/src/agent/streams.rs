//! The streams an agent hands out.

use std::pin::Pin;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::{AgentError, Happening};

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Some output.
#[derive(Debug, Clone)]
pub struct OutputChunk {
    /// From where.
    pub stream: Stream,
    /// What.
    pub data: Bytes,
}

/// Stdin of a process: bytes in order; dropping it closes stdin where the process's `stdin_once` (or exec) says so. Bounded: a slow
/// process slows its client.
pub type InputSink = mpsc::Sender<Bytes>;

/// A client's hold on a process.
pub struct Attached {
    /// Ends after the process's last byte, or when the way to it is lost.
    pub output: mpsc::Receiver<OutputChunk>,
    /// Of a process on another node: why the output has ended before the process's last byte. Known once it has ended; without a value where
    /// nothing is missing.
    pub broken: Option<oneshot::Receiver<AgentError>>,
    /// Present where stdin was asked for and the process has one.
    pub input: Option<InputSink>,
}

/// What `logs` is asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogOptions {
    /// Go on with what comes.
    pub follow: bool,
    /// With stdout.
    pub stdout: bool,
    /// With stderr.
    pub stderr: bool,
    /// Not before; nanoseconds since the Unix epoch.
    pub since_ns: Option<u64>,
    /// Not after.
    pub until_ns: Option<u64>,
    /// Only the last so many lines; None: all.
    pub tail: Option<usize>,
}

/// A line of output, with its newline where it had one (a long line comes in several records).
#[derive(Debug, Clone)]
pub struct LogRecord {
    /// When the node got it, nanoseconds since the Unix epoch.
    pub at_ns: u64,
    /// From where.
    pub stream: Stream,
    /// What.
    pub data: Bytes,
}

/// Log records in order. With `follow`, ends when the run that is on ends.
pub type LogStream = Pin<Box<dyn futures_util::Stream<Item = std::io::Result<LogRecord>> + Send>>;

/// What happens on a node, as it does. An end or an error: the node can't be followed any more, and may be asked again.
pub type Happenings = Pin<Box<dyn futures_util::Stream<Item = std::io::Result<Happening>> + Send>>;
