//! A container's process 1 where it was asked for one that isn't the program (`--init`): it starts the program, passes signals on to
//! it, reaps what is orphaned, and ends as the program ends.

use std::io;
use std::mem::MaybeUninit;

use hearth_guest_protocol::Error;

use crate::system;

/// What a process is after [`split`].
pub enum Role {
    /// To execute the program; has process 1 as its parent.
    Program,
    /// Process 1.
    Init(Init),
}

/// Process 1, which has yet to begin its work.
pub struct Init {
    program: libc::pid_t,
    signals: libc::sigset_t,
}

/// Makes two processes out of this one, which has no threads. The program's is a process group of its own, and the terminal's
/// foreground where there is a terminal.
pub fn split() -> Result<Role, Error> {
    let failed = || system("starting the program below process 1");
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: sigfillset initializes the first set, sigprocmask reads it and initializes the second. Blocked, signals wait for whoever is
    // to have them, and SIGTTOU doesn't stop the program's process on its way to the foreground.
    let (all, before) = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        if libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) < 0 {
            return Err(failed()(io::Error::last_os_error()));
        }
        (all.assume_init(), before.assume_init())
    };
    // SAFETY: there is no other thread whose locks the child could find held.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: none of these touches memory but `before`. Without a terminal the second fails, as it may.
            unsafe {
                libc::setpgid(0, 0);
                libc::tcsetpgrp(libc::STDIN_FILENO, libc::getpgrp());
                libc::sigprocmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
            }
            Ok(Role::Program)
        }
        program if program > 0 => Ok(Role::Init(Init {
            program,
            signals: all,
        })),
        _ => Err(failed()(io::Error::last_os_error())),
    }
}

impl Init {
    /// Works until the program has ended; then this process ends in the same way, and the container with it.
    pub fn run(self) -> ! {
        loop {
            // SAFETY: the set is initialized, and nobody wants to know more than the number.
            let signal =
                unsafe { libc::sigwaitinfo(&raw const self.signals, std::ptr::null_mut()) };
            if signal == libc::SIGCHLD {
                if let Some(code) = self.reap() {
                    std::process::exit(code);
                }
            } else if signal > 0 {
                // SAFETY: kill touches no memory. The program may be a zombie by now: then its SIGCHLD comes next.
                unsafe { libc::kill(self.program, signal) };
            }
        }
    }

    /// Reaps whatever has ended; the program's exit code if it was among that.
    fn reap(&self) -> Option<i32> {
        let mut code = None;
        loop {
            let mut status = 0;
            // SAFETY: `status` is the one thing that is written to.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid <= 0 {
                return code;
            }
            if pid == self.program {
                code = Some(if libc::WIFSIGNALED(status) {
                    128 + libc::WTERMSIG(status)
                } else {
                    libc::WEXITSTATUS(status)
                });
            }
        }
    }
}
