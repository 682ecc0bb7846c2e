//! Extended attributes, stored behind their inode.
//!
//! A 12-byte `struct erofs_xattr_ibody_header` (all zero here: no shared attributes, no name filter), then for each
//! attribute name length u8, prefix u8, value length u16, the name without its prefix and the value, padded to 4 bytes.

use std::collections::BTreeMap;

use crate::tree::Bytes;

/// Bytes of a `struct erofs_xattr_ibody_header`.
pub(super) const HEADER_BYTES: usize = 12;
const ENTRY_BYTES: usize = 4;

/// What an inode's attributes may take in all: the count of 4-byte units behind the header is a u16.
pub(crate) const MAX_XATTR_BYTES: usize = HEADER_BYTES + (u16::MAX as usize - 1) * 4;

/// Prefixes that have a number; attributes without one of them can't be stored, and no Linux file system would take
/// them either.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|(prefix, index)| {
        let rest = name.strip_prefix(*prefix)?;
        // The ACLs are whole names, the others need more.
        let whole = matches!(index, 2 | 3);
        (rest.is_empty() == whole).then_some((*index, rest))
    })
}

/// Whether EROFS, and Linux, knows attributes of this name.
pub(crate) fn can_store(name: &[u8], value: &[u8]) -> bool {
    split(name).is_some_and(|(_, rest)| rest.len() <= u8::MAX.into())
        && value.len() <= u16::MAX.into()
}

/// Bytes behind the inode.
pub(super) fn size_bytes(xattrs: &BTreeMap<Bytes, Bytes>) -> u64 {
    to_bytes(xattrs).len() as u64
}

/// `i_xattr_icount` for so many bytes.
pub(super) fn count(size_bytes: u64) -> u16 {
    match size_bytes {
        0 => 0,
        // Bounded by MAX_XATTR_BYTES where attributes enter the tree.
        bytes => u16::try_from((bytes - HEADER_BYTES as u64) / 4 + 1).unwrap_or(u16::MAX),
    }
}

/// The bytes behind the inode; empty if there is nothing to store.
pub(super) fn to_bytes(xattrs: &BTreeMap<Bytes, Bytes>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in xattrs {
        let Some((index, rest)) = split(name).filter(|_| can_store(name, value)) else {
            continue;
        };
        if out.is_empty() {
            out.resize(HEADER_BYTES, 0);
        }
        out.push(rest.len() as u8);
        out.push(index);
        out.extend_from_slice(&(value.len() as u16).to_le_bytes());
        out.extend_from_slice(rest);
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(ENTRY_BYTES), 0);
    }
    out
}
