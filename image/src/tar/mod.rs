//! Reads tar archives: POSIX ustar and pax, GNU's long names and sparse files, v7.
//!
//! Formats: POSIX.1-2017 `pax`, "pax Interchange Format" and "ustar Interchange Format"; GNU tar manual, "Basic Tar
//! Format" and "Storing Sparse Files". An archive comes from a stranger: each number is checked before it's used, and
//! an archive that ends too early is told from one that ends.

mod header;
pub(crate) mod pax;
mod reader;
mod sparse;
#[cfg(test)]
mod tests;

use std::io;

use crate::tree::{Attributes, Device};

pub(crate) use reader::Reader;

pub(crate) use crate::erofs::Segment;

/// Bytes of a block, the unit of an archive.
const BLOCK_BYTES: usize = 512;

/// Bytes of all that extends one entry's header: pax headers and GNU's long names together; and of a sparse map. Go's
/// reader, which docker uses, allows 1 MiB for each; Linux's limits for paths and attributes are far below it.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// Why an archive can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TarError {
    /// It ends in the middle of something.
    #[error("the archive is cut short")]
    CutShort,
    /// It isn't what a tar looks like.
    #[error("{0}")]
    Malformed(String),
    /// The source failed.
    #[error("{0}")]
    Io(io::Error),
}

impl TarError {
    fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed(reason.into())
    }
}

impl From<io::Error> for TarError {
    fn from(err: io::Error) -> Self {
        match err.kind() {
            io::ErrorKind::UnexpectedEof => Self::CutShort,
            _ => Self::Io(err),
        }
    }
}

/// What kind of file an entry describes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum EntryKind {
    File,
    Directory,
    Symlink,
    HardLink,
    CharDevice(Device),
    BlockDevice(Device),
    Fifo,
}

/// One file of an archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TarEntry {
    /// As written; not checked for anything.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    /// Target of a symlink or hard link, as written.
    pub(crate) link: Vec<u8>,
    pub(crate) attributes: Attributes,
    /// Size of the file, holes included.
    pub(crate) size_bytes: u64,
    /// The parts that are stored, ascending, within the size; their lengths sum up to what [`Reader::content`] gives.
    pub(crate) segments: Vec<Segment>,
}
