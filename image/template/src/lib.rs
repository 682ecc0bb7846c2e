//! File systems made once and copied ever after: an empty data disk, an empty writable layer.
//!
//! A template is an Android sparse image (`system/core/libsparse/sparse_format.h`: runs of blocks, and lengths of what lies between
//! them) compressed with zstd, so that unpacking takes as long as what isn't zero, however large the file system is. What lies between
//! the runs reads as zeros.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use android_sparse_image::{
    CHUNK_HEADER_BYTES_LEN, ChunkHeader, ChunkType, FILE_HEADER_BYTES_LEN, FileHeader,
};

/// Size of the writable layers' template, and so of a layer for which nobody asks for another size: what docker's own drivers that have
/// a size give. A layer that is larger is grown by its guest when it is first mounted.
pub const WRITABLE_BYTES: u64 = 10 << 30;
/// Size of the template for layers that are smaller, and so of the smallest: its journal of 4 MiB (mke2fs(8): 1024 blocks at least)
/// and its tables leave nine tenths to the container.
pub const SMALL_BYTES: u64 = 64 << 20;
/// What the names of writable layers' templates end in.
pub const WRITABLE_SUFFIX: &str = ".ext4.template";
/// The file systems' own.
const BLOCK_BYTES: u32 = 4096;
/// A run is read as one piece: no longer than this.
const RUN_BLOCKS: u32 = 256;

/// Packs a file system whose length is a multiple of 4 KiB. Holes of the file are skipped, not read.
pub fn pack(image: &File, to: impl Write) -> io::Result<()> {
    let length = image.metadata()?.len();
    let block_bytes = u64::from(BLOCK_BYTES);
    let blocks = u32::try_from(length / block_bytes)
        .ok()
        .filter(|_| length % block_bytes == 0)
        .ok_or_else(|| invalid(format!("{length} bytes are no whole number of blocks")))?;
    let runs = runs(image)?;
    let mut chunks = Vec::new();
    let mut end = 0;
    for &(first, count) in &runs {
        if first > end {
            chunks.push((ChunkHeader::new_dontcare(first - end), None));
        }
        chunks.push((ChunkHeader::new_raw(count, BLOCK_BYTES), Some(first)));
        end = first + count;
    }
    if blocks > end {
        chunks.push((ChunkHeader::new_dontcare(blocks - end), None));
    }
    let header = FileHeader {
        block_size: BLOCK_BYTES,
        blocks,
        chunks: u32::try_from(chunks.len()).map_err(|_| invalid("too many runs"))?,
        checksum: 0,
    };
    let mut encoder = zstd::Encoder::new(to, zstd::DEFAULT_COMPRESSION_LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.write_all(&header.to_bytes())?;
    let mut data = Vec::new();
    for (chunk, first) in chunks {
        encoder.write_all(&chunk.to_bytes())?;
        if let Some(first) = first {
            data.resize(chunk.out_size(&header), 0);
            image.read_exact_at(&mut data, u64::from(first) * block_bytes)?;
            encoder.write_all(&data)?;
        }
    }
    encoder.finish()?;
    Ok(())
}

/// Runs of blocks that aren't zero: first block and count.
fn runs(image: &File) -> io::Result<Vec<(u32, u32)>> {
    use rustix::fs::{SeekFrom, seek};
    let mut runs: Vec<(u32, u32)> = Vec::new();
    let mut block = [0; BLOCK_BYTES as usize];
    let mut end = 0;
    loop {
        let data = match seek(image, SeekFrom::Data(end)) {
            Ok(data) => data,
            // No data from here on.
            Err(rustix::io::Errno::NXIO) => return Ok(runs),
            Err(error) => return Err(error.into()),
        };
        end = seek(image, SeekFrom::Hole(data))?;
        let block_bytes = u64::from(BLOCK_BYTES);
        for index in data / block_bytes..end.div_ceil(block_bytes) {
            image.read_exact_at(&mut block, index * block_bytes)?;
            if block.iter().all(|byte| *byte == 0) {
                continue;
            }
            let index = u32::try_from(index).map_err(|_| invalid("too large"))?;
            match runs.last_mut() {
                Some((first, count)) if *first + *count == index && *count < RUN_BLOCKS => {
                    *count += 1;
                }
                _ => runs.push((index, 1)),
            }
        }
    }
}

/// A template that is being unpacked.
pub struct Template<R> {
    from: R,
    header: FileHeader,
    chunks_left: u32,
    /// Blocks that have been passed.
    block: u32,
    data: Vec<u8>,
}

impl<'a, R: Read> Template<zstd::Decoder<'a, io::BufReader<R>>> {
    /// Begins with a packed template.
    ///
    /// # Errors
    ///
    /// Those of reading, and `InvalidData` if it is none.
    pub fn open(packed: R) -> io::Result<Self> {
        let mut from = zstd::Decoder::new(packed)?;
        let mut header = [0; FILE_HEADER_BYTES_LEN];
        from.read_exact(&mut header)?;
        let header = FileHeader::from_bytes(&header).map_err(invalid)?;
        if header.block_size != BLOCK_BYTES {
            return Err(invalid(format!("blocks of {} bytes", header.block_size)));
        }
        Ok(Self {
            from,
            chunks_left: header.chunks,
            header,
            block: 0,
            data: Vec::new(),
        })
    }
}

impl<R: Read> Template<R> {
    /// Bytes of the file system. To be trusted once the last run has been read, for then the checksum was right.
    pub fn file_system_bytes(&self) -> u64 {
        u64::from(self.header.blocks) * u64::from(BLOCK_BYTES)
    }

    /// The next run of blocks of 4 KiB: its offset in bytes, and what it holds; `None` after the last.
    ///
    /// # Errors
    ///
    /// Those of reading, `UnexpectedEof` if the template is cut short, and `InvalidData` if it contradicts itself.
    pub fn next_run(&mut self) -> io::Result<Option<(u64, &mut [u8])>> {
        while self.chunks_left > 0 {
            self.chunks_left -= 1;
            let mut chunk = [0; CHUNK_HEADER_BYTES_LEN];
            self.from.read_exact(&mut chunk)?;
            let chunk = ChunkHeader::from_bytes(&chunk).map_err(invalid)?;
            let first = self.block;
            self.block = first
                .checked_add(chunk.chunk_size)
                .filter(|end| *end <= self.header.blocks)
                .ok_or_else(|| invalid("a run beyond the end"))?;
            match chunk.chunk_type {
                ChunkType::DontCare => {}
                ChunkType::Raw if chunk.chunk_size <= RUN_BLOCKS => {
                    self.data.resize(chunk.out_size(&self.header), 0);
                    self.from.read_exact(&mut self.data)?;
                    let offset = u64::from(first) * u64::from(BLOCK_BYTES);
                    return Ok(Some((offset, &mut self.data)));
                }
                other => return Err(invalid(format!("an unexpected chunk: {other:?}"))),
            }
        }
        // The compressed form's checksum is looked at when its end is read.
        if self.from.read(&mut [0])? != 0 {
            return Err(invalid("more than was announced"));
        }
        Ok(None)
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(image: &File) -> Vec<u8> {
        let mut packed = Vec::new();
        pack(image, &mut packed).unwrap();
        packed
    }

    fn unpacked(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut template = Template::open(packed)?;
        if template.file_system_bytes() > 1 << 30 {
            return Err(invalid("larger than any template of these tests"));
        }
        let mut image = vec![0; usize::try_from(template.file_system_bytes()).unwrap()];
        while let Some((offset, run)) = template.next_run()? {
            let offset = usize::try_from(offset).unwrap();
            image[offset..offset + run.len()].copy_from_slice(run);
        }
        Ok(image)
    }

    proptest! {
        #[test]
        fn what_is_unpacked_is_what_was_packed(blocks in 0u64..700, written in prop::collection::vec((0u64..2_900_000, 1usize..9000, 0u8..3), 0..12)) {
            let image = tempfile::tempfile().unwrap();
            image.set_len(blocks * 4096).unwrap();
            for (at, length, byte) in written {
                if at + length as u64 <= blocks * 4096 {
                    image.write_all_at(&vec![byte; length], at).unwrap();
                }
            }
            let mut expected = vec![0; usize::try_from(blocks).unwrap() * 4096];
            image.read_exact_at(&mut expected, 0).unwrap();
            prop_assert!(unpacked(&packed(&image)).unwrap() == expected);
        }

        #[test]
        fn a_template_cut_short_or_altered_is_refused_or_the_same(cut in 0.0f64..1.0, bit in 0u8..8, cut_off: bool) {
            let image = tempfile::tempfile().unwrap();
            image.set_len(600 * 4096).unwrap();
            image.write_all_at(&[7; 9000], 5000).unwrap();
            let good = packed(&image);
            let mut bad = good.clone();
            let at = ((bad.len() as f64) * cut) as usize;
            if cut_off {
                bad.truncate(at);
            } else {
                bad[at] ^= 1 << bit;
            }
            prop_assert!(unpacked(&bad).is_err() || unpacked(&bad).unwrap() == unpacked(&good).unwrap());
        }
    }

    #[test]
    fn a_long_hole_costs_nothing() {
        let image = tempfile::tempfile().unwrap();
        image.set_len(1 << 40).unwrap();
        image.write_all_at(&[1], (1 << 40) - 1).unwrap();
        let packed = packed(&image);
        assert!(packed.len() < 200, "{}", packed.len());
        let mut template = Template::open(packed.as_slice()).unwrap();
        assert_eq!(template.file_system_bytes(), 1 << 40);
        let (offset, run) = template.next_run().unwrap().unwrap();
        assert_eq!((offset, run.len()), ((1 << 40) - 4096, 4096));
        assert!(template.next_run().unwrap().is_none());
    }
}
