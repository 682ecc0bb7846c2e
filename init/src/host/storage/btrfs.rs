//! The super block of btrfs, as far as it takes to recognise a disk of ours and to give a copied file system an identity of its own.
//!
//! ```text
//! 0x000 checksum (crc32c of 0x20..0x1000, 32 bytes)   0x0bc incompatible features (u64)
//! 0x020 fsid (16)                                     0x0c4 kind of checksum (u16; 0: crc32c)
//! 0x030 own offset on the device (u64)                0x12b label (256)
//! 0x040 "_BHRfS_M"                                    0x23b metadata uuid (16)
//! 0x070 size of all devices (u64)
//! ```
//!
//! Every block of metadata carries the file system's id. So that a copy need not be rewritten throughout, the feature METADATA_UUID
//! lets the super block alone carry a new id, and keep the old one beside it for comparison
//! (`fs/btrfs/fs.h`, `include/uapi/linux/btrfs_tree.h`).

/// Bytes.
pub const LEN: usize = 4096;
/// Where copies of the super block lie on a device that is large enough; the first is the one that counts.
pub const OFFSETS: [u64; 2] = [64 << 10, 64 << 20];
/// Label of a data disk.
pub const LABEL: &[u8] = b"hearth-data";

const MAGIC: &[u8; 8] = b"_BHRfS_M";
/// `BTRFS_FEATURE_INCOMPAT_METADATA_UUID`.
const METADATA_UUID: u64 = 1 << 10;

/// A super block.
#[derive(Clone)]
pub struct SuperBlock(Box<[u8; LEN]>);

impl SuperBlock {
    /// Takes bytes that were read from a device. None: it is no btrfs with a checksum that we know and that is right.
    pub fn parse(bytes: &[u8; LEN]) -> Option<Self> {
        let block = Self(Box::new(*bytes));
        let known = block.at(0x40) == *MAGIC && block.at::<2>(0xc4) == [0; 2];
        (known && block.at(0) == block.checksum().to_le_bytes()).then_some(block)
    }

    /// Its label is ours.
    pub fn is_ours(&self) -> bool {
        let label: [u8; 256] = self.at(0x12b);
        label.starts_with(LABEL) && label[LABEL.len()] == 0
    }

    /// Bytes of the device that the file system uses so far.
    pub fn size_bytes(&self) -> u64 {
        u64::from_le_bytes(self.at(0x70))
    }

    /// Gives the file system another id.
    pub fn set_id(&mut self, id: [u8; 16]) {
        let old: [u8; 16] = self.at(0x20);
        let features = u64::from_le_bytes(self.at(0xbc));
        if features & METADATA_UUID == 0 {
            self.put(0x23b, &old);
            self.put(0xbc, &(features | METADATA_UUID).to_le_bytes());
        }
        self.put(0x20, &id);
        let checksum = self.checksum();
        self.put(0, &checksum.to_le_bytes());
    }

    /// To be written to the device.
    pub fn bytes(&self) -> &[u8; LEN] {
        &self.0
    }

    fn checksum(&self) -> u32 {
        crc32c::crc32c(&self.0[0x20..])
    }

    /// The field at a constant offset inside the block.
    fn at<const N: usize>(&self, offset: usize) -> [u8; N] {
        std::array::from_fn(|i| self.0[offset + i])
    }

    fn put(&mut self, offset: usize, field: &[u8]) {
        self.0[offset..offset + field.len()].copy_from_slice(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> SuperBlock {
        let mut block = SuperBlock(Box::new([0; LEN]));
        block.put(0x20, &[7; 16]);
        block.put(0x40, MAGIC);
        block.put(0x12b, LABEL);
        let checksum = block.checksum();
        block.put(0, &checksum.to_le_bytes());
        block
    }

    #[test]
    fn a_new_id_keeps_the_old_one_for_the_metadata() {
        let mut block = sample();
        block.set_id([1; 16]);
        block.set_id([2; 16]);
        let again = SuperBlock::parse(block.bytes()).unwrap();
        assert_eq!((again.at(0x20), again.at(0x23b)), ([2; 16], [7; 16]));
        assert!(again.is_ours());
    }

    #[test]
    fn a_longer_label_is_another() {
        let mut block = sample();
        block.put(0x12b + LABEL.len(), b"-2");
        assert!(!block.is_ours());
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_noticed(at in 0x20usize..LEN, bit in 0u8..8) {
            let mut bytes = *sample().bytes();
            bytes[at] ^= 1 << bit;
            prop_assert!(SuperBlock::parse(&bytes).is_none());
        }
    }
}
