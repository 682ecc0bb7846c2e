//! What a host and the PID 1 of a microVM say to each other over vsock.
//!
//! The guest listens on [`AGENT_PORT`]; as soon as it listens it *knocks*: it connects once to host port
//! [`KNOCK_PORT`], which the monitor refuses and takes as the sign that connections to the guest will be answered.
//! Each connection carries one [`Request`], then what that request asks for:
//!
//! ```text
//! Start, Exec, Follow   ->  Started, (Output | OutOfMemory)*, Exited      client sends Acknowledge between, at its leisure
//! Input                 ->  Done, then raw bytes client -> guest; half-close is the end of the process's stdin, answered Done
//! anything else         ->  one Reply
//! ```
//!
//! `Start` and `Exec` go on as `Follow { from: 0 }` on the same connection. Output is numbered by byte offset over stdout
//! and stderr together, in the order the guest read it. The guest keeps what is not acknowledged, up to [`OUTPUT_WINDOW`] bytes, and
//! stops reading the process's pipes beyond that: a host that goes away and comes back loses nothing and repeats
//! nothing. `Exited` is sent after the last byte. A process that has exited stays known until `Forget`.
//!
//! A frame is a little-endian `u32` length and as many bytes of [postcard](https://postcard.jamesmunns.com/wire-format)
//! (at most [`Message::MAX_FRAME`]). Host and guest come out of one image, so the format has no version of its own.

use std::io::{self, Read, Write};
use std::net::IpAddr;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// vsock port on which guest init listens.
pub const AGENT_PORT: u32 = 1024;
/// vsock port of the host (CID 2) that guest init connects to once, when it listens. The connection is refused.
pub const KNOCK_PORT: u32 = 1024;
/// Output bytes a process may be ahead of the host's acknowledgement: four pipes' worth, so that a host pausing for a
/// restart rarely blocks a process, and a thousand silent processes cost nothing.
pub const OUTPUT_WINDOW: usize = 256 << 10;
/// Largest `data` of one [`Output`], bytes.
pub const OUTPUT_CHUNK: usize = 32 << 10;
/// Most rows of [`Reply::Processes`]; what exceeds them is left out. With [`COMMANDS_MAX`] a full answer fits into a frame: a row without its
/// command takes less than 64 bytes.
pub const PROCESSES_MAX: usize = 8192;
/// Most bytes of all command lines in [`Reply::Processes`] together.
pub const COMMANDS_MAX: usize = 512 << 10;

/// Names a process in the guest: the container's id for its main process, the exec's id for others (64 hexadecimal digits).
pub type ProcessId = String;

/// The first frame on every connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Prepare the pod if this is its first container, build the container, start its main process, and follow it.
    Start(Box<Start>),
    /// Start a further process in a running container, and follow it.
    Exec(Box<Exec>),
    /// Output of a process from a byte offset on, then its exit. Also after a reconnect.
    Follow {
        /// Which process.
        process: ProcessId,
        /// First byte wanted; what lies before it counts as acknowledged.
        from: u64,
    },
    /// Everything that follows on this connection is the process's stdin. A half-close ends it; a connection that is closed in both
    /// directions leaves it open, for that is what the death of the host's controller looks like.
    Input {
        /// Which process.
        process: ProcessId,
    },
    /// Send a signal to a process.
    Signal {
        /// Which process.
        process: ProcessId,
        /// Linux signal number.
        signal: i32,
    },
    /// Set the size of a process's terminal. A process without one answers `Done`.
    Resize {
        /// Which process.
        process: ProcessId,
        /// Characters.
        rows: u16,
        /// Characters.
        columns: u16,
    },
    /// The processes of a container, for `top`.
    Processes {
        /// Which container.
        container: String,
    },
    /// Drop what is kept of a process that has exited.
    Forget {
        /// Which process.
        process: ProcessId,
    },
    /// End everything, write back the disks, power off. Answered `Done` when file systems are unmounted or read-only.
    Shutdown,
}

/// See [`Request::Start`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// What the microVM as a whole needs; ignored for a pod's second and later containers.
    pub pod: Pod,
    /// The container.
    pub container: Container,
}

/// What is set once per microVM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pod {
    /// Nanoseconds since the Unix epoch, at the time of sending.
    pub clock_ns: u64,
    /// Fed to the kernel's random pool before any user code runs.
    pub entropy: [u8; 32],
    /// None: loopback only.
    pub network: Option<Network>,
}

/// The pod's one network interface (`eth0`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// The pod's addresses; each is configured as a single host (/32, /128).
    pub addresses: Vec<IpAddr>,
    /// Next hop for everything, reached directly on the link.
    pub gateway: IpAddr,
    /// The gateway's Ethernet address: a permanent neighbour entry saves the first packet an ARP exchange.
    pub gateway_mac: [u8; 6],
    /// Bytes.
    pub mtu: u32,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Block device with the image's EROFS, such as `vda`.
    pub image_device: String,
    /// Block device with the writable ext4 layer, such as `vdb`; holds `upper` and `work`, made by the guest when absent.
    pub writable_device: String,
    /// Mount the root read-only, and the files in /etc that are not the image's.
    pub read_only: bool,
    /// UTS host name.
    pub hostname: String,
    /// Contents of `/etc/hosts`, `/etc/resolv.conf` as the container sees them (`/etc/hostname` comes from `hostname`).
    pub hosts: String,
    /// See `hosts`.
    pub resolv_conf: String,
    /// cgroup v2 `memory.max`, bytes.
    pub memory_max: Option<u64>,
    /// cgroup v2 `cpu.max` as quota in microseconds per 100 ms period.
    pub cpu_quota_us: Option<u64>,
    /// cgroup v2 `pids.max`.
    pub pids_max: Option<u64>,
    /// All capabilities, all devices.
    pub privileged: bool,
    /// Mounts on tmpfs: path inside the container and mount options (`size=64m,mode=1777`).
    pub tmpfs: Vec<(String, String)>,
    /// Size of /dev/shm, bytes.
    pub shm_bytes: u64,
    /// Paths whose contents are hidden.
    pub masked_paths: Vec<String>,
    /// Paths that can't be written to.
    pub readonly_paths: Vec<String>,
    /// Kernel settings by name (`net.core.somaxconn`); only those of the container's own name spaces are taken.
    pub sysctls: Vec<(String, String)>,
    /// Process 1 is a small one that reaps what is orphaned and passes signals on to the main process.
    pub init: bool,
    /// The main process.
    pub process: Process,
}

/// A process to start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Names it from here on.
    pub id: ProcessId,
    /// Program and arguments; the program is looked up in the PATH of `env` inside the container.
    pub args: Vec<String>,
    /// `NAME=value`. The guest adds `HOME` from the user's entry in passwd where it is missing.
    pub env: Vec<String>,
    /// Working directory, made if missing; empty: `/`.
    pub working_dir: String,
    /// As in `docker run -u`: empty, name, uid, `name:group`, `uid:gid`. Names are those of the container's /etc/passwd and /etc/group.
    pub user: String,
    /// Further groups, names or numbers.
    pub groups: Vec<String>,
    /// Give it a terminal; stdout and stderr are then one.
    pub tty: bool,
    /// Keep stdin open for an [`Request::Input`]; else it is /dev/null.
    pub stdin: bool,
    /// Initial size of the terminal, rows and columns.
    pub size: Option<(u16, u16)>,
    /// Capabilities by name without `CAP_` (`NET_RAW`); permitted, effective for root, and bounding set.
    pub capabilities: Vec<String>,
    /// Resource limits; what isn't named has the guest's default.
    pub ulimits: Vec<Ulimit>,
    /// For the kernel, when it has to choose what to kill; -1000 to 1000.
    pub oom_score_adj: i32,
}

/// A resource limit (setrlimit(2)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// As docker names it: the kernel's name without `RLIMIT_`, in small letters.
    pub name: String,
    /// In force; None: unlimited.
    pub soft: Option<u64>,
    /// Up to which a process may raise it; None: unlimited.
    pub hard: Option<u64>,
}

/// See [`Request::Exec`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// The container to enter.
    pub container: String,
    /// All capabilities.
    pub privileged: bool,
    /// What to run.
    pub process: Process,
}

/// Sent by the client on a connection that follows a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledge {
    /// Everything before this byte offset is safe with the host.
    pub offset: u64,
}

/// What the guest answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// The process runs; `pid` as seen in the microVM.
    Started {
        /// Process id in the microVM's own pid namespace.
        pid: u32,
        /// Nanoseconds since the guest's PID 1 began: of what a first start takes, its part.
        init_age_ns: u64,
    },
    /// See [`Output`].
    Output(Output),
    /// The kernel has killed for want of memory in the container whose main process is followed. Sent whenever that has happened
    /// again, and once to a follower that comes later.
    OutOfMemory {
        /// How many processes of this run so far.
        kills: u64,
    },
    /// The process ended and all its output has been sent.
    Exited(Exit),
    /// Done as asked.
    Done,
    /// Answer to [`Request::Processes`].
    Processes(Vec<ProcessInfo>),
    /// Not done.
    Error(Error),
}

/// Some output of a process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Offset of the first byte of `data` in everything the process has written.
    pub offset: u64,
    /// True: stderr.
    pub stderr: bool,
    /// At most [`OUTPUT_CHUNK`] bytes.
    pub data: Vec<u8>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0–255; 128 + signal if a signal ended it.
    pub code: u8,
    /// The kernel's OOM killer was at work in the container.
    pub oom_killed: bool,
    /// Nanoseconds since the Unix epoch.
    pub at_ns: u64,
}

/// A row of `top`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Numeric user id.
    pub uid: u32,
    /// Process id in the microVM.
    pub pid: u32,
    /// Parent's.
    pub ppid: u32,
    /// Since the Unix epoch, nanoseconds.
    pub started_ns: u64,
    /// User and system time, nanoseconds.
    pub cpu_ns: u64,
    /// Controlling terminal (`pts/0`), or `?`.
    pub tty: String,
    /// Command line.
    pub command: String,
}

/// Why the guest could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Error {
    /// The program is not there (docker's exit code 127).
    #[error("exec: {program:?}: {reason}")]
    NotFound {
        /// As asked for.
        program: String,
        /// `executable file not found in $PATH`, or `stat …: no such file or directory`.
        reason: String,
    },
    /// The program is there and can't be run (126).
    #[error("exec: {program:?}: {reason}")]
    NotExecutable {
        /// As asked for.
        program: String,
        /// `permission denied`, `is a directory`, `exec format error`.
        reason: String,
    },
    /// The user or group is not in the container's /etc/passwd or /etc/group.
    #[error("unable to find {kind} {name}: no matching entries in {file} file")]
    NoSuchUser {
        /// `user` or `group`.
        kind: String,
        /// As asked for.
        name: String,
        /// `passwd` or `group`.
        file: String,
    },
    /// No process, or no container, of that id.
    #[error("no such process: {0}")]
    NoSuchProcess(String),
    /// The process has exited.
    #[error("process {0} has exited")]
    Exited(String),
    /// A system call or a file system failed.
    #[error("{doing}: {reason}")]
    System {
        /// What the guest was doing (`mounting /dev/vda`).
        doing: String,
        /// The system's words.
        reason: String,
    },
    /// The request makes no sense (`id` in use, working directory that is a file).
    #[error("{0}")]
    Invalid(String),
}

/// What may stand in a frame.
pub trait Message: Serialize + DeserializeOwned {
    /// Largest frame body, bytes. Whoever reads takes no more of what the other side claims to send.
    const MAX_FRAME: usize;
}

impl Message for Request {
    /// Room for a command line and environment of Linux's own maximum for ordinary stacks (2 MiB).
    const MAX_FRAME: usize = 4 << 20;
}

impl Message for Acknowledge {
    /// A number.
    const MAX_FRAME: usize = 16;
}

impl Message for Reply {
    /// Room for all processes of a container; an [`Output`] takes far less. Guests belong to strangers: in memory a list of tiny rows is about
    /// twelve times what it is in the frame.
    const MAX_FRAME: usize = 1 << 20;
}

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// A frame larger than [`Message::MAX_FRAME`].
    #[error("a frame of {length} bytes; the limit is {limit}")]
    TooLarge {
        /// Bytes that it has, or is said to have.
        length: usize,
        /// Bytes that it may have.
        limit: usize,
    },
    /// The bytes are no such message.
    #[error("malformed frame: {0}")]
    Malformed(#[from] postcard::Error),
}

/// A message as the bytes of one frame, length included.
pub fn encode<T: Message>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = postcard::to_extend(message, vec![0; 4])?;
    let length = frame.len() - 4;
    let header = u32::try_from(length)
        .ok()
        .filter(|_| length <= T::MAX_FRAME)
        .ok_or(FrameError::TooLarge {
            length,
            limit: T::MAX_FRAME,
        })?;
    frame[..4].copy_from_slice(&header.to_le_bytes());
    Ok(frame)
}

/// The length in a frame's four header bytes, checked against the message's limit.
pub fn body_length<T: Message>(header: [u8; 4]) -> Result<usize, FrameError> {
    let (length, limit) = (u32::from_le_bytes(header) as usize, T::MAX_FRAME);
    if length > limit {
        Err(FrameError::TooLarge { length, limit })
    } else {
        Ok(length)
    }
}

/// The message in a frame's body.
pub fn decode<T: Message>(body: &[u8]) -> Result<T, FrameError> {
    Ok(postcard::from_bytes(body)?)
}

/// Writes one frame.
pub fn write<T: Message>(to: &mut impl Write, message: &T) -> Result<(), FrameError> {
    Ok(to.write_all(&encode(message)?)?)
}

/// Reads one frame; `None` where the connection ended between frames.
pub fn read<T: Message>(from: &mut impl Read) -> Result<Option<T>, FrameError> {
    let mut header = [0; 4];
    let mut filled = 0;
    while filled < header.len() {
        match from.read(&mut header[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    let length = body_length::<T>(header)?;
    // The buffer grows with what really arrives, not with what the header claims.
    let mut body = Vec::new();
    from.take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Some(decode(&body)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = read::<Request>(&mut bytes.as_slice());
            let _ = read::<Reply>(&mut bytes.as_slice());
        }

        #[test]
        fn output_survives_the_wire(offset in any::<u64>(), stderr in any::<bool>(), data in proptest::collection::vec(any::<u8>(), 0..OUTPUT_CHUNK)) {
            let message = Reply::Output(Output { offset, stderr, data });
            let bytes = encode(&message).unwrap();
            prop_assert_eq!(read::<Reply>(&mut bytes.as_slice()).unwrap(), Some(message));
        }
    }

    #[test]
    fn a_frame_cut_short_is_an_error_and_an_end_between_frames_is_not() {
        let bytes = encode(&Request::Shutdown).unwrap();
        assert!(read::<Request>(&mut &bytes[..bytes.len() - 1]).is_err());
        assert!(read::<Request>(&mut &bytes[..2]).is_err());
        assert!(read::<Request>(&mut &[][..]).unwrap().is_none());
    }

    #[test]
    fn a_length_beyond_the_messages_limit_is_refused_before_anything_is_read() {
        fn refuses<T: Message>() -> bool {
            let over = |length: usize| {
                let bytes = u32::try_from(length).unwrap().to_le_bytes();
                matches!(body_length::<T>(bytes), Err(FrameError::TooLarge { .. }))
            };
            over(u32::MAX as usize) && over(T::MAX_FRAME + 1) && !over(T::MAX_FRAME)
        }
        assert!(refuses::<Request>() && refuses::<Reply>() && refuses::<Acknowledge>());
    }

    #[test]
    fn the_largest_of_everything_fits_into_its_frame() {
        let output = Output {
            offset: u64::MAX,
            stderr: true,
            data: vec![0; OUTPUT_CHUNK],
        };
        let process = ProcessInfo {
            uid: u32::MAX,
            pid: u32::MAX,
            ppid: u32::MAX,
            started_ns: u64::MAX,
            cpu_ns: u64::MAX,
            tty: "pts/1048575".into(),
            command: "x".repeat(COMMANDS_MAX / PROCESSES_MAX),
        };
        for reply in [
            Reply::Output(output),
            Reply::Processes(vec![process; PROCESSES_MAX]),
        ] {
            encode(&reply).unwrap();
        }
        encode(&Acknowledge { offset: u64::MAX }).unwrap();
    }

    #[test]
    fn what_is_too_large_is_not_sent() {
        let error = Reply::Error(Error::Invalid("x".repeat(Reply::MAX_FRAME)));
        assert!(matches!(encode(&error), Err(FrameError::TooLarge { .. })));
    }
}
