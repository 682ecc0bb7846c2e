//! One request to a disk: understood, checked, done.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use virtio_bindings::virtio_blk::*;

use super::{Block, MOST_DISCARD_SECTORS, MOST_DISCARD_SEGMENTS, SECTOR};
use crate::memory::GuestMemory;
use crate::virtio::chain::{self, Malformed, Readable, Writable};
use crate::virtio::ring::Chain;

/// Shown as the disk's serial number.
const NAME: [u8; VIRTIO_BLK_ID_BYTES as usize] = *b"hearth\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// Zeros are written in pieces of this size where the file system can do no better.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Why a request was not done; what the guest is told is in `status`.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("outside the disk")]
    OutsideDisk,
    #[error("not something this disk does")]
    Unsupported,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Refusal {
    fn status(&self) -> u32 {
        match self {
            Self::Unsupported => VIRTIO_BLK_S_UNSUPP,
            Self::Malformed(_) | Self::OutsideDisk | Self::Io(_) => VIRTIO_BLK_S_IOERR,
        }
    }
}

/// Serves the request in `chain`; returns how many bytes of it were written to.
pub(super) fn serve(disk: &Block, memory: &GuestMemory, chain: Chain<'_>) -> u32 {
    let Ok((mut readable, mut writable)) = chain::split(memory, chain) else {
        return 0;
    };
    // Without a place for the status there is no way to answer.
    let Ok(mut status) = writable.split_last(1) else {
        return 0;
    };
    let length = writable.len();
    let (result, data) = match execute(disk, &mut readable, writable) {
        Ok(()) => (VIRTIO_BLK_S_OK, length),
        Err(refusal) => (refusal.status(), 0),
    };
    match status.write(&[result as u8]) {
        Ok(()) => u32::try_from(data + 1).unwrap_or(u32::MAX),
        Err(_) => 0,
    }
}

fn execute(disk: &Block, from: &mut Readable<'_>, mut to: Writable<'_>) -> Result<(), Refusal> {
    let kind: [u8; 4] = from.read()?;
    let _reserved: [u8; 4] = from.read()?;
    let sector: [u8; 8] = from.read()?;
    let sector = u64::from_le_bytes(sector);
    match u32::from_le_bytes(kind) {
        VIRTIO_BLK_T_IN => {
            let offset = range(disk, sector, to.len())?;
            Ok(to.read_from(&disk.file, offset)?)
        }
        VIRTIO_BLK_T_OUT => {
            let offset = range(disk, sector, from.len())?;
            writable(disk)?;
            Ok(from.write_to(&disk.file, offset)?)
        }
        VIRTIO_BLK_T_FLUSH => match disk.read_only {
            true => Ok(()),
            false => Ok(disk.file.sync_data()?),
        },
        VIRTIO_BLK_T_GET_ID => {
            to.write(&NAME)?;
            Ok(())
        }
        kind @ (VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES) => {
            writable(disk)?;
            segments(disk, kind, from)
        }
        _ => Err(Refusal::Unsupported),
    }
}

fn writable(disk: &Block) -> Result<(), Refusal> {
    if disk.read_only {
        Err(Refusal::Unsupported)
    } else {
        Ok(())
    }
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

/// Discard and write-zeroes: 16 bytes a segment (section 5.2.6): sector, number of sectors, flags.
fn segments(disk: &Block, kind: u32, from: &mut Readable<'_>) -> Result<(), Refusal> {
    for _ in 0..MOST_DISCARD_SEGMENTS {
        if from.is_empty() {
            return Ok(());
        }
        let sector = u64::from_le_bytes(from.read()?);
        let count = u32::from_le_bytes(from.read()?);
        let flags = u32::from_le_bytes(from.read()?);
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

/// Zeros by whatever way the file system has: a hole, or without `unmap` space that stays taken, or bytes.
fn write_zeroes(file: &File, offset: u64, bytes: u64, unmap: bool) -> io::Result<()> {
    let ways = if unmap { [PUNCH, ZERO] } else { [ZERO, PUNCH] };
    for way in ways {
        match fallocate(file, way, offset, bytes) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut at = offset;
    let end = offset + bytes;
    while at < end {
        let piece = (end - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..piece as usize], at)?;
        at += piece;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::Device;
    use crate::virtio::ring::{Ring, Rings};
    use crate::virtio::testing::{any_descriptors, honest_descriptors, memory, offer, used};
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    const HEADER: u64 = 0x1000;
    const DATA: u64 = 0x2000;
    const STATUS: u64 = 0x7000;

    fn disk(read_only: bool) -> Block {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 8 * SECTOR as usize], 0).unwrap();
        Block::new(file, read_only).unwrap()
    }

    /// Sends one request; returns its status and what came back.
    fn request(disk: &mut Block, kind: u32, sector: u64, data: &[u8], room: u32) -> (u8, Vec<u8>) {
        let memory = memory();
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        memory.write_slice(&header, GuestAddress(HEADER)).unwrap();
        memory.write_slice(data, GuestAddress(DATA)).unwrap();
        memory.write_obj(0xffu8, GuestAddress(STATUS)).unwrap();
        let mut ring = [Ring::new(128)];
        let chain = vec![
            (HEADER, 16, false),
            (DATA, data.len() as u32, false),
            (DATA, room, true),
            (STATUS, 1, true),
        ];
        offer(&memory, &mut ring[0], &[chain]);
        disk.notified(&mut Rings::new(&memory, &mut ring));
        assert_eq!(used(&memory, &ring[0]).len(), 1);
        let mut back = vec![0; room as usize];
        memory.read_slice(&mut back, GuestAddress(DATA)).unwrap();
        (memory.read_obj(GuestAddress(STATUS)).unwrap(), back)
    }

    const OK: u8 = VIRTIO_BLK_S_OK as u8;
    const IO_ERROR: u8 = VIRTIO_BLK_S_IOERR as u8;
    const UNSUPPORTED: u8 = VIRTIO_BLK_S_UNSUPP as u8;

    #[test]
    fn what_is_written_is_read_back() {
        let mut disk = disk(false);
        let data: Vec<u8> = (0..2 * SECTOR).map(|i| i as u8).collect();
        assert_eq!(request(&mut disk, VIRTIO_BLK_T_OUT, 3, &data, 0).0, OK);
        assert_eq!(request(&mut disk, VIRTIO_BLK_T_FLUSH, 0, &[], 0).0, OK);
        assert_eq!(
            request(&mut disk, VIRTIO_BLK_T_IN, 3, &[], 1024),
            (OK, data)
        );
        assert_eq!(
            request(&mut disk, VIRTIO_BLK_T_IN, 5, &[], 512),
            (OK, vec![7; 512])
        );
    }

    #[test]
    fn nothing_outside_the_disk_is_touched() {
        let mut disk = disk(false);
        assert_eq!(
            request(&mut disk, VIRTIO_BLK_T_OUT, 7, &[1; 1024], 0).0,
            IO_ERROR
        );
        assert_eq!(
            request(&mut disk, VIRTIO_BLK_T_IN, u64::MAX, &[], 512).0,
            IO_ERROR
        );
        assert_eq!(request(&mut disk, VIRTIO_BLK_T_IN, 8, &[], 512).0, IO_ERROR);
        assert_eq!(
            request(&mut disk, VIRTIO_BLK_T_OUT, 0, &[1; 100], 0).0,
            IO_ERROR
        );
        assert_eq!(disk.file.metadata().unwrap().len(), 8 * SECTOR);
    }

    #[test]
    fn a_read_only_disk_stays_as_it_is() {
        let mut disk = disk(true);
        assert_eq!(
            request(&mut disk, VIRTIO_BLK_T_OUT, 0, &[1; 512], 0).0,
            UNSUPPORTED
        );
        assert_eq!(
            request(&mut disk, VIRTIO_BLK_T_DISCARD, 0, &segment(0, 8, 0), 0).0,
            UNSUPPORTED
        );
        assert_eq!(
            request(&mut disk, VIRTIO_BLK_T_IN, 0, &[], 512),
            (OK, vec![7; 512])
        );
    }

    fn segment(sector: u64, count: u32, flags: u32) -> Vec<u8> {
        [
            &sector.to_le_bytes()[..],
            &count.to_le_bytes(),
            &flags.to_le_bytes(),
        ]
        .concat()
    }

    #[test]
    fn zeroes_are_written_where_asked_and_nowhere_else() {
        for flags in [0, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP] {
            let mut disk = disk(false);
            let two = [segment(1, 2, flags), segment(5, 1, flags)].concat();
            assert_eq!(
                request(&mut disk, VIRTIO_BLK_T_WRITE_ZEROES, 0, &two, 0).0,
                OK
            );
            let sectors: Vec<u8> = (0..8)
                .map(|sector| request(&mut disk, VIRTIO_BLK_T_IN, sector, &[], 512).1[0])
                .collect();
            assert_eq!(sectors, [7, 0, 0, 7, 7, 0, 7, 7]);
            let outside = segment(7, 2, flags);
            assert_eq!(
                request(&mut disk, VIRTIO_BLK_T_WRITE_ZEROES, 0, &outside, 0).0,
                IO_ERROR
            );
        }
    }

    #[test]
    fn an_unknown_request_is_refused() {
        assert_eq!(request(&mut disk(false), 77, 0, &[], 0).0, UNSUPPORTED);
        let (status, name) = request(&mut disk(false), VIRTIO_BLK_T_GET_ID, 0, &[], 20);
        assert_eq!((status, &name[..6]), (OK, &b"hearth"[..]));
    }

    proptest! {
        #[test]
        fn any_request_is_answered_and_the_disk_keeps_its_size(
            wild in any_descriptors(),
            honest in honest_descriptors(),
            kind in prop_oneof![0..16u32, any::<u32>()],
            sector in prop_oneof![0..9u64, any::<u64>()],
            fill in any::<u8>(),
        ) {
            for chains in [wild, honest] {
                let memory = memory();
                memory.write_slice(&vec![fill; 0x8_0000], GuestAddress(0)).unwrap();
                let mut header = [0; 16];
                header[..4].copy_from_slice(&kind.to_le_bytes());
                header[8..].copy_from_slice(&sector.to_le_bytes());
                for chain in &chains {
                    if let Some((at, _, _)) = chain.first() {
                        let _ = memory.write_slice(&header, GuestAddress(*at));
                    }
                }
                let mut ring = [Ring::new(128)];
                offer(&memory, &mut ring[0], &chains);
                let mut disk = disk(false);
                disk.notified(&mut Rings::new(&memory, &mut ring));
                prop_assert_eq!(disk.file.metadata().unwrap().len(), 8 * SECTOR);
            }
        }
    }
}
