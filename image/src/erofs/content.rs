//! The front part of the image file: regular files' contents, as they come.

use std::{fs::File, io, io::Read, os::unix::fs::FileExt};

use rustix::fs::FallocateFlags;

use super::{BLOCK_BYTES, MAX_IMAGE_BYTES, WriteError};
use crate::{pieces::Hashing, tree::Extent};

/// Bytes moved at once.
const BUFFER_BYTES: usize = 1 << 20;

/// A run of stored bytes of a file; what no segment covers is a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Appends contents to an image file.
#[derive(Debug)]
pub(crate) struct ContentWriter {
    pub(super) file: File,
    /// The first block that is free.
    pub(super) next_block: u32,
    /// Hears of every byte that is written here.
    pub(super) pieces: Hashing,
    buffer: Vec<u8>,
}

impl ContentWriter {
    /// Takes an empty file.
    pub(crate) fn new(file: File) -> Self {
        // Block 0 is the superblock's.
        Self {
            file,
            next_block: 1,
            pieces: Hashing::default(),
            buffer: vec![0; BUFFER_BYTES],
        }
    }

    /// Reserves whole blocks for so many bytes.
    pub(super) fn allocate(&mut self, size_bytes: u64) -> Result<u32, WriteError> {
        let start = self.next_block;
        let end = u64::from(start)
            .checked_add(size_bytes.div_ceil(BLOCK_BYTES))
            .filter(|&end| end <= MAX_IMAGE_BYTES / BLOCK_BYTES)
            .ok_or(WriteError::TooLarge)?;
        self.next_block = u32::try_from(end).map_err(|_| WriteError::TooLarge)?;
        Ok(start)
    }

    /// Stores a file's content: the segments' bytes come one after the other from `source`.
    pub(crate) fn store(
        &mut self,
        size_bytes: u64,
        segments: &[Segment],
        source: &mut impl Read,
    ) -> Result<Extent, WriteError> {
        if size_bytes == 0 {
            return Ok(Extent::default());
        }
        let block = self.allocate(size_bytes)?;
        let base = u64::from(block) * BLOCK_BYTES;
        for segment in segments {
            let mut at = base + segment.offset;
            let end = at + segment.length;
            while at < end {
                let wanted = BUFFER_BYTES.min((end - at).try_into().unwrap_or(BUFFER_BYTES));
                let buffer = &mut self.buffer[..wanted];
                source.read_exact(buffer).map_err(|err| match err.kind() {
                    io::ErrorKind::UnexpectedEof => WriteError::CutShort,
                    _ => WriteError::Read(err),
                })?;
                self.file
                    .write_all_at(buffer, at)
                    .map_err(WriteError::Write)?;
                self.pieces.put(at, buffer);
                at += wanted as u64;
            }
        }
        Ok(Extent { block, size_bytes })
    }

    /// Turns contents that nobody needs any more into holes, which read as zeros whatever was there.
    pub(crate) fn free(&mut self, mut extents: Vec<Extent>) -> Result<(), WriteError> {
        extents.retain(|extent| extent.size_bytes > 0);
        extents.sort_by_key(|extent| extent.block);
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for extent in extents {
            let start = u64::from(extent.block);
            let end = start + extent.size_bytes.div_ceil(BLOCK_BYTES);
            match runs.last_mut() {
                Some(run) if run.1 == start => run.1 = end,
                _ => runs.push((start, end)),
            }
        }
        for (start, end) in runs {
            let (start, end) = (start * BLOCK_BYTES, end * BLOCK_BYTES);
            self.punch(start, end - start).map_err(WriteError::Write)?;
            self.pieces.clear(start..end);
        }
        Ok(())
    }

    fn punch(&mut self, offset: u64, length: u64) -> io::Result<()> {
        // A hole may reach past what was written (a sparse file's end), never past what is allocated.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, offset, length) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                self.overwrite_with_zeros(offset, length)
            }
            Err(err) => Err(err.into()),
        }
    }

    fn overwrite_with_zeros(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let written = self.file.metadata()?.len();
        let end = (offset + length).min(written);
        self.buffer.fill(0);
        let mut at = offset;
        while at < end {
            let count = BUFFER_BYTES.min((end - at).try_into().unwrap_or(BUFFER_BYTES));
            self.file.write_all_at(&self.buffer[..count], at)?;
            at += count as u64;
        }
        Ok(())
    }
}
