//! Layers and archives come plain, in gzip or in zstd; their first bytes tell which.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use crate::Error;

/// Bytes read from the compressed side at once.
const BUFFER_BYTES: usize = 256 << 10;

/// The longest magic number that is looked for is xz's.
const MAGIC_BYTES: u64 = 6;

/// log2 of the largest window that a zstd stream may ask for: 128 MiB, what zstd itself allows by default.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// What an archive is packed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// Tells by the first bytes. `what` names the archive for the error.
    pub(crate) fn detect(start: &[u8], what: &str) -> Result<Self, Error> {
        let unsupported = |name: &str| Error::UnsupportedMediaType {
            what: what.to_owned(),
            media_type: name.to_owned(),
        };
        match start {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            // A skippable frame, as seekable zstd begins.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Err(unsupported("bzip2")),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err(unsupported("xz")),
            _ => Ok(Self::None),
        }
    }
}

/// Gives the plain bytes of `source`.
pub(crate) fn decompress<'a>(
    source: impl Read + Send + 'a,
    what: &str,
) -> Result<Box<dyn Read + Send + 'a>, Error> {
    let mut source = BufReader::with_capacity(BUFFER_BYTES, source);
    let mut start = Vec::new();
    let taken = (&mut source).take(MAGIC_BYTES).read_to_end(&mut start);
    taken.map_err(|err| Error::reading(what, err))?;
    let compression = Compression::detect(&start, what)?;
    let source = io::Cursor::new(start).chain(source);
    Ok(match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(Damage(MultiGzDecoder::new(source))),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)
                .map_err(Error::io("starting the zstd decoder"))?;
            decoder
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .map_err(Error::io("setting up the zstd decoder"))?;
            Box::new(Damage(decoder))
        }
    })
}

/// Says of a decoder's errors that it's the data: zstd has no kind for them.
struct Damage<R>(R);

impl<R: Read> Read for Damage<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|err| match err.kind() {
            io::ErrorKind::Other if err.get_ref().is_none_or(|inner| !inner.is::<Error>()) => {
                io::Error::new(io::ErrorKind::InvalidData, err)
            }
            _ => err,
        })
    }
}
