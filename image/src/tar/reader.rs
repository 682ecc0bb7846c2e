//! From a stream of bytes to entries.

use std::io::{self, Read};

use super::{
    BLOCK_BYTES, EntryKind, MAX_EXTENSION_BYTES, Segment, TarEntry, TarError, header::Header,
    pax::Pax, sparse,
};
use crate::tree::{Attributes, Device, Mtime};

/// Reads an archive entry by entry.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    source: R,
    /// Bytes of the current entry's content that nobody has read yet.
    content: u64,
    /// Bytes that fill up its last block.
    padding: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source,
            content: 0,
            padding: 0,
            ended: false,
        }
    }

    /// The next entry, skipping what is left of the one before; `None` at the archive's end.
    pub(crate) fn next(&mut self) -> Result<Option<TarEntry>, TarError> {
        let mut pax = Pax::default();
        let mut long_path = None;
        let mut long_link = None;
        // Headers pile up in memory until the entry comes that they are about.
        let mut extended = 0;
        loop {
            self.skip_content()?;
            let mut block = [0; BLOCK_BYTES];
            if self.ended || !self.read_block(&mut block)? {
                return if extended > 0 {
                    Err(TarError::CutShort)
                } else {
                    Ok(None)
                };
            }
            let Some(header) = Header::parse(&block)? else {
                // One block of zeros ends it; that there should be two is of no use to anybody.
                self.ended = true;
                continue;
            };
            let size = header.size()?;
            match header.entry_type() {
                b'x' | b'X' => pax.read(&self.extension(size, extended)?)?,
                b'L' => long_path = Some(until_nul(self.extension(size, extended)?)),
                b'K' => long_link = Some(until_nul(self.extension(size, extended)?)),
                // Global records (git's commit, say) and a volume's label describe no file.
                b'g' | b'V' => {
                    self.set_content(size)?;
                    continue;
                }
                _ => {
                    let path = long_path.take().unwrap_or_else(|| header.path());
                    let link = long_link.take().unwrap_or_else(|| header.link().to_vec());
                    return self.entry(&header, pax, path, link).map(Some);
                }
            }
            extended += size + BLOCK_BYTES as u64;
        }
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        mut pax: Pax,
        path: Vec<u8>,
        link: Vec<u8>,
    ) -> Result<TarEntry, TarError> {
        let path = pax.sparse.name.take().or(pax.path.take()).unwrap_or(path);
        let link = pax.link.take().unwrap_or(link);
        let mut attributes = Attributes {
            permissions: header.mode()?,
            mtime: Mtime {
                seconds: header.mtime()?,
                nanoseconds: 0,
            },
            ..Attributes::default()
        };
        // The header's fields may hold nonsense where pax says better.
        pax.uid = Some(pax.uid.map_or_else(|| header.uid(), Ok)?);
        pax.gid = Some(pax.gid.map_or_else(|| header.gid(), Ok)?);
        pax.amend(&mut attributes)?;
        let kind = kind(header, &path)?;
        if kind == EntryKind::Symlink {
            // symlink(7): Linux knows no others.
            attributes.permissions = 0o777;
        }
        if !matches!(kind, EntryKind::File | EntryKind::Directory) {
            // xattr(7): nothing else has any. What no program can read, overlayfs can't copy up.
            attributes
                .xattrs
                .retain(|name, _| !name.starts_with(b"user."));
        }
        let mut stored = pax.size.map_or_else(|| header.size(), Ok)?;
        if !matches!(header.entry_type(), b'0' | 0 | b'7' | b'S') {
            // A hard link's size is that of its target, which isn't here; pax may say that it is, docker doesn't care.
            stored = 0;
        }
        let padded = stored
            .checked_next_multiple_of(BLOCK_BYTES as u64)
            .ok_or_else(too_large)?;
        let (size_bytes, segments) = if header.entry_type() == b'S' {
            sparse::old_gnu(header, &mut self.source, stored)?
        } else if kind != EntryKind::File {
            (0, Vec::new())
        } else {
            let before = stored;
            match pax.sparse.resolve(&mut self.source, &mut stored)? {
                Some(sparse) => sparse,
                None => (stored, whole(before)),
            }
        };
        if kind == EntryKind::File {
            self.content = stored;
            // A map in front of the data is whole blocks.
            self.padding = padded_rest(padded, stored);
        } else {
            self.padding = padded;
        }
        Ok(TarEntry {
            path,
            kind,
            link,
            attributes,
            size_bytes,
            segments,
        })
    }

    /// What is stored of the current entry; ends early only if the archive does.
    pub(crate) fn content(&mut self) -> Content<'_, R> {
        Content(self)
    }

    /// Gives the source back, at the byte after the last one read.
    pub(crate) fn into_source(self) -> R {
        self.source
    }

    fn set_content(&mut self, size: u64) -> Result<(), TarError> {
        self.content = size;
        let padded = size
            .checked_next_multiple_of(BLOCK_BYTES as u64)
            .ok_or_else(too_large)?;
        self.padding = padded - size;
        Ok(())
    }

    fn skip_content(&mut self) -> Result<(), TarError> {
        let skip = self
            .content
            .checked_add(self.padding)
            .ok_or_else(too_large)?;
        let skipped = io::copy(&mut (&mut self.source).take(skip), &mut io::sink())?;
        self.content = 0;
        self.padding = 0;
        if skipped < skip {
            Err(TarError::CutShort)
        } else {
            Ok(())
        }
    }

    /// The content of a header that extends the next one, on top of `before` bytes that do so.
    fn extension(&mut self, size: u64, before: u64) -> Result<Vec<u8>, TarError> {
        // Neither can overflow: what came before was within the limit.
        if size > MAX_EXTENSION_BYTES || before + size > MAX_EXTENSION_BYTES {
            return Err(TarError::malformed(format!(
                "what extends a header is larger than {MAX_EXTENSION_BYTES} bytes"
            )));
        }
        self.set_content(size)?;
        let mut bytes = vec![0; size as usize];
        self.content().read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// A block, or `false` at the end of the source.
    fn read_block(&mut self, block: &mut [u8; BLOCK_BYTES]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(TarError::CutShort),
                Ok(count) => filled += count,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err.into()),
            }
        }
        Ok(true)
    }
}

/// The stored bytes of the current entry.
#[derive(Debug)]
pub(crate) struct Content<'a, R>(&'a mut Reader<R>);

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = self.0.content.min(buffer.len() as u64) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.0.source.read(&mut buffer[..wanted])?;
        self.0.content -= count as u64;
        Ok(count)
    }
}

fn whole(length: u64) -> Vec<Segment> {
    if length == 0 {
        Vec::new()
    } else {
        vec![Segment { offset: 0, length }]
    }
}

fn padded_rest(padded: u64, stored: u64) -> u64 {
    (padded - stored) % BLOCK_BYTES as u64
}

fn too_large() -> TarError {
    TarError::malformed("an entry is larger than any file can be")
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn kind(header: &Header<'_>, path: &[u8]) -> Result<EntryKind, TarError> {
    Ok(match header.entry_type() {
        // v7 had no type for directories, nor for anything else. Where there are types, docker believes them.
        0 if path.last() == Some(&b'/') => EntryKind::Directory,
        b'0' | 0 | b'7' | b'S' => EntryKind::File,
        b'1' => EntryKind::HardLink,
        b'2' => EntryKind::Symlink,
        b'3' => EntryKind::CharDevice(device(header)?),
        b'4' => EntryKind::BlockDevice(device(header)?),
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        other => {
            return Err(TarError::malformed(format!(
                "an entry is of the unknown type {:?}",
                char::from(other)
            )));
        }
    })
}

fn device(header: &Header<'_>) -> Result<Device, TarError> {
    let (major, minor) = (header.device_major()?, header.device_minor()?);
    if major >= 1 << 12 || minor >= 1 << 20 {
        return Err(TarError::malformed(format!(
            "no device can have the number {major}:{minor}"
        )));
    }
    Ok(Device {
        major: major as u32,
        minor: minor as u32,
    })
}
