//! Terminals. Each container has a devpts of its own; the agent keeps a descriptor of it and opens terminals there itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hearth_guest_protocol::Error;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::system;

/// Group `tty`, as in every distribution.
const TTY_GROUP: &str = "5";

/// A terminal: the end that the agent reads and writes, and the one that the process is given.
pub struct Terminal {
    /// The agent's end; doesn't block.
    pub master: OwnedFd,
    /// The process's end.
    pub slave: OwnedFd,
    /// `/dev/pts/NUMBER` in the container.
    pub number: u32,
}

/// A new devpts that is mounted nowhere yet.
pub fn new_devpts() -> Result<OwnedFd, Error> {
    let make = || -> rustix::io::Result<OwnedFd> {
        let fs = fsopen("devpts", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&fs, "source", "devpts")?;
        fsconfig_set_string(&fs, "mode", "0620")?;
        fsconfig_set_string(&fs, "ptmxmode", "0666")?;
        fsconfig_set_string(&fs, "gid", TTY_GROUP)?;
        fsconfig_create(&fs)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    make().map_err(system("making a devpts"))
}

/// Opens a terminal in a container's devpts.
pub fn open(devpts: BorrowedFd<'_>, size: Option<(u16, u16)>) -> Result<Terminal, Error> {
    let make = || -> rustix::io::Result<Terminal> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // A privileged container might have mounted something over the file: that is not followed.
        let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        let master = openat2(devpts, "ptmx", flags, Mode::empty(), resolve)?;
        unlockpt(&master)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        if let Some((rows, columns)) = size {
            resize(master.as_fd(), rows, columns)?;
        }
        let name = rustix::pty::ptsname(&master, Vec::new())?;
        let number = name
            .to_str()
            .ok()
            .and_then(|name| name.rsplit('/').next()?.parse().ok());
        Ok(Terminal {
            master,
            slave,
            number: number.ok_or(rustix::io::Errno::NOTTY)?,
        })
    };
    make().map_err(system("opening a terminal"))
}

/// Sets the size, in characters; the foreground processes are told (SIGWINCH).
pub fn resize(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> rustix::io::Result<()> {
    tcsetwinsize(
        terminal,
        Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
}
