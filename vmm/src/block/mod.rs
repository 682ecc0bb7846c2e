//! virtio-blk: a disk that is a file on the host (virtio 1.2 section 5.2).
//!
//! What one request can ask for is bounded, and so is what is done per event (see [`crate::virtio::ring`]): while a disk works, its
//! thread serves no other disk and can't be paused.

use std::fs::File;
use std::io;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use crate::virtio::{Device, Rings};

mod request;

/// Unit of sizes and offsets, bytes.
pub const SECTOR: u64 = 512;

/// virtio 1.2 section 5.2.2.
const QUEUE: usize = 0;
const QUEUE_SIZES: [u16; 1] = [128];
/// Data pieces of one request: what an indirect table of the queue's size leaves beside header and status.
const MOST_SEGMENTS: u32 = QUEUE_SIZES[0] as u32 - 2;
/// The guest's file systems use 4 KiB blocks; 512 is what every file's size is a multiple of.
const BLOCK_SIZE: u32 = 512;
/// Bytes that one request reads or writes. Linux asks for 1280 KiB at most as long as nobody tells it to do otherwise
/// (`BLK_DEF_MAX_SECTORS_CAP`); what is far beyond that is no driver's idea of a request.
const LARGEST_REQUEST: u64 = 32 << 20;
/// Sectors of one discard or write-zeroes segment: 16 MiB, which Linux then splits larger ones into. In a file that is all
/// fragments each block of it is work for the host's file system.
const MOST_DISCARD_SECTORS: u32 = 1 << 15;
/// Segments of one discard or write-zeroes request.
const MOST_DISCARD_SEGMENTS: u32 = 16;
/// Discards are punched out as holes in units of the host's pages.
const DISCARD_ALIGNMENT_SECTORS: u32 = 8;
/// Up to and including `write_zeroes_may_unmap` and its padding, `unused1` (virtio 1.2 section 5.2.4).
const CONFIG_LENGTH: usize = 60;

/// The device.
#[derive(Debug)]
pub struct Block {
    file: File,
    read_only: bool,
    sectors: u64,
    config: [u8; CONFIG_LENGTH],
}

impl Block {
    /// A disk of the size that `file` has now.
    pub fn new(file: File, read_only: bool) -> io::Result<Self> {
        let sectors = file.metadata()?.len() / SECTOR;
        let mut config = [0; CONFIG_LENGTH];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        // `struct virtio_blk_config` (virtio 1.2 section 5.2.4): capacity, seg_max, blk_size, max_discard_sectors, max_discard_seg,
        // discard_sector_alignment, max_write_zeroes_sectors, max_write_zeroes_seg, write_zeroes_may_unmap.
        put(0, &sectors.to_le_bytes());
        put(12, &MOST_SEGMENTS.to_le_bytes());
        put(20, &BLOCK_SIZE.to_le_bytes());
        put(36, &MOST_DISCARD_SECTORS.to_le_bytes());
        put(40, &MOST_DISCARD_SEGMENTS.to_le_bytes());
        put(44, &DISCARD_ALIGNMENT_SECTORS.to_le_bytes());
        put(48, &MOST_DISCARD_SECTORS.to_le_bytes());
        put(52, &MOST_DISCARD_SEGMENTS.to_le_bytes());
        put(56, &[1]);
        Ok(Self {
            file,
            read_only,
            sectors,
            config,
        })
    }
}

impl Device for Block {
    fn id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        // A flush is always offered (virtio 1.2 section 5.2.5.2).
        let always =
            1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_FLUSH;
        always
            | if self.read_only {
                1 << VIRTIO_BLK_F_RO
            } else {
                1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
            }
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn notified(&mut self, rings: &mut Rings<'_>) {
        let memory = rings.memory();
        while let Some(chain) = rings.pop(QUEUE) {
            let head = chain.head_index();
            let served = request::serve(self, memory, chain);
            rings.push(QUEUE, head, served.written);
            rings.charge(QUEUE, served.cost);
        }
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests;
