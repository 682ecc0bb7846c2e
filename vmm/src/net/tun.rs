//! A TUN queue with virtio-net headers.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use virtio_bindings::virtio_net::*;
use vmm_sys_util::ioctl::{ioctl_with_ref, ioctl_with_val};

use super::header::HEADER;

/// linux/if_tun.h.
mod request {
    #![allow(
        missing_docs,
        reason = "the macro makes public functions without documentation"
    )]
    use vmm_sys_util::ioctl_iow_nr;

    ioctl_iow_nr!(TUNSETOFFLOAD, u32::from(b'T'), 208, libc::c_uint);
    ioctl_iow_nr!(TUNSETVNETHDRSZ, u32::from(b'T'), 216, libc::c_int);
}

// linux/if_tun.h.
const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO4: u32 = 0x02;
const TUN_F_TSO6: u32 = 0x04;
const TUN_F_TSO_ECN: u32 = 0x08;
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;

/// What comes out of a queue of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A packet of so many bytes.
    Packet(usize),
    /// No more for now; there will be an event.
    Nothing,
    /// Something came that is no packet.
    Unusable,
}

/// A queue of IP packets, each with a virtio-net header.
///
/// The network device calls everything from one thread; the descriptor is watched edge-triggered for reading.
pub trait Packets: AsRawFd + Send {
    /// Features of virtio-net that both directions of the queue can take part in.
    fn offloads(&self) -> u64;

    /// The guest has accepted these features, so packets towards it may make use of them.
    fn set_offloads(&mut self, features: u64);

    /// Hands a packet to the host.
    fn send(&mut self, header: &[u8], packet: &[u8]) -> io::Result<()>;

    /// Takes a packet from the host.
    fn receive(&mut self, header: &mut [u8], packet: &mut [u8]) -> Received;
}

/// A TUN queue of the kernel's.
#[derive(Debug)]
pub struct Tun {
    queue: File,
    offloads: u64,
}

impl Tun {
    /// Takes over a queue that was opened with `IFF_TUN | IFF_NO_PI | IFF_VNET_HDR`.
    pub fn new(queue: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&queue, fcntl_getfl(&queue)? | OFlags::NONBLOCK)?;
        let queue = File::from(queue);
        let size = HEADER as libc::c_int;
        // SAFETY: the call reads one integer.
        if unsafe { ioctl_with_ref(&queue, request::TUNSETVNETHDRSZ(), &size) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut tun = Self { queue, offloads: 0 };
        let checksum = 1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_GUEST_CSUM;
        let segments = 1 << VIRTIO_NET_F_HOST_TSO4
            | 1 << VIRTIO_NET_F_HOST_TSO6
            | 1 << VIRTIO_NET_F_HOST_ECN
            | 1 << VIRTIO_NET_F_GUEST_TSO4
            | 1 << VIRTIO_NET_F_GUEST_TSO6
            | 1 << VIRTIO_NET_F_GUEST_ECN;
        let datagrams = 1 << VIRTIO_NET_F_HOST_USO
            | 1 << VIRTIO_NET_F_GUEST_USO4
            | 1 << VIRTIO_NET_F_GUEST_USO6;
        for features in [
            checksum | segments | datagrams,
            checksum | segments,
            checksum,
        ] {
            if tun.try_offloads(features) {
                tun.offloads = features;
                break;
            }
        }
        Ok(tun)
    }

    fn try_offloads(&self, features: u64) -> bool {
        let pairs = [
            (VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM),
            (VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4),
            (VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6),
            (VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN),
            (VIRTIO_NET_F_GUEST_USO4, TUN_F_USO4),
            (VIRTIO_NET_F_GUEST_USO6, TUN_F_USO6),
        ];
        let accepted = pairs
            .iter()
            .filter(|(feature, _)| features & 1 << *feature != 0);
        let flags = accepted.fold(0, |flags, (_, flag)| flags | flag);
        // SAFETY: the call takes a number, no pointer.
        unsafe {
            ioctl_with_val(
                &self.queue,
                request::TUNSETOFFLOAD(),
                libc::c_ulong::from(flags),
            ) >= 0
        }
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.queue.as_raw_fd()
    }
}

impl Packets for Tun {
    fn offloads(&self) -> u64 {
        self.offloads
    }

    fn set_offloads(&mut self, features: u64) {
        // A part of what was possible in `new`.
        self.try_offloads(features & self.offloads);
    }

    fn send(&mut self, header: &[u8], packet: &[u8]) -> io::Result<()> {
        self.queue
            .write_vectored(&[IoSlice::new(header), IoSlice::new(packet)])
            .map(|_| ())
    }

    fn receive(&mut self, header: &mut [u8], packet: &mut [u8]) -> Received {
        let into = &mut [IoSliceMut::new(header), IoSliceMut::new(packet)];
        match self.queue.read_vectored(into) {
            Ok(length) => match length.checked_sub(HEADER) {
                Some(length) => Received::Packet(length),
                None => Received::Unusable,
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Received::Unusable,
            // Would block, or the interface is down: an event follows when that changes.
            Err(_) => Received::Nothing,
        }
    }
}
