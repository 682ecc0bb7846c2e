//! Disks with anything on them.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::btrfs::{LEN, OFFSETS, SuperBlock};
use super::disks::{Content, classify};

/// Bytes of the disk: what is looked at to call it blank.
const SIZE: u64 = 2 << 20;
/// What a super block's checksum is about.
const SUMMED: usize = 0x20;

/// A super block where it belongs, its checksum put right, and anything in front of it. A disk with something on it isn't blank.
pub fn disk(bytes: &[u8]) {
    let room = "the machine that fuzzes has room for a file";
    let (front, block) = bytes.split_at(bytes.len().saturating_sub(LEN));
    let front = &front[..front.len().min(OFFSETS[0] as usize)];
    let mut super_block = [0; LEN];
    super_block[..block.len()].copy_from_slice(block);
    let sum = crc32c::crc32c(&super_block[SUMMED..]).to_le_bytes();
    if block.len() > SUMMED {
        super_block[..SUMMED].fill(0);
        super_block[..sum.len()].copy_from_slice(&sum);
    }
    let memory = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).expect(room);
    let disk = File::from(memory);
    disk.set_len(SIZE).expect(room);
    disk.write_all_at(front, OFFSETS[0] - front.len() as u64)
        .expect(room);
    disk.write_all_at(&super_block, OFFSETS[0]).expect(room);
    let content = classify(&disk, SIZE).expect("a disk that can be read");
    let ours = SuperBlock::parse(&super_block).filter(SuperBlock::is_ours);
    match content {
        Content::Ours { .. } => assert!(ours.is_some()),
        Content::Foreign => assert!(ours.is_none()),
        // Of zeros, or with the mark of formatting in front.
        Content::Blank => assert!(
            bytes.iter().all(|byte| *byte == 0)
                || super::format::was_interrupted(&disk).expect("a disk that can be read")
        ),
    }
    if let Some(mut block) = ours {
        block.set_id([7; 16]);
        let again = SuperBlock::parse(block.bytes()).expect("a super block that we wrote");
        assert!(again.is_ours());
    }
}
