//! Packets of virtio-vsock (virtio 1.2 section 5.10.6).

use virtio_vsock::packet::VsockPacket;

/// The host's context id.
pub(super) const HOST_CID: u64 = 2;
/// The guest's: each has a monitor of its own, so all may have the same, the first that is not reserved.
pub(super) const GUEST_CID: u64 = 3;
/// `VIRTIO_VSOCK_TYPE_STREAM`.
pub(super) const TYPE_STREAM: u16 = 1;

/// Flag of a shutdown: its sender will not receive any more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// Flag of a shutdown: its sender will not send any more.
pub(super) const SHUTDOWN_SEND: u32 = 2;

/// Section 5.10.6, `enum virtio_vsock_op`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Operation {
    Request = 1,
    Response = 2,
    Reset = 3,
    Shutdown = 4,
    ReadWrite = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

/// A packet without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    pub(super) length: u32,
    pub(super) kind: u16,
    /// Any number when it comes from the guest.
    pub(super) operation: u16,
    pub(super) flags: u32,
    pub(super) buffer: u32,
    pub(super) forwarded: u32,
}

impl Header {
    /// From the host to a guest's port, empty.
    pub(super) fn to_guest(operation: Operation, src_port: u32, dst_port: u32) -> Self {
        Self {
            src_cid: HOST_CID,
            dst_cid: GUEST_CID,
            src_port,
            dst_port,
            length: 0,
            kind: TYPE_STREAM,
            operation: operation as u16,
            flags: 0,
            buffer: 0,
            forwarded: 0,
        }
    }

    /// The reset that answers this packet.
    pub(super) fn refusal(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            kind: self.kind,
            ..Self::to_guest(Operation::Reset, self.dst_port, self.src_port)
        }
    }

    /// A packet's, as it was when the packet was taken from the queue.
    pub(super) fn of(packet: &VsockPacket<'_, ()>) -> Self {
        Self {
            src_cid: packet.src_cid(),
            dst_cid: packet.dst_cid(),
            src_port: packet.src_port(),
            dst_port: packet.dst_port(),
            length: packet.len(),
            kind: packet.type_(),
            operation: packet.op(),
            flags: packet.flags(),
            buffer: packet.buf_alloc(),
            forwarded: packet.fwd_cnt(),
        }
    }

    /// Writes it into a packet.
    pub(super) fn write(&self, packet: &mut VsockPacket<'_, ()>) {
        packet
            .set_src_cid(self.src_cid)
            .set_dst_cid(self.dst_cid)
            .set_src_port(self.src_port)
            .set_dst_port(self.dst_port)
            .set_len(self.length)
            .set_type(self.kind)
            .set_op(self.operation)
            .set_flags(self.flags)
            .set_buf_alloc(self.buffer)
            .set_fwd_cnt(self.forwarded);
    }
}
