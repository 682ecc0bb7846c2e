//! Signals and the power button, and the machine's end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::process::{Signal, WaitOptions, wait};
use rustix::system::{RebootCommand, reboot};

use super::console::Console;
use super::storage::DATA;
use crate::kmsg;

/// How long killed processes may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often that is looked at.
const KILL_PERIOD: Duration = Duration::from_millis(10);
/// `struct input_event` on 64-bit machines, `linux/input.h`.
const EVENT_LEN: usize = 24;
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

/// How a node is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Power off.
    PowerOff,
    /// Start again.
    Restart,
}

/// What a signal or a button asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// A child has ended.
    Reap,
    /// The node is to end.
    End(End),
}

/// Signals as something to poll.
pub struct Signals(File);

impl Signals {
    /// From here on the signals that concern init are read, not delivered. Called before any thread is started.
    pub fn catch() -> io::Result<Self> {
        // SAFETY: the set is initialised by sigemptyset before it is used; the calls keep no pointer. signalfd returns a new
        // descriptor of ours.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in [
                libc::SIGCHLD,
                libc::SIGTERM,
                libc::SIGINT,
                libc::SIGPWR,
                libc::SIGUSR1,
                libc::SIGUSR2,
            ] {
                libc::sigaddset(&raw mut set, signal);
            }
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self(File::from(OwnedFd::from_raw_fd(fd))))
        }
    }

    /// What has come since the last call.
    pub fn read(&mut self) -> Vec<Wish> {
        let mut wishes = Vec::new();
        let mut record = [0; size_of::<libc::signalfd_siginfo>()];
        while self.0.read_exact(&mut record).is_ok() {
            // `ssi_signo`, the first field.
            let number = u32::from_ne_bytes([record[0], record[1], record[2], record[3]]) as i32;
            wishes.push(match number {
                libc::SIGCHLD => Wish::Reap,
                // Ctrl-Alt-Del, and what it is spelled by hand.
                libc::SIGINT => Wish::End(End::Restart),
                _ => Wish::End(End::PowerOff),
            });
        }
        wishes
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Ctrl-Alt-Del reaches init as a signal instead of resetting the machine.
pub fn claim_ctrl_alt_del() {
    if let Err(errno) = reboot(RebootCommand::CadOff) {
        kmsg::log(&format!("init: claiming Ctrl-Alt-Del: {errno}"));
    }
}

/// A power button that ACPI tells of.
pub struct Button(File);

impl Button {
    /// All of them.
    pub fn find() -> Vec<Self> {
        let mut buttons = Vec::new();
        for entry in fs::read_dir("/sys/class/input")
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = fs::read_to_string(entry.path().join("device/name")).unwrap_or_default();
            if name.trim() == "Power Button" {
                let device = Path::new("/dev/input").join(entry.file_name());
                let opened = OpenOptions::new()
                    .read(true)
                    .custom_flags(libc::O_NONBLOCK)
                    .open(&device);
                match opened {
                    Ok(file) => buttons.push(Self(file)),
                    Err(error) => {
                        kmsg::log(&format!("init: opening {}: {error}", device.display()))
                    }
                }
            }
        }
        buttons
    }

    /// It has been pressed since the last call.
    pub fn pressed(&mut self) -> bool {
        let mut pressed = false;
        let mut event = [0; EVENT_LEN];
        while self.0.read_exact(&mut event).is_ok() {
            let half = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
            let value = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
            pressed |= half(16) == EV_KEY && half(18) == KEY_POWER && value == 1;
        }
        pressed
    }
}

impl AsFd for Button {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Kills what is left, writes everything back, and ends the machine. The controller has had its time.
pub fn end(how: End, console: &Console) -> ! {
    // SAFETY: kill(2) touches no memory. From PID 1, -1 means everybody else.
    unsafe { libc::kill(-1, Signal::KILL.as_raw()) };
    let deadline = Instant::now() + KILL_TIMEOUT;
    // There is no waiting for "all children" with a limit; this ends within a period or two.
    while Instant::now() < deadline {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => std::thread::sleep(KILL_PERIOD),
            Err(_) => break,
        }
    }
    rustix::fs::sync();
    if unmount(DATA, UnmountFlags::empty()).is_err()
        && let Err(errno) = mount_remount(DATA, MountFlags::RDONLY, c"")
    {
        console.warn(&format!("{DATA} could not be unmounted: {errno}; what was acknowledged is on the disk nevertheless"));
    }
    rustix::fs::sync();
    let command = match how {
        End::PowerOff => RebootCommand::PowerOff,
        End::Restart => RebootCommand::Restart,
    };
    loop {
        if let Err(errno) = reboot(command) {
            console.warn(&format!("the kernel refuses to end the machine: {errno}; switch it off by hand, everything is written"));
        }
        std::thread::park();
    }
}
