//! Writes EROFS, the read-only file system that a VM mounts as an image's root.
//!
//! On-disk format: Linux, `fs/erofs/erofs_fs.h` and `Documentation/filesystems/erofs.rst`. Of what it offers this uses
//! the part that every kernel since 5.4 reads and that can be mapped straight into a guest (DAX):
//!
//! ```text
//! block 0        superblock at byte 1024, the rest zero
//! block 1 ...    contents of regular files, each from a block of its own, in the order of the layers,
//!                then full blocks of directories and symlinks that don't fit beside their inodes
//! meta_blkaddr   inodes: 64 bytes (extended) + inline xattrs + inline tail, at multiples of 32 bytes
//! ```
//!
//! - Blocks are 4096 bytes; files are uncompressed and contiguous (`FLAT_PLAIN`), so a page of the guest is a page of
//!   the file. Directories and symlinks have their last part inline (`FLAT_INLINE`) where it fits.
//! - Contents come first, so that they can be written while a layer is being read, before it's known what a later
//!   layer replaces: what is replaced becomes a hole, as do sparse files' holes. The metadata comes last, all at once.
//! - An inode's number (nid) is its offset from `meta_blkaddr` in units of 32 bytes. The root comes first and its
//!   number isn't 0, because programs take a directory entry with inode 0 for a deleted one.
//! - Hard links are several entries with one nid. Extended attributes aren't shared between inodes.
//! - Nothing depends on when or where it is written: the same layers give the same bytes.

mod content;
mod directory;
mod format;
mod metadata;
#[cfg(test)]
mod tests;
mod xattr;

pub(crate) use content::{ContentWriter, Segment};
pub(crate) use metadata::finish;
pub(crate) use xattr::{MAX_XATTR_BYTES, can_store as can_store_xattr};

/// Bytes of a block: the guest's page size.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// Size of an image file, holes included. EROFS could address 16 TiB; a data disk of that size is nobody's image.
pub(crate) const MAX_IMAGE_BYTES: u64 = 1 << 40;

/// Why an image can't be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// Reading the content failed.
    #[error("{0}")]
    Read(std::io::Error),
    /// The content ended before its promised size.
    #[error("cut short")]
    CutShort,
    /// Writing the image failed.
    #[error("{0}")]
    Write(std::io::Error),
    /// Over [`MAX_IMAGE_BYTES`].
    #[error("larger than {MAX_IMAGE_BYTES} bytes")]
    TooLarge,
}
