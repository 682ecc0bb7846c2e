//! The process that turns into a container's program.
//!
//! It is this executable, run again with its [`Spec`] in an inherited descriptor; it has no threads. It enters or
//! furnishes the container, takes on the user's ids and capabilities, and executes the program. Whatever goes wrong before
//! that is reported to the agent. Its own file is not readable through /proc by processes in the container.

mod devices;
mod identity;
mod init;
mod limits;
mod root;
mod stdio;
mod sysctl;
mod tmpfs;

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use hearth_guest_protocol as protocol;
use hearth_guest_protocol::{Error, Message, Process};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use serde::{Deserialize, Serialize};

use super::{lookup, system};

/// Exit status where the agent was told why; nobody looks at it.
const FAILED: i32 = 127;
/// Bytes read of a container's /etc/passwd or /etc/group at most: far more than any has, and less than a small container's memory.
const ACCOUNTS_MAX: u64 = 4 << 20;

/// What to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Where to say how it went.
    pub report: RawFd,
    /// The program and how to run it.
    pub process: Process,
    /// All capabilities and devices.
    pub privileged: bool,
    /// Stdin, stdout, stderr.
    pub stdio: [RawFd; 3],
    /// These are terminal `/dev/pts/NUMBER`.
    pub terminal: Option<u32>,
    /// Which container.
    pub place: Place,
}

impl Message for Spec {
    /// A process as the host sends it, and what the agent adds.
    const MAX_FRAME: usize = <protocol::Request as Message>::MAX_FRAME + (64 << 10);
}

/// The container to be in.
#[derive(Debug, Serialize, Deserialize)]
pub enum Place {
    /// A new one, to be furnished by this process, its first.
    New(Box<Furnishing>),
    /// That of the process with this pidfd.
    Of(RawFd),
}

/// What a new container is given.
#[derive(Debug, Serialize, Deserialize)]
pub struct Furnishing {
    /// Its mounted root file system.
    pub root: String,
    /// Directory with the files that go to /etc.
    pub files: String,
    /// A devpts that is not mounted anywhere.
    pub devpts: RawFd,
    /// UTS host name.
    pub hostname: String,
    /// Mount the root read-only.
    pub read_only: bool,
    /// Paths and options.
    pub tmpfs: Vec<(String, String)>,
    /// Size of /dev/shm.
    pub shm_bytes: u64,
    /// Paths to hide.
    pub masked_paths: Vec<String>,
    /// Paths to make read-only.
    pub readonly_paths: Vec<String>,
    /// Kernel settings.
    pub sysctls: Vec<(String, String)>,
    /// This process stays process 1, and the program is its child.
    pub init: bool,
}

/// What the agent is told.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// All is prepared; the next thing is execve.
    Ready,
    /// It can't be done.
    Failed(Error),
}

impl Message for Report {
    /// As far as the host would take it.
    const MAX_FRAME: usize = <protocol::Reply as Message>::MAX_FRAME;
}

/// Turns this process into a container's. Returns only when that fails.
pub fn main(spec: Option<OsString>) -> i32 {
    // SAFETY: prctl with these arguments touches no memory. It keeps the container's processes from opening this one's files
    // and program through /proc until execve.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    let Some(spec) = spec.and_then(|number| read_spec(number.to_str()?.parse().ok()?)) else {
        return FAILED;
    };
    // SAFETY: the agent left this descriptor open for us, and nothing else here owns it.
    let report = File::from(unsafe { OwnedFd::from_raw_fd(spec.report) });
    if fcntl_setfd(&report, FdFlags::CLOEXEC).is_err() {
        return FAILED;
    }
    run(spec, report);
    FAILED
}

fn read_spec(fd: RawFd) -> Option<Spec> {
    // SAFETY: as above; it is closed at the end of this function.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    protocol::read(&mut file).ok().flatten()
}

/// Everything up to execve. Returns once the agent has been told why that was not reached or failed.
fn run(spec: Spec, mut report: File) {
    let init = matches!(&spec.place, Place::New(furnishing) if furnishing.init);
    let executed = prepare(spec).and_then(|program| {
        // Should the agent not hear it, it is gone, and so is the machine.
        let _ = protocol::write(&mut report, &Report::Ready);
        if init {
            Ok((program, init::split()?))
        } else {
            Ok((program, init::Role::Program))
        }
    });
    let error = match executed {
        Err(error) => error,
        Ok((program, init::Role::Program)) => program.execute(),
        Ok((_, init::Role::Init(process_1))) => {
            // The agent takes the end of the report for the beginning of the program.
            drop(report);
            process_1.run()
        }
    };
    let _ = protocol::write(&mut report, &Report::Failed(error));
}

fn prepare(spec: Spec) -> Result<Program, Error> {
    let Spec {
        process,
        privileged,
        stdio,
        terminal,
        place,
        ..
    } = spec;
    let new = matches!(place, Place::New(_));
    match place {
        Place::New(furnishing) => root::furnish(&furnishing, privileged, terminal)?,
        Place::Of(main) => {
            // SAFETY: the agent left this descriptor open for us, and nothing else here owns it.
            let main = unsafe { OwnedFd::from_raw_fd(main) };
            enter(&main)?;
        }
    }
    let who = super::user::resolve(
        &process.user,
        &process.groups,
        &read_accounts("/etc/passwd"),
        &read_accounts("/etc/group"),
    )?;
    stdio::take(stdio, who.uid, process.tty)?;
    change_directory(&process.working_dir, new)?;

    let mut environment = process.env;
    if !environment.iter().any(|entry| entry.starts_with("HOME=")) {
        environment.push(format!("HOME={}", who.home));
    }
    limits::set(&process.ulimits, process.oom_score_adj)?;
    identity::assume(&who, &process.capabilities, privileged)?;
    stdio::reset_signals();

    let name = process
        .args
        .first()
        .ok_or_else(|| Error::Invalid("no command specified".to_owned()))?;
    let path = lookup::find(name, &environment)?;
    Ok(Program {
        name: name.clone(),
        path: c_string(path.as_os_str().as_bytes())?,
        args: process
            .args
            .iter()
            .map(|arg| c_string(arg.as_bytes()))
            .collect::<Result<_, _>>()?,
        environment: environment
            .iter()
            .map(|entry| c_string(entry.as_bytes()))
            .collect::<Result<_, _>>()?,
    })
}

fn enter(main: &OwnedFd) -> Result<(), Error> {
    let types = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::CONTROL_GROUP;
    match move_into_thread_name_spaces(main.as_fd(), types) {
        Err(Errno::SRCH) => Err(Error::Exited("of the container".to_owned())),
        result => result.map_err(system("entering the container")),
    }
}

/// A file of accounts, or nothing where there is none: docker too takes a missing file for an empty one.
fn read_accounts(path: &str) -> String {
    use rustix::fs::{Mode, OFlags, open};
    // The file is the container's: it may be a pipe that nobody writes to, or endless.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut content = Vec::new();
    if let Ok(fd) = open(path, flags, Mode::empty()) {
        let _ = File::from(fd).take(ACCOUNTS_MAX).read_to_end(&mut content);
    }
    String::from_utf8_lossy(&content).into_owned()
}

fn change_directory(path: &str, make: bool) -> Result<(), Error> {
    let path = if path.is_empty() { "/" } else { path };
    let failed = |errno: Errno| {
        let reason = match errno {
            Errno::NOTDIR => "not a directory".to_owned(),
            Errno::NOENT => "no such file or directory".to_owned(),
            other => other.to_string(),
        };
        Error::Invalid(format!("chdir to cwd ({path:?}) failed: {reason}"))
    };
    match rustix::process::chdir(path) {
        Err(Errno::NOENT) if make => {
            fs::create_dir_all(path)
                .map_err(system(format!("making the working directory {path}")))?;
            rustix::process::chdir(path).map_err(failed)
        }
        result => result.map_err(failed),
    }
}

/// All that execve needs.
struct Program {
    name: String,
    path: CString,
    args: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    fn execute(&self) -> Error {
        let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
            strings
                .iter()
                .map(|s| s.as_ptr())
                .chain([std::ptr::null()])
                .collect()
        };
        let (argv, envp) = (pointers(&self.args), pointers(&self.environment));
        // SAFETY: both arrays end with a null pointer, and all they point to outlives the call.
        unsafe { libc::execve(self.path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        let errno = std::io::Error::last_os_error()
            .raw_os_error()
            .map_or(Errno::IO, Errno::from_raw_os_error);
        match (errno, lookup::refused(&self.name, errno)) {
            // The file is there, as was seen above: what is missing is its interpreter.
            (Errno::NOENT, Error::NotFound { program, .. }) => Error::NotFound {
                program,
                reason:
                    "no such file or directory (its interpreter, or the loader it was linked for)"
                        .to_owned(),
            },
            (_, error) => error,
        }
    }
}

fn c_string(bytes: &[u8]) -> Result<CString, Error> {
    CString::new(bytes)
        .map_err(|_| Error::Invalid("a zero byte in an argument or the environment".to_owned()))
}
