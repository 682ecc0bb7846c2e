//! Layers and archives come plain or in gzip, zstd, bzip2 or xz; their first bytes tell which, whatever their names and
//! media types say.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use crate::Error;

/// Bytes read from the compressed side at once.
const BUFFER_BYTES: usize = 256 << 10;

/// The longest magic number that is looked for is xz's.
const MAGIC_BYTES: u64 = 6;

/// log2 of the largest window that a zstd stream may ask for: 128 MiB, what zstd itself allows by default.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Dictionary that an xz stream may ask for: `xz -9`, the most that it has a level for, asks for 64 MiB; the format goes
/// up to 4 GiB.
const XZ_DICTIONARY_MAX_KIB: u32 = 64 << 10;

/// What the decoder counts on top of the dictionary.
const XZ_DECODER_KIB: u32 = 1 << 10;

/// What an archive is packed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    /// These two dockerd takes beside the media types of the specification.
    Bzip2,
    Xz,
}

impl Compression {
    /// Tells by the first bytes.
    fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, as seekable zstd begins.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::None,
        }
    }
}

/// What a layer that was put aside is packed with.
pub(crate) fn compression_of(layer: &Path) -> Result<Compression, Error> {
    let mut start = Vec::new();
    File::open(layer)
        .and_then(|file| file.take(MAGIC_BYTES).read_to_end(&mut start))
        .map_err(Error::io("reading a layer that was put aside"))?;
    Ok(Compression::detect(&start))
}

/// How much larger plain bytes may be than the compressed ones that gave them, beyond [`FREE_BYTES`]. Gzip can't do more
/// than about 1:1032; zstd can, with nothing but zeros, and that is no image.
const MAX_RATIO: u64 = 1100;

/// Plain bytes for which the ratio doesn't matter.
const FREE_BYTES: u64 = 1 << 30;

/// The plain bytes of an archive, of which there are no more than its compressed size can account for.
pub(crate) struct Plain<'a> {
    source: Box<dyn Read + Send + 'a>,
    consumed: Arc<AtomicU64>,
    produced: u64,
}

impl Plain<'_> {
    /// Compressed bytes that were read so far.
    pub(crate) fn consumed(&self) -> u64 {
        self.consumed.load(Ordering::Relaxed)
    }
}

impl Read for Plain<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.produced += count as u64;
        if is_bomb(self.consumed(), self.produced) {
            return Err(io::Error::other(Error::TooLarge {
                what: "the uncompressed archive".to_owned(),
                limit: format!("{MAX_RATIO} times its compressed size"),
            }));
        }
        Ok(count)
    }
}

fn is_bomb(consumed: u64, produced: u64) -> bool {
    produced > FREE_BYTES.saturating_add(consumed.saturating_mul(MAX_RATIO))
}

/// Gives the plain bytes of `source`; `what` names it for errors.
pub(crate) fn decompress<'a>(
    source: impl Read + Send + 'a,
    what: &str,
) -> Result<Plain<'a>, Error> {
    let consumed = Arc::new(AtomicU64::new(0));
    let counted = Counted {
        source,
        consumed: consumed.clone(),
    };
    let mut source = BufReader::with_capacity(BUFFER_BYTES, counted);
    let mut start = Vec::new();
    let taken = (&mut source).take(MAGIC_BYTES).read_to_end(&mut start);
    taken.map_err(|err| Error::reading(what, err))?;
    let compression = Compression::detect(&start);
    let source = io::Cursor::new(start).chain(source);
    let source: Box<dyn Read + Send + 'a> = match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(Damage(MultiGzDecoder::new(source))),
        Compression::Bzip2 => Box::new(Damage(MultiBzDecoder::new(source))),
        Compression::Xz => {
            let limit_kib = XZ_DICTIONARY_MAX_KIB + XZ_DECODER_KIB;
            Box::new(Damage(XzReader::new_mem_limit(source, true, limit_kib)))
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)
                .map_err(Error::io("starting the zstd decoder"))?;
            decoder
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .map_err(Error::io("setting up the zstd decoder"))?;
            Box::new(Damage(decoder))
        }
    };
    Ok(Plain {
        source,
        consumed,
        produced: 0,
    })
}

/// Counts the compressed bytes.
struct Counted<R> {
    source: R,
    consumed: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.consumed.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Says of a decoder's errors that it's the data: zstd has no kind for them, and xz has one for a dictionary that is too
/// large.
struct Damage<R>(R);

impl<R: Read> Read for Damage<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|err| match err.kind() {
            io::ErrorKind::Other if err.get_ref().is_none_or(|inner| !inner.is::<Error>()) => {
                io::Error::new(io::ErrorKind::InvalidData, err)
            }
            io::ErrorKind::OutOfMemory => io::Error::other(Error::TooLarge {
                what: "the dictionary of the xz stream".to_owned(),
                limit: format!("{} MiB", XZ_DICTIONARY_MAX_KIB >> 10),
            }),
            // What xz has and this decoder doesn't.
            io::ErrorKind::Unsupported => io::Error::new(io::ErrorKind::InvalidData, err),
            _ => err,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_bytes_cant_ask_for_the_whole_disk() {
        assert!(!is_bomb(0, FREE_BYTES));
        assert!(is_bomb(0, FREE_BYTES + 1));
        assert!(!is_bomb(1 << 30, 4 << 30));
        assert!(is_bomb(1 << 20, 4 << 30));
    }
}
