//! Opening TUN queues (Documentation/networking/tuntap.rst, linux/if_tun.h).

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl};

/// Bytes of a link's name with its end (`IFNAMSIZ`).
pub(super) const NAME_LEN: usize = 16;

const TUNSETIFF: Opcode = 0x4004_54ca;
const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
/// Fail rather than join a link that is there.
const IFF_TUN_EXCL: u16 = 0x8000;

/// `struct ifreq` as far as TUNSETIFF uses it, and its full size.
#[repr(C)]
struct Request {
    name: [u8; NAME_LEN],
    flags: u16,
    unused: [u8; 22],
}

/// Makes the link `name`, which lives as long as the queue is open in some process.
///
/// `ExclusiveExists`-like errors come as EBUSY: an earlier monitor of the same pod still has the link.
pub(super) fn create(name: &str) -> Result<OwnedFd, Errno> {
    let mut request = Request {
        name: [0; NAME_LEN],
        flags: IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL,
        unused: [0; 22],
    };
    // One byte stays zero: the end of the name.
    let space = request
        .name
        .get_mut(..name.len())
        .filter(|space| space.len() < NAME_LEN)
        .ok_or(Errno::NAMETOOLONG)?;
    space.copy_from_slice(name.as_bytes());
    let queue = open(
        "/dev/net/tun",
        OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `Request` has the size and layout of.
    let setting = unsafe { Updater::<TUNSETIFF, Request>::new(&mut request) };
    // SAFETY: as above; the memory is borrowed for the call.
    unsafe { ioctl(&queue, setting) }?;
    Ok(queue)
}
