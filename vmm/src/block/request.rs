//! One request to a disk: understood, checked, done.

use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use virtio_bindings::virtio_blk::*;

use super::{Block, LARGEST_REQUEST, MOST_DISCARD_SECTORS, MOST_DISCARD_SEGMENTS, SECTOR};
use crate::memory::GuestMemory;
use crate::virtio::chain::{self, Malformed, Readable, Writable};
use crate::virtio::ring::{BYTES_PER_EVENT, Chain};

/// Shown as the disk's serial number.
const NAME: [u8; VIRTIO_BLK_ID_BYTES as usize] = *b"hearth\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// What a flush, a discard or zeroes count for: they take as long as the host's file system likes, so each is the last of its event.
const REST_OF_EVENT: u64 = BYTES_PER_EVENT;

/// Why a request was not done; what the guest is told is in `status`.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("outside the disk")]
    OutsideDisk,
    #[error("more than {LARGEST_REQUEST} bytes at once")]
    TooLarge,
    #[error("the disk is read-only")]
    ReadOnly,
    #[error("not something this disk does")]
    Unsupported,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Refusal {
    fn status(&self) -> u32 {
        match self {
            Self::Unsupported => VIRTIO_BLK_S_UNSUPP,
            // Also for a write to a read-only disk (virtio 1.2 section 5.2.6.2).
            Self::Malformed(_)
            | Self::OutsideDisk
            | Self::TooLarge
            | Self::ReadOnly
            | Self::Io(_) => VIRTIO_BLK_S_IOERR,
        }
    }
}

/// A request that is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Served {
    /// Bytes from the beginning of the writable part that were written: what the used ring says (virtio 1.2 section 2.7.8.2).
    pub(super) written: u32,
    /// What it counts for in its event, bytes.
    pub(super) cost: u64,
}

/// Serves the request in `chain`.
pub(super) fn serve(disk: &Block, memory: &GuestMemory, chain: Chain<'_>) -> Served {
    let Ok((mut readable, mut writable)) = chain::split(memory, chain) else {
        return Served::default();
    };
    // The status is the last byte (virtio 1.2 section 5.2.6). Without a place for it there is no way to answer.
    let Ok(mut status) = writable.split_last(1) else {
        return Served::default();
    };
    let room = writable.len();
    let mut cost = 0;
    let (result, filled) = match execute(disk, &mut readable, writable, &mut cost) {
        Ok(filled) => (VIRTIO_BLK_S_OK, filled),
        Err(refusal) => (refusal.status(), 0),
    };
    // In front of the status nothing may be missing.
    let written = match status.write(&[result as u8]) {
        Ok(()) if filled == room => filled + 1,
        _ => filled,
    };
    Served {
        written: u32::try_from(written).unwrap_or(u32::MAX),
        cost,
    }
}

/// Does what is asked; returns how many bytes of `to` it has filled.
fn execute(
    disk: &Block,
    from: &mut Readable<'_>,
    mut to: Writable<'_>,
    cost: &mut u64,
) -> Result<u64, Refusal> {
    // `struct virtio_blk_req` (virtio 1.2 section 5.2.6).
    let kind: [u8; 4] = from.read()?;
    let _reserved: [u8; 4] = from.read()?;
    let sector: [u8; 8] = from.read()?;
    let sector = u64::from_le_bytes(sector);
    match u32::from_le_bytes(kind) {
        VIRTIO_BLK_T_IN => {
            let offset = range(disk, sector, to.len())?;
            *cost = transfer(to.len())?;
            to.read_from(&disk.file, offset)?;
            Ok(to.len())
        }
        VIRTIO_BLK_T_OUT => {
            let offset = range(disk, sector, from.len())?;
            writable(disk)?;
            *cost = transfer(from.len())?;
            from.write_to(&disk.file, offset)?;
            Ok(0)
        }
        VIRTIO_BLK_T_FLUSH => {
            if !disk.read_only {
                *cost = REST_OF_EVENT;
                disk.file.sync_data()?;
            }
            Ok(0)
        }
        VIRTIO_BLK_T_GET_ID => {
            to.write(&NAME)?;
            Ok(NAME.len() as u64)
        }
        kind @ (VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES) => {
            if disk.read_only {
                return Err(Refusal::Unsupported);
            }
            *cost = REST_OF_EVENT;
            segments(disk, kind, from)?;
            Ok(0)
        }
        _ => Err(Refusal::Unsupported),
    }
}

fn writable(disk: &Block) -> Result<(), Refusal> {
    if disk.read_only {
        Err(Refusal::ReadOnly)
    } else {
        Ok(())
    }
}

/// What reading or writing so many bytes counts for, if it may be that many.
fn transfer(bytes: u64) -> Result<u64, Refusal> {
    if bytes > LARGEST_REQUEST {
        return Err(Refusal::TooLarge);
    }
    Ok(bytes)
}

/// Byte offset of a range that lies inside the disk and is whole sectors.
fn range(disk: &Block, sector: u64, bytes: u64) -> Result<u64, Refusal> {
    let end = sector
        .checked_add(bytes / SECTOR)
        .ok_or(Refusal::OutsideDisk)?;
    if !bytes.is_multiple_of(SECTOR) || end > disk.sectors {
        return Err(Refusal::OutsideDisk);
    }
    Ok(sector * SECTOR)
}

/// Discard and write-zeroes: 16 bytes a segment (virtio 1.2 section 5.2.6): sector, number of sectors, flags.
fn segments(disk: &Block, kind: u32, from: &mut Readable<'_>) -> Result<(), Refusal> {
    for _ in 0..MOST_DISCARD_SEGMENTS {
        if from.is_empty() {
            return Ok(());
        }
        let sector = u64::from_le_bytes(from.read()?);
        let count = u32::from_le_bytes(from.read()?);
        let flags = u32::from_le_bytes(from.read()?);
        // Unknown flags, and `unmap` of a discard, are not supported (virtio 1.2 section 5.2.6.2).
        let unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
        let unknown = flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
        if unknown || count > MOST_DISCARD_SECTORS || (kind == VIRTIO_BLK_T_DISCARD && unmap) {
            return Err(Refusal::Unsupported);
        }
        let bytes = u64::from(count) * SECTOR;
        let offset = range(disk, sector, bytes)?;
        if bytes == 0 {
            continue;
        }
        if kind == VIRTIO_BLK_T_DISCARD {
            discard(&disk.file, offset, bytes)?;
        } else {
            write_zeroes(&disk.file, offset, bytes, unmap)?;
        }
    }
    if from.is_empty() {
        Ok(())
    } else {
        Err(Refusal::Unsupported)
    }
}

const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
const ZERO: FallocateFlags = FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE);

/// A hint: where the file system has no holes, nothing happens.
fn discard(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    match fallocate(file, PUNCH, offset, bytes) {
        Err(Errno::OPNOTSUPP) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Zeros by whatever way the file system has: a hole, or without `unmap` space that stays taken. Where it has none the guest is told
/// so, and writes them itself.
fn write_zeroes(file: &File, offset: u64, bytes: u64, unmap: bool) -> Result<(), Refusal> {
    let ways = if unmap { [PUNCH, ZERO] } else { [ZERO, PUNCH] };
    for way in ways {
        match fallocate(file, way, offset, bytes) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(Refusal::Io(error.into())),
        }
    }
    Err(Refusal::Unsupported)
}
