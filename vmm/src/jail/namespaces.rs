//! Name spaces of the monitor's own: nothing mounted but an empty directory, no network, no host name, no System V objects.

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::process::{chroot, fchdir};
use rustix::thread::UnshareFlags;

use super::{Error, doing};

/// Moves this process into name spaces of its own, with `root` as its root directory and nothing else mounted.
///
/// The directory becomes the root by `chroot`, and then everything that is mounted goes, the mount it lies on included: that stays
/// alive, part of no tree, for as long as the process. Unlike `pivot_root` this also works where the root is the initial RAM file
/// system.
pub fn enter(root: &OwnedFd) -> Result<(), Error> {
    let flags =
        UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    // SAFETY: none of these flags unshares the table of file descriptors.
    doing("making name spaces", unsafe {
        rustix::thread::unshare_unsafe(flags)
    })?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    doing(
        "making mounts private",
        rustix::mount::mount_change("/", private),
    )?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = doing(
        "opening /",
        rustix::fs::openat(CWD, "/", flags, Mode::empty()),
    )?;
    doing("entering the root directory", fchdir(root))?;
    doing("changing the root", chroot("."))?;
    doing("entering the old root", fchdir(&old))?;
    doing(
        "unmounting everything",
        rustix::mount::unmount(".", UnmountFlags::DETACH),
    )?;
    doing("entering the root directory", fchdir(root))
}
