//! Name spaces of the monitor's own: nothing mounted but an empty directory, no network, no host name, no System V objects.

use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::process::{chroot, fchdir};
use rustix::thread::UnshareFlags;

use super::Error;

/// Moves this process into name spaces of its own, with `root` as its root directory and nothing else mounted.
///
/// First everything that is mounted goes, the mount that `root` lies on included: that stays alive, part of no tree, for as
/// long as it is this process's root. Unlike `pivot_root` this asks for no mount of its own, and works where the root is the initial
/// RAM file system as well. That alone can't be unmounted; it is then empty of mounts, and out of reach below the new root.
pub fn enter(root: &OwnedFd) -> Result<(), Error> {
    let flags =
        UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    // SAFETY: none of these flags unshares the table of file descriptors.
    unsafe { rustix::thread::unshare_unsafe(flags) }
        .map_err(Error::system("making name spaces"))?;
    // What is unmounted here stays mounted for everybody else.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(Error::system("making mounts private"))?;
    match rustix::mount::unmount("/", UnmountFlags::DETACH) {
        Err(Errno::INVAL) => unmount_children()?,
        result => result.map_err(Error::system("unmounting everything"))?,
    }
    fchdir(root).map_err(Error::system("entering the root directory"))?;
    chroot(".").map_err(Error::system("changing the root"))
}

/// Unmounts everything below a root that has to stay.
fn unmount_children() -> Result<(), Error> {
    let table = std::fs::read("/proc/self/mountinfo")
        .map_err(Error::system("reading /proc/self/mountinfo"))?;
    for place in children_of_root(&table) {
        let unmounted = rustix::mount::unmount(&place, UnmountFlags::DETACH);
        unmounted.map_err(Error::system("unmounting everything"))?;
    }
    Ok(())
}

/// Mount points directly below the root, topmost first (proc(5), `/proc/pid/mountinfo`).
fn children_of_root(table: &[u8]) -> Vec<PathBuf> {
    let lines = table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let (id, parent) = (fields.next()?, fields.next()?);
        Some((id, parent, fields.nth(2)?))
    });
    let root = lines
        .clone()
        .filter(|(_, _, place)| *place == b"/")
        .map(|(id, _, _)| id)
        .next_back();
    let children = lines.filter(|(id, parent, _)| Some(*parent) == root && id != parent);
    let mut places: Vec<_> = children
        .map(|(_, _, place)| PathBuf::from(std::ffi::OsString::from_vec(unescape(place))))
        .collect();
    places.reverse();
    places
}

/// Space, tab, line break and backslash are three octal digits behind a backslash.
fn unescape(mut text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    while let Some((first, rest)) = text.split_first() {
        text = rest;
        let digits = rest.get(..3).filter(|_| *first == b'\\');
        let code = digits.and_then(|digits| str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                text = &rest[3..];
            }
            None => plain.push(*first),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_mounted_on_the_root_is_found_and_what_lies_deeper_goes_with_it() {
        let table = b"1 1 0:2 / / rw - rootfs rootfs rw\n\
            20 1 0:20 / /proc rw - proc proc rw\n\
            21 1 0:21 / /a\\040b rw shared:3 - tmpfs tmpfs rw\n\
            22 21 0:22 / /a\\040b/c rw - tmpfs tmpfs rw\n\
            23 1 0:23 / /data rw - btrfs /dev/vda rw\n";
        let paths = ["/data", "/a b", "/proc"].map(PathBuf::from);
        assert_eq!(children_of_root(table), paths);
    }

    proptest! {
        #[test]
        fn any_table_can_be_read(table in "[0-9 /\\\\\n]{0,200}") {
            let _ = children_of_root(table.as_bytes());
        }
    }
}
