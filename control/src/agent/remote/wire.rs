//! What nodes say to each other about what runs on them.
//!
//! Questions and answers are CBOR ([`encoding`]): maps with names for keys, to which later versions add fields (`#[serde(default)]` on each)
//! and variants. What an older node doesn't know, it refuses in words that say so. Nothing here belongs to one machine: no clock but the
//! wall's, no type of the guest protocol, which has no version.
//!
//! What processes write and read goes in frames of its own:
//!
//! ```text
//! output   +-----+-------+     stream: 1 stdout, 2 stderr; 3, without data: the end of stdin has come through
//!          | u8  | bytes |
//! log      +-----+-------------------------+-------+
//!          | u8  | u64, nanoseconds (UTC)  | bytes |   numbers' highest byte first
//! stdin    +-------+
//!          | bytes |
//! ```
//!
//! What happens on a node comes in frames of CBOR, one for each ([`crate::agent::Happening`]); one that the reader doesn't know is passed over.

use bytes::{Buf, Bytes};
use ciborium::Value;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::agent::{
    AgentError, ExecId, ExecSpec, ExecStatus, LogOptions, LogRecord, NodeInfo, OutputChunk,
    ProcessInfo, Stream,
};
use crate::peers::{FRAME_MAX, Refusal, RefusalKind};
use crate::state::{ContainerId, Signal, encoding};

/// Most bytes of output or stdin in a frame; before them there is no more than a log record's head.
pub const DATA_MAX: usize = FRAME_MAX - 64;

const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const INPUT_TAKEN: u8 = 3;

/// A question with one answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Question {
    Signal {
        container: ContainerId,
        signal: Signal,
    },
    Resize {
        container: ContainerId,
        size: Size,
    },
    WrittenBytes {
        container: ContainerId,
    },
    Processes {
        container: ContainerId,
    },
    ExecCreate {
        container: ContainerId,
        spec: ExecSpec,
    },
    ExecResize {
        exec: ExecId,
        size: Size,
    },
    ExecStatus {
        exec: ExecId,
    },
    Execs {
        container: ContainerId,
    },
    Node {},
}

/// What a stream is to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Opening {
    Attach {
        container: ContainerId,
        stdin: bool,
    },
    ExecStart {
        exec: ExecId,
        size: Option<Size>,
    },
    Logs {
        container: ContainerId,
        options: LogOptions,
    },
    Happenings {},
}

/// Of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub rows: u16,
    pub columns: u16,
}

/// What is asked for, with the names of all its kinds.
pub trait Asked: Serialize + DeserializeOwned {
    const KINDS: &'static [&'static str];
}

impl Asked for Question {
    const KINDS: &'static [&'static str] = &[
        "Signal",
        "Resize",
        "WrittenBytes",
        "Processes",
        "ExecCreate",
        "ExecResize",
        "ExecStatus",
        "Execs",
        "Node",
    ];
}

impl Asked for Opening {
    const KINDS: &'static [&'static str] = &["Attach", "ExecStart", "Logs", "Happenings"];
}

/// Reads what is asked for. What only a later version knows is told apart from what makes no sense.
pub fn read<T: Asked>(bytes: &[u8]) -> Result<T, Refusal> {
    encoding::decode(bytes).map_err(|error| {
        let kind = match encoding::decode::<Value>(bytes) {
            Ok(Value::Text(kind)) => Some(kind),
            Ok(Value::Map(entries)) if entries.len() == 1 => {
                entries.into_iter().next().and_then(|(kind, _)| match kind {
                    Value::Text(kind) => Some(kind),
                    _ => None,
                })
            }
            _ => None,
        };
        match kind {
            Some(kind) if !T::KINDS.contains(&kind.as_str()) => Refusal::unknown(&kind),
            _ => Refusal::new(RefusalKind::Malformed, error.to_string()),
        }
    })
}

/// The answers, each to its question.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    Done {},
    Bytes {
        bytes: u64,
    },
    Processes {
        processes: Vec<Process>,
    },
    Exec {
        exec: ExecId,
    },
    ExecStatus {
        status: ExecStatus,
    },
    Execs {
        execs: Vec<ExecId>,
    },
    Node {
        node: NodeInfo,
    },
    /// To an [`Opening`]: it is open.
    Open {
        input: bool,
    },
    /// To any: no.
    Failed {
        failure: Failure,
    },
}

/// An [`AgentError`]. Of a kind that the reader doesn't know, the words are left.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    words: String,
    error: Value,
}

impl From<&AgentError> for Failure {
    fn from(error: &AgentError) -> Self {
        Self {
            words: error.to_string(),
            // An error that can't be written has its words.
            error: Value::serialized(error).unwrap_or(Value::Null),
        }
    }
}

impl From<Failure> for AgentError {
    fn from(failure: Failure) -> Self {
        let words = failure.words;
        failure.error.deserialized().unwrap_or(Self::Failed {
            doing: "another node".to_owned(),
            reason: words,
        })
    }
}

/// A row of `top`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    uid: u32,
    pid: u32,
    ppid: u32,
    /// Since the Unix epoch.
    started_ns: u64,
    cpu_ns: u64,
    tty: String,
    command: String,
}

impl From<ProcessInfo> for Process {
    fn from(process: ProcessInfo) -> Self {
        Self {
            uid: process.uid,
            pid: process.pid,
            ppid: process.ppid,
            started_ns: process.started_ns,
            cpu_ns: process.cpu_ns,
            tty: process.tty,
            command: process.command,
        }
    }
}

impl From<Process> for ProcessInfo {
    fn from(process: Process) -> Self {
        Self {
            uid: process.uid,
            pid: process.pid,
            ppid: process.ppid,
            started_ns: process.started_ns,
            cpu_ns: process.cpu_ns,
            tty: process.tty,
            command: process.command,
        }
    }
}

/// A frame from a process to its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// It has written this.
    Chunk(Stream, Bytes),
    /// Everything that the client had said, up to its end, has been passed on.
    InputTaken,
}

/// A frame of a stream that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame that this version doesn't know")]
pub struct OddFrame;

fn number(stream: Stream) -> u8 {
    match stream {
        Stream::Stdout => STDOUT,
        Stream::Stderr => STDERR,
    }
}

fn stream(number: u8) -> Result<Stream, OddFrame> {
    match number {
        STDOUT => Ok(Stream::Stdout),
        STDERR => Ok(Stream::Stderr),
        _ => Err(OddFrame),
    }
}

impl Output {
    /// What a frame begins with; the data follows.
    pub fn head(&self) -> [u8; 1] {
        match self {
            Self::Chunk(stream, _) => [number(*stream)],
            Self::InputTaken => [INPUT_TAKEN],
        }
    }

    pub fn read(mut frame: Bytes) -> Result<Self, OddFrame> {
        match frame.try_get_u8() {
            Ok(INPUT_TAKEN) if frame.is_empty() => Ok(Self::InputTaken),
            Ok(number) => Ok(Self::Chunk(stream(number)?, frame)),
            Err(_) => Err(OddFrame),
        }
    }
}

impl From<OutputChunk> for Output {
    fn from(chunk: OutputChunk) -> Self {
        Self::Chunk(chunk.stream, chunk.data)
    }
}

/// What the frame of a log record begins with; the data follows.
pub fn record_head(record: &LogRecord) -> [u8; 9] {
    let mut head = [0; 9];
    head[0] = number(record.stream);
    head[1..].copy_from_slice(&record.at_ns.to_be_bytes());
    head
}

pub fn read_record(mut frame: Bytes) -> Result<LogRecord, OddFrame> {
    let stream = stream(frame.try_get_u8().map_err(|_| OddFrame)?)?;
    Ok(LogRecord {
        at_ns: frame.try_get_u64().map_err(|_| OddFrame)?,
        stream,
        data: frame,
    })
}
