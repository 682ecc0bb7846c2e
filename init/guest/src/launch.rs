//! Starting the process that will become a container's program.
//!
//! The agent has threads, so what it forks may do next to nothing: the new process only marks the descriptors that it is to keep,
//! and executes this program again as [`child`](super::child), which is alone in its address space and may take its time.
//! clone3(2) puts it into its cgroup and namespaces at birth, so that it is process 1 of a container's pid namespace and
//! a child of the agent's both.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::thread;

use hearth_guest_protocol as protocol;
use hearth_guest_protocol::Error;
use rustix::fs::{MemfdFlags, Mode, OFlags, SeekFrom, memfd_create, open, seek};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::child::{Report, Spec};
use super::{CHILD_ARGUMENT, system};

/// `CLONE_INTO_CGROUP` of `linux/sched.h`; libc's constant is of a type too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Stack of a thread that lives for one clone3, bytes.
const THREAD_STACK: usize = 64 << 10;

/// Starts processes by executing one program file.
pub struct Launcher {
    program: OwnedFd,
}

/// Where a process is to live.
#[derive(Clone, Copy)]
pub enum Namespaces<'a> {
    /// In new ones: it becomes process 1 of a pid namespace.
    New,
    /// In those of the process that this pidfd stands for.
    Of(BorrowedFd<'a>),
}

/// A process that runs its program.
pub struct Launched {
    /// Its id, as the agent sees it.
    pub pid: u32,
    /// Stands for it.
    pub pidfd: OwnedFd,
}

impl Launcher {
    /// `program` is guest-init's own file.
    pub fn new(program: &Path) -> io::Result<Self> {
        Ok(Self {
            program: open(program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?,
        })
    }

    /// Starts a process and waits until it runs its program, or says why it can't. `make_spec` is given the number under which the
    /// child finds the pipe for its report; `inherited` are the other descriptors that the specification names.
    pub fn launch(
        &self,
        namespaces: Namespaces<'_>,
        cgroup: BorrowedFd<'_>,
        inherited: &[BorrowedFd<'_>],
        make_spec: impl FnOnce(RawFd) -> Spec,
    ) -> Result<Launched, Error> {
        let (report, report_end) =
            pipe_with(PipeFlags::CLOEXEC).map_err(system("making a pipe"))?;
        let spec = protocol::encode(&make_spec(report_end.as_raw_fd()))
            .map_err(system("passing on what to start"))?;
        let memory = memfd_create("spec", MemfdFlags::CLOEXEC)
            .map_err(system("passing on what to start"))?;
        let mut memory = File::from(memory);
        memory
            .write_all(&spec)
            .map_err(system("passing on what to start"))?;
        seek(&memory, SeekFrom::Start(0)).map_err(system("passing on what to start"))?;

        let mut kept: Vec<RawFd> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
        kept.extend([report_end.as_raw_fd(), memory.as_raw_fd()]);
        let launched = self.start(namespaces, cgroup, &kept, memory.as_raw_fd());
        drop((report_end, memory));
        let launched = launched.map_err(system("starting a process"))?;
        match read_report(report) {
            Report::Ready => Ok(launched),
            Report::Failed(error) => {
                // It ends by itself; its status says nothing more.
                let _ = waitid(WaitId::PidFd(launched.pidfd.as_fd()), WaitIdOptions::EXITED);
                Err(error)
            }
        }
    }

    fn start(
        &self,
        namespaces: Namespaces<'_>,
        cgroup: BorrowedFd<'_>,
        kept: &[RawFd],
        spec: RawFd,
    ) -> io::Result<Launched> {
        match namespaces {
            Namespaces::New => {
                let flags = libc::CLONE_NEWNS
                    | libc::CLONE_NEWPID
                    | libc::CLONE_NEWUTS
                    | libc::CLONE_NEWIPC;
                self.clone_into(flags as u64, cgroup, kept, spec)
            }
            // A thread's children are born into the pid namespace that it has joined: a thread of its own, so that the others'
            // children are not. The other namespaces are joined by the child.
            Namespaces::Of(process) => thread::scope(|scope| {
                let thread = thread::Builder::new()
                    .stack_size(THREAD_STACK)
                    .spawn_scoped(scope, || {
                        move_into_thread_name_spaces(process, ThreadNameSpaceType::PROCESS_ID)?;
                        self.clone_into(0, cgroup, kept, spec)
                    })?;
                thread
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("the starting thread failed")))
            }),
        }
    }

    fn clone_into(
        &self,
        flags: u64,
        cgroup: BorrowedFd<'_>,
        kept: &[RawFd],
        spec: RawFd,
    ) -> io::Result<Launched> {
        let words = [
            c"init".to_owned(),
            text(CHILD_ARGUMENT)?,
            text(&spec.to_string())?,
        ];
        let argv = [
            words[0].as_ptr(),
            words[1].as_ptr(),
            words[2].as_ptr(),
            std::ptr::null(),
        ];
        let envp: [*const libc::c_char; 1] = [std::ptr::null()];
        let mut pidfd: RawFd = -1;
        // SAFETY: clone_args is plain data, for which zero means absent.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.flags = flags | libc::CLONE_PIDFD as u64 | CLONE_INTO_CGROUP;
        arguments.pidfd = (&raw mut pidfd) as u64;
        arguments.exit_signal = libc::SIGCHLD as u64;
        arguments.cgroup = cgroup.as_raw_fd() as u64;

        // SAFETY: without CLONE_VM and without a stack this is fork(2): the child gets a copy of this thread and of all memory, in
        // which locks may be held for ever. So it makes system calls only, with what was prepared above, and never returns.
        let pid = unsafe {
            libc::syscall(
                libc::SYS_clone3,
                &raw mut arguments,
                size_of_val(&arguments),
            )
        };
        if pid == 0 {
            // SAFETY: see above; all pointers are to memory that lives in this frame or in `self`.
            unsafe {
                for &fd in kept {
                    libc::syscall(libc::SYS_fcntl, fd, libc::F_SETFD, 0);
                }
                libc::syscall(
                    libc::SYS_execveat,
                    self.program.as_raw_fd(),
                    c"".as_ptr(),
                    argv.as_ptr(),
                    envp.as_ptr(),
                    libc::AT_EMPTY_PATH,
                );
                libc::syscall(libc::SYS_exit_group, 127);
            }
            unreachable!("exit_group doesn't return");
        }
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: clone3 has succeeded, so it has stored a new descriptor of ours there.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Launched {
            pid: pid as u32,
            pidfd,
        })
    }
}

/// What the child had to say before it executed its program, or ended.
fn read_report(report: OwnedFd) -> Report {
    let mut bytes = Vec::new();
    let read = File::from(report).read_to_end(&mut bytes);
    // Silence: it was killed, and what kills here is the memory limit.
    let silence = || {
        Report::Failed(Error::System {
            doing: "starting a process".to_owned(),
            reason: "it was killed while it was being set up; is its memory limit too small?"
                .to_owned(),
        })
    };
    // The last report counts: "ready" is taken back when execve fails.
    let mut rest = bytes.as_slice();
    let mut last = silence();
    while let (Ok(_), Ok(Some(report))) = (&read, protocol::read(&mut rest)) {
        last = report;
    }
    last
}

fn text(words: &str) -> io::Result<CString> {
    CString::new(words).map_err(|_| Errno::INVAL.into())
}
