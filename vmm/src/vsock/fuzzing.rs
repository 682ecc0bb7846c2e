//! Packets as a guest makes them.

use super::packet::{GUEST_CID, HOST_CID, Header, TYPE_STREAM};
use super::{FIRST_PORT, LARGEST_PAYLOAD};

/// The guest's port.
const PORT: u32 = 1024;

/// From the guest's port to the `to`th connection that there ever was.
pub(crate) fn packet(
    to: u8,
    operation: u8,
    flags: u8,
    buffer: u32,
    forwarded: u32,
    payload: &[u8],
) -> Vec<u8> {
    assert!(payload.len() <= LARGEST_PAYLOAD);
    let header = Header {
        src_cid: GUEST_CID,
        dst_cid: HOST_CID,
        src_port: PORT,
        dst_port: FIRST_PORT + u32::from(to),
        length: payload.len() as u32,
        kind: TYPE_STREAM,
        operation: operation.into(),
        flags: flags.into(),
        buffer,
        forwarded,
    };
    [&header.to_bytes(), payload].concat()
}
