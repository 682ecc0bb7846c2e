//! The virtio-net header in front of every frame (virtio 1.2 section 5.1.6).

use virtio_bindings::virtio_net::{VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE};

use super::ETHERNET;

/// Bytes of the header, `num_buffers` included.
pub(super) const HEADER: usize = 12;

/// The header, little-endian as both virtio 1 and a TUN queue on x86-64 have it.
///
/// ```text
/// 0      1         2        4         6           8            10           12
/// | flags | gso_type | hdr_len | gso_size | csum_start | csum_offset | num_buffers |
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl Header {
    /// Reads a header; missing bytes are zero.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        let word = |at: usize| u16::from_le_bytes([byte(at), byte(at + 1)]);
        Self {
            flags: byte(0),
            gso_type: byte(1),
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }

    /// As bytes, with `num_buffers` 1.
    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        bytes[2..4].copy_from_slice(&self.hdr_len.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.csum_start.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.csum_offset.to_le_bytes());
        Self::set_buffers(&mut bytes, 1);
        bytes
    }

    /// Writes `num_buffers` into a frame that begins with a header.
    pub(super) fn set_buffers(frame: &mut [u8], count: u16) {
        if let Some(field) = frame.get_mut(HEADER - 2..HEADER) {
            field.copy_from_slice(&count.to_le_bytes());
        }
    }

    fn needs_checksum(&self) -> bool {
        u32::from(self.flags) & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0
    }

    fn segments(&self) -> bool {
        u32::from(self.gso_type) != VIRTIO_NET_HDR_GSO_NONE
    }

    /// For the same packet without its Ethernet header; none where the offsets lie inside that.
    pub(super) fn without_ethernet(mut self) -> Option<Self> {
        if self.needs_checksum() {
            self.csum_start = self.csum_start.checked_sub(ETHERNET as u16)?;
        }
        // A hint that nobody may rely on (virtio 1.2 section 5.1.6.2.2), and some drivers leave it zero.
        self.hdr_len = self.hdr_len.saturating_sub(ETHERNET as u16);
        Some(self)
    }

    /// For the same packet behind an Ethernet header.
    pub(super) fn with_ethernet(mut self) -> Self {
        if self.needs_checksum() {
            self.csum_start = self.csum_start.saturating_add(ETHERNET as u16);
        }
        if self.segments() {
            self.hdr_len = self.hdr_len.saturating_add(ETHERNET as u16);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_header_and_offsets_survive_the_way_there_and_back(bytes: [u8; HEADER]) {
            let header = Header::from_bytes(&bytes);
            prop_assert_eq!(header.to_bytes()[..10].to_vec(), bytes[..10].to_vec());
            if let Some(bare) = header.with_ethernet().without_ethernet() {
                let far = u16::MAX - ETHERNET as u16;
                if header.csum_start < far {
                    prop_assert_eq!(bare.csum_start, header.csum_start);
                }
            }
        }
    }
}
