//! The structures of `erofs_fs.h`, as bytes.

use crate::tree::{Attributes, Device};

/// Where the superblock starts.
pub(super) const SUPERBLOCK_OFFSET: usize = 1024;
/// `EROFS_SUPER_MAGIC_V1`.
const MAGIC: u32 = 0xE0F5_E1E2;
/// `EROFS_FEATURE_COMPAT_SB_CHKSUM | EROFS_FEATURE_COMPAT_MTIME`.
const FEATURE_COMPAT: u32 = 0x1 | 0x2;
/// log2 of [`super::BLOCK_BYTES`].
const BLOCK_BITS: u8 = 12;

/// Bytes of an extended inode.
pub(super) const INODE_BYTES: u64 = 64;
/// Inode numbers count units of this many bytes.
pub(super) const SLOT_BYTES: u64 = 32;
/// A block address that means none.
pub(super) const NO_BLOCK: u32 = u32::MAX;

/// `S_IFMT` values and EROFS's (Linux's generic) directory entry types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FileType {
    Regular,
    Directory,
    CharDevice,
    BlockDevice,
    Fifo,
    Symlink,
}

impl FileType {
    /// The upper bits of `st_mode`.
    fn mode_bits(self) -> u16 {
        match self {
            Self::Fifo => 0o010000,
            Self::CharDevice => 0o020000,
            Self::Directory => 0o040000,
            Self::BlockDevice => 0o060000,
            Self::Regular => 0o100000,
            Self::Symlink => 0o120000,
        }
    }

    /// `FT_*` of `include/linux/fs_types.h`.
    pub(super) fn entry_type(self) -> u8 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Symlink => 7,
        }
    }
}

/// Where an inode's data is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Layout {
    /// `EROFS_INODE_FLAT_PLAIN`: in blocks only.
    Plain,
    /// `EROFS_INODE_FLAT_INLINE`: full blocks, and the tail behind the inode.
    Inline,
}

/// `struct erofs_inode_extended`.
#[derive(Debug)]
pub(super) struct Inode<'a> {
    pub(super) file_type: FileType,
    pub(super) layout: Layout,
    pub(super) xattr_count: u16,
    pub(super) attributes: &'a Attributes,
    pub(super) size_bytes: u64,
    /// First block of the data, or the device number.
    pub(super) block_or_device: u32,
    pub(super) serial: u32,
    pub(super) links: u32,
}

impl Inode<'_> {
    pub(super) fn to_bytes(&self) -> [u8; INODE_BYTES as usize] {
        let extended = 1u16;
        let layout = match self.layout {
            Layout::Plain => 0u16,
            Layout::Inline => 2,
        };
        let mut out = [0; INODE_BYTES as usize];
        put(&mut out, 0, &(extended | layout << 1).to_le_bytes());
        put(&mut out, 2, &self.xattr_count.to_le_bytes());
        let mode = self.file_type.mode_bits() | (self.attributes.permissions & 0o7777);
        put(&mut out, 4, &mode.to_le_bytes());
        put(&mut out, 8, &self.size_bytes.to_le_bytes());
        put(&mut out, 16, &self.block_or_device.to_le_bytes());
        put(&mut out, 20, &self.serial.to_le_bytes());
        put(&mut out, 24, &self.attributes.uid.to_le_bytes());
        put(&mut out, 28, &self.attributes.gid.to_le_bytes());
        put(&mut out, 32, &self.attributes.mtime.seconds.to_le_bytes());
        put(
            &mut out,
            40,
            &self.attributes.mtime.nanoseconds.to_le_bytes(),
        );
        put(&mut out, 44, &self.links.to_le_bytes());
        out
    }
}

/// A device number as `new_encode_dev` of the kernel has it.
pub(super) fn encode_device(device: Device) -> u32 {
    (device.minor & 0xff) | (device.major & 0xfff) << 8 | (device.minor & 0xf_ff00) << 12
}

/// What the superblock says of this very image.
#[derive(Debug)]
pub(super) struct Superblock {
    pub(super) root_nid: u16,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    pub(super) metadata_block: u32,
    pub(super) uuid: [u8; 16],
}

impl Superblock {
    /// Block 0, checksum included.
    pub(super) fn to_block(&self) -> Vec<u8> {
        let mut block = vec![0; super::BLOCK_BYTES as usize];
        let sb = &mut block[SUPERBLOCK_OFFSET..];
        put(sb, 0, &MAGIC.to_le_bytes());
        put(sb, 8, &FEATURE_COMPAT.to_le_bytes());
        sb[12] = BLOCK_BITS;
        put(sb, 14, &self.root_nid.to_le_bytes());
        put(sb, 16, &self.inodes.to_le_bytes());
        put(sb, 36, &self.blocks.to_le_bytes());
        put(sb, 40, &self.metadata_block.to_le_bytes());
        put(sb, 48, &self.uuid);
        // CRC-32C over the block from the superblock on, begun with all ones and, unlike the usual form, not inverted
        // at the end.
        let checksum = !crc32c::crc32c(sb);
        put(sb, 4, &checksum.to_le_bytes());
        block
    }
}

fn put(out: &mut [u8], offset: usize, bytes: &[u8]) {
    out[offset..offset + bytes.len()].copy_from_slice(bytes);
}
