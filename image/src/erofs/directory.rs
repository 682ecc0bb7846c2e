//! Directories as data: blocks of entries sorted by name.
//!
//! Each block begins with its `struct erofs_dirent`s (nid u64, nameoff u16, file_type u8, reserved u8); the first
//! nameoff therefore tells how many there are. The names follow without separators. The kernel finds a block by binary
//! search over the blocks' first names, then the name inside: `.` and `..` are sorted in like any other.

use super::{BLOCK_BYTES, format::FileType};

/// Bytes of a `struct erofs_dirent`.
const DIRENT_BYTES: usize = 12;

/// An entry to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct DirEntry<'a> {
    pub(super) name: &'a [u8],
    pub(super) nid: u64,
    pub(super) file_type: FileType,
}

/// How many bytes a directory with these names (sorted, `.` and `..` included) will have.
pub(super) fn size_bytes<'a>(names: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut full_blocks = 0;
    let mut used = 0;
    for name in names {
        let needed = (DIRENT_BYTES + name.len()) as u64;
        if used + needed > BLOCK_BYTES {
            full_blocks += 1;
            used = 0;
        }
        used += needed;
    }
    full_blocks * BLOCK_BYTES + used
}

/// The directory's bytes; as long as [`size_bytes`] said.
pub(super) fn to_bytes(entries: &[DirEntry<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let mut used = 0;
        let count = rest
            .iter()
            .take_while(|entry| {
                used += DIRENT_BYTES + entry.name.len();
                used <= BLOCK_BYTES as usize
            })
            .count();
        let (block, later) = rest.split_at(count);
        out.resize(out.len().next_multiple_of(BLOCK_BYTES as usize), 0);
        let mut name_offset = block.len() * DIRENT_BYTES;
        for entry in block {
            out.extend_from_slice(&entry.nid.to_le_bytes());
            // Offsets are below 4096.
            out.extend_from_slice(&(name_offset as u16).to_le_bytes());
            out.push(entry.file_type.entry_type());
            out.push(0);
            name_offset += entry.name.len();
        }
        for entry in block {
            out.extend_from_slice(entry.name);
        }
        rest = later;
    }
    out
}
