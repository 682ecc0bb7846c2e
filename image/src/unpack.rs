//! Layers in, one root file system out.
//!
//! Layers are handed over lowest first, each as soon as it is there. A layer is read once: decompressed, hashed, taken
//! apart, and its files' contents written to where they will stay. Only when all are in and right does the metadata
//! follow, and nothing refers to the file before it's complete and on the disk.

use std::{
    fs::File,
    io::{self, BufReader, Read},
};

use sha2::{Digest as _, Sha256};

use crate::{
    Digest, Error, ImageId,
    compression::{Plain, decompress},
    erofs::{self, ContentWriter, WriteError},
    pieces::Pieces,
    tar::{EntryKind, Reader, TarEntry, TarError},
    tree::{Attributes, Change, Kind, Tree},
};

/// Uncompressed bytes of all layers together. A hundred times what large images have, and an end for bombs.
const MAX_LAYER_BYTES: u64 = 1 << 40;

/// Uncompressed bytes between two reports of progress.
const REPORT_BYTES: u64 = 2 << 20;

/// Bytes gathered between hashing and parsing.
const BUFFER_BYTES: usize = 128 << 10;

/// Bytes of an entry's name that reach an error message.
const MAX_SHOWN_BYTES: usize = 200;

/// A layer to be unpacked.
#[derive(Debug)]
pub(crate) struct LayerFile {
    pub(crate) file: File,
    /// Of the file as it is.
    pub(crate) size_bytes: u64,
    /// What its uncompressed bytes must hash to.
    pub(crate) diff_id: Digest,
    /// The file was just found to hash to this. For a plain layer that is as good as hashing it once more.
    pub(crate) verified: Option<Digest>,
}

/// Builds one image's root file system; used from a thread that may block.
#[derive(Debug)]
pub(crate) struct Unpacker {
    tree: Tree,
    contents: ContentWriter,
    layers: u32,
    plain_bytes: u64,
    /// Bytes of regular files in all layers, replaced ones included: what docker calls an image's size.
    size_bytes: u64,
}

impl Unpacker {
    /// Writes to `file`, which is empty.
    pub(crate) fn new(file: File) -> Self {
        Self {
            tree: Tree::new(),
            contents: ContentWriter::new(file),
            layers: 0,
            plain_bytes: 0,
            size_bytes: 0,
        }
    }

    /// Adds a layer on top. `report` hears how many of its (compressed) bytes are done, and stops the work by `false`.
    pub(crate) fn add(
        &mut self,
        layer: &LayerFile,
        report: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), Error> {
        self.layers += 1;
        let what = format!("layer {}", layer.diff_id);
        let plain = decompress(&layer.file, &what)?;
        let known = layer.verified == Some(layer.diff_id);
        let hashed = Hashed {
            source: plain,
            hasher: (!known).then(Sha256::new),
            bytes: 0,
            limit: MAX_LAYER_BYTES.saturating_sub(self.plain_bytes),
            next_report: REPORT_BYTES,
            report,
        };
        let mut reader = Reader::new(BufReader::with_capacity(BUFFER_BYTES, hashed));
        while let Some(entry) = reader.next().map_err(|err| tar_error(&what, err))? {
            self.apply(entry, &mut reader, &what)?;
        }
        // What follows the archive's end belongs to the digest.
        let mut source = reader.into_source();
        io::copy(&mut source, &mut io::sink()).map_err(|err| Error::reading(&what, err))?;
        let hashed = source.into_inner();
        self.plain_bytes += hashed.bytes;
        check_plain(hashed.hasher, layer)
    }

    fn apply<R: Read>(
        &mut self,
        entry: TarEntry,
        reader: &mut Reader<R>,
        what: &str,
    ) -> Result<(), Error> {
        let TarEntry {
            path,
            kind,
            link,
            attributes,
            size_bytes,
            segments,
        } = entry;
        let shown = &path[..path.len().min(MAX_SHOWN_BYTES)];
        let place = || format!("{what}, entry {:?}", String::from_utf8_lossy(shown));
        check_xattrs(&attributes).map_err(|reason| Error::malformed(place(), reason))?;
        let other = |kind| Change::Other(attributes.clone(), kind);
        let change = match kind {
            EntryKind::File if Tree::is_whiteout(&path) => other(Kind::Fifo),
            EntryKind::File => {
                let extent = self
                    .contents
                    .store(size_bytes, &segments, &mut reader.content())
                    .map_err(|err| write_error(&place(), err))?;
                self.size_bytes += size_bytes;
                other(Kind::File(extent))
            }
            EntryKind::Directory => Change::Directory(attributes),
            EntryKind::Symlink if link.is_empty() => {
                return Err(Error::malformed(place(), "the symlink has no target"));
            }
            EntryKind::Symlink => other(Kind::Symlink(link.into())),
            EntryKind::HardLink => Change::HardLink(link),
            EntryKind::CharDevice(device) => other(Kind::CharDevice(device)),
            EntryKind::BlockDevice(device) => other(Kind::BlockDevice(device)),
            EntryKind::Fifo => other(Kind::Fifo),
        };
        self.tree
            .apply(&path, self.layers, change)
            .map_err(|problem| Error::malformed(place(), problem.0))
    }

    /// Completes the file and has it on the disk. Returns its pieces, and docker's size of the image.
    pub(crate) fn finish(mut self, id: &ImageId) -> Result<(Pieces, u64), Error> {
        let freed = self.tree.take_freed();
        let write = |err| write_error("root file system", err);
        self.contents.free(freed).map_err(write)?;
        let (file, pieces) = erofs::finish(self.contents, &self.tree, uuid(id)).map_err(write)?;
        file.sync_all()
            .map_err(Error::io("syncing a root file system"))?;
        Ok((pieces, self.size_bytes))
    }
}

/// Reads a layer for its digest alone: whoever brings these bytes can read the layer. `report` is as in [`Unpacker::add`].
pub(crate) fn verify(layer: &LayerFile, report: &mut dyn FnMut(u64) -> bool) -> Result<(), Error> {
    let what = format!("layer {}", layer.diff_id);
    if layer.verified == Some(layer.diff_id) {
        return Ok(());
    }
    let mut hashed = Hashed {
        source: decompress(&layer.file, &what)?,
        hasher: Some(Sha256::new()),
        bytes: 0,
        limit: MAX_LAYER_BYTES,
        next_report: REPORT_BYTES,
        report,
    };
    io::copy(&mut hashed, &mut io::sink()).map_err(|err| Error::reading(&what, err))?;
    check_plain(hashed.hasher, layer)
}

fn check_plain(hasher: Option<Sha256>, layer: &LayerFile) -> Result<(), Error> {
    match hasher.map(Digest::finish) {
        Some(actual) if actual != layer.diff_id => Err(Error::DigestMismatch {
            what: "uncompressed layer".to_owned(),
            expected: layer.diff_id.to_string(),
            actual: actual.to_string(),
        }),
        _ => Ok(()),
    }
}

/// A UUID of version 8 (RFC 9562: custom) made of the image's id.
fn uuid(id: &ImageId) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&id.digest().as_bytes()[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

fn check_xattrs(attributes: &Attributes) -> Result<(), String> {
    // Eight bytes for each attribute's own header and padding.
    let size: usize = attributes
        .xattrs
        .iter()
        .map(|(name, value)| 8 + name.len() + value.len())
        .sum();
    if size > erofs::MAX_XATTR_BYTES - 12 {
        return Err("its extended attributes are too large".to_owned());
    }
    Ok(())
}

pub(crate) fn tar_error(what: &str, err: TarError) -> Error {
    match err {
        TarError::CutShort => Error::malformed(what, "the archive is cut short"),
        TarError::Malformed(reason) => Error::malformed(what, reason),
        TarError::Io(err) => Error::reading(what, err),
    }
}

fn write_error(what: &str, err: WriteError) -> Error {
    match err {
        WriteError::Read(err) => Error::reading(what, err),
        WriteError::CutShort => Error::malformed(what, "the archive is cut short"),
        WriteError::Write(err) => Error::io("writing a root file system")(err),
        WriteError::TooLarge => Error::TooLarge {
            what: "the root file system".to_owned(),
            limit: format!("{} GiB", erofs::MAX_IMAGE_BYTES >> 30),
        },
    }
}

/// Hashes and counts what passes, reports it, and stops what passes a limit.
struct Hashed<'a> {
    source: Plain<'a>,
    hasher: Option<Sha256>,
    bytes: u64,
    limit: u64,
    next_report: u64,
    report: &'a mut dyn FnMut(u64) -> bool,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        self.bytes += count as u64;
        if self.bytes > self.limit {
            return Err(io::Error::other(Error::TooLarge {
                what: "the uncompressed image".to_owned(),
                limit: format!("{} GiB", MAX_LAYER_BYTES >> 30),
            }));
        }
        if self.bytes >= self.next_report {
            self.next_report = self.bytes + REPORT_BYTES;
            if !(self.report)(self.source.consumed()) {
                return Err(io::Error::other(Error::Cancelled));
            }
        }
        Ok(count)
    }
}
