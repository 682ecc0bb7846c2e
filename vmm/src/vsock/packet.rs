//! Packets of virtio-vsock (virtio 1.2 section 5.10.6).
//!
//! ```text
//! 0        8        16         20         24    28     30          32      36       40        44
//! | src_cid | dst_cid | src_port | dst_port | len | type | operation | flags | buf_alloc | fwd_cnt | payload
//! ```
//!
//! How a packet is spread over descriptors is the driver's business: current Linux sends large ones in many pieces.

/// Bytes of a header.
pub(super) const HEADER: usize = 44;

/// The host's context id (virtio 1.2 section 5.10.4).
pub(super) const HOST_CID: u64 = 2;
/// The guest's: each has a monitor of its own, so all may have the same, the first that is not reserved.
pub(super) const GUEST_CID: u64 = 3;
/// `VIRTIO_VSOCK_TYPE_STREAM` (virtio 1.2 section 5.10.6.2).
pub(super) const TYPE_STREAM: u16 = 1;

/// Flag of a shutdown: its sender will not receive any more (virtio 1.2 section 5.10.6.5).
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// Flag of a shutdown: its sender will not send any more.
pub(super) const SHUTDOWN_SEND: u32 = 2;

/// `enum virtio_vsock_op` (virtio 1.2 section 5.10.6).
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

    /// Understands a header; every 44 bytes are one.
    pub(super) fn from_bytes(bytes: &[u8; HEADER]) -> Self {
        let mut rest = bytes.as_slice();
        Self {
            src_cid: u64::from_le_bytes(take(&mut rest)),
            dst_cid: u64::from_le_bytes(take(&mut rest)),
            src_port: u32::from_le_bytes(take(&mut rest)),
            dst_port: u32::from_le_bytes(take(&mut rest)),
            length: u32::from_le_bytes(take(&mut rest)),
            kind: u16::from_le_bytes(take(&mut rest)),
            operation: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buffer: u32::from_le_bytes(take(&mut rest)),
            forwarded: u32::from_le_bytes(take(&mut rest)),
        }
    }

    /// The other way.
    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut rest = bytes.as_mut_slice();
        put(&mut rest, &self.src_cid.to_le_bytes());
        put(&mut rest, &self.dst_cid.to_le_bytes());
        put(&mut rest, &self.src_port.to_le_bytes());
        put(&mut rest, &self.dst_port.to_le_bytes());
        put(&mut rest, &self.length.to_le_bytes());
        put(&mut rest, &self.kind.to_le_bytes());
        put(&mut rest, &self.operation.to_le_bytes());
        put(&mut rest, &self.flags.to_le_bytes());
        put(&mut rest, &self.buffer.to_le_bytes());
        put(&mut rest, &self.forwarded.to_le_bytes());
        bytes
    }
}

/// Takes the next field; zeros where there is none.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let Some((field, after)) = rest.split_first_chunk::<N>() else {
        return [0; N];
    };
    *rest = after;
    *field
}

fn put(rest: &mut &mut [u8], field: &[u8]) {
    let whole = std::mem::take(rest);
    if let Some((place, after)) = whole.split_at_mut_checked(field.len()) {
        place.copy_from_slice(field);
        *rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_44_bytes_are_a_header(bytes in proptest::collection::vec(any::<u8>(), HEADER)) {
            let bytes: [u8; HEADER] = bytes.try_into().unwrap();
            prop_assert_eq!(Header::from_bytes(&bytes).to_bytes(), bytes);
        }
    }
}
