//! Disks as a driver sees them.

use std::os::unix::fs::FileExt;

use virtio_bindings::virtio_blk::*;

use super::*;
use crate::memory::GuestMemory;
use crate::virtio::ring::{BYTES_PER_EVENT, Ring, Rings};
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
        IO_ERROR
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

/// A disk of 64 MiB, all hole, and chains that each read so many bytes of it, in pieces that lie over each other.
fn large_reads(bytes: &[u64]) -> (Block, GuestMemory, [Ring; 1]) {
    const PIECE: u64 = 0x4_0000;
    let file = tempfile::tempfile().unwrap();
    file.set_len(64 << 20).unwrap();
    let memory = memory();
    memory.write_slice(&[0; 16], GuestAddress(HEADER)).unwrap();
    let chains: Vec<_> = (0..)
        .zip(bytes)
        .map(|(i, bytes)| {
            let pieces = (0..*bytes).step_by(PIECE as usize);
            let mut chain = vec![(HEADER, 16, false)];
            chain.extend(pieces.map(|at| (0x1_0000, (bytes - at).min(PIECE) as u32, true)));
            chain.push((STATUS + i, 1, true));
            chain
        })
        .collect();
    memory
        .write_slice(&[0xff; 16], GuestAddress(STATUS))
        .unwrap();
    let mut ring = [Ring::new(256)];
    offer(&memory, &mut ring[0], &chains);
    (Block::new(file, false).unwrap(), memory, ring)
}

#[test]
fn a_request_larger_than_any_driver_makes_is_refused() {
    for (bytes, status) in [
        (LARGEST_REQUEST, OK),
        (LARGEST_REQUEST + SECTOR, IO_ERROR),
        (50 << 20, IO_ERROR),
    ] {
        let (mut disk, memory, mut ring) = large_reads(&[bytes]);
        disk.notified(&mut Rings::new(&memory, &mut ring));
        assert_eq!(
            memory.read_obj::<u8>(GuestAddress(STATUS)).unwrap(),
            status,
            "{bytes}"
        );
    }
}

#[test]
fn an_event_ends_after_a_bounded_piece_and_the_rest_follows() {
    let half = BYTES_PER_EVENT / 2;
    let (mut disk, memory, mut ring) = large_reads(&[half; 5]);
    for done in [2, 4, 5] {
        let mut rings = Rings::new(&memory, &mut ring);
        disk.notified(&mut rings);
        assert_eq!(rings.finish().again, done < 5);
        assert_eq!(used(&memory, &ring[0]).len(), done);
    }
}

#[test]
fn a_flush_or_a_discard_is_the_last_request_of_its_event() {
    for (kind, data) in [
        (VIRTIO_BLK_T_FLUSH, vec![]),
        (VIRTIO_BLK_T_DISCARD, segment(0, 8, 0)),
        (VIRTIO_BLK_T_WRITE_ZEROES, segment(0, 8, 0)),
    ] {
        let memory = memory();
        memory.write_obj(kind, GuestAddress(HEADER)).unwrap();
        memory.write_slice(&data, GuestAddress(DATA)).unwrap();
        let chain = vec![
            (HEADER, 16, false),
            (DATA, data.len() as u32, false),
            (STATUS, 1, true),
        ];
        let mut ring = [Ring::new(128)];
        offer(&memory, &mut ring[0], &vec![chain; 3]);
        let mut disk = disk(false);
        for done in 1..=3 {
            let mut rings = Rings::new(&memory, &mut ring);
            disk.notified(&mut rings);
            assert!(rings.finish().again);
            assert_eq!(used(&memory, &ring[0]).len(), done);
        }
    }
}

#[test]
fn no_more_is_said_to_be_written_than_was() {
    let memory = memory();
    let mut disk = disk(false);
    let mut header = [0; 16];
    for (kind, room, written) in [
        (VIRTIO_BLK_T_IN, 512, 513),
        (VIRTIO_BLK_T_GET_ID, 20, 21),
        (VIRTIO_BLK_T_GET_ID, 100, 20),
        (VIRTIO_BLK_T_FLUSH, 0, 1),
        (VIRTIO_BLK_T_FLUSH, 100, 0),
        (77, 100, 0),
    ] {
        header[..4].copy_from_slice(&kind.to_le_bytes());
        memory.write_slice(&header, GuestAddress(HEADER)).unwrap();
        let mut ring = [Ring::new(128)];
        let chain = vec![(HEADER, 16, false), (DATA, room, true), (STATUS, 1, true)];
        offer(&memory, &mut ring[0], &[chain]);
        disk.notified(&mut Rings::new(&memory, &mut ring));
        assert_eq!(used(&memory, &ring[0]), [(0, written)], "{kind}");
    }
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
