//! Puts the files of an archive aside.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::contents;
use crate::{
    Digest, Error,
    compression::decompress,
    store::{Layout, MAX_DOCUMENT_BYTES},
    tar::{EntryKind, Reader, TarEntry},
    unpack::tar_error,
};

/// Entries of an image archive: a few for each layer of each image.
const MAX_ENTRIES: usize = 100_000;

/// Bytes of a path in an archive: Linux's `PATH_MAX`. Those that tools write have a hundred.
const MAX_PATH_BYTES: usize = 4096;

/// Bytes of all paths and links together: they are held in memory while the archive is loaded.
const MAX_PATHS_BYTES: usize = 16 << 20;

/// Links followed from one path: what Linux allows.
const MAX_LINKS: usize = 40;

/// Bytes of an archive, uncompressed, all its images together.
const MAX_ARCHIVE_BYTES: u64 = 1 << 40;

/// Bytes copied at once.
const BUFFER_BYTES: usize = 1 << 20;

/// How errors name what is being read.
const WHAT: &str = "image archive";

/// The files of an archive, by their paths in it.
#[derive(Debug)]
pub(crate) struct Spool {
    /// Holds the files, and removes them in the end.
    _dir: TempDir,
    files: BTreeMap<String, SpooledFile>,
    links: BTreeMap<String, String>,
}

/// A file that was put aside.
#[derive(Clone, Debug)]
pub(super) struct SpooledFile {
    pub(super) path: std::path::PathBuf,
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
}

/// Reads a whole archive, plain or compressed.
pub(crate) fn spool(source: impl Read + Send, layout: &Layout) -> Result<Spool, Error> {
    let dir = layout.temporary_dir()?;
    let plain = decompress(source, WHAT)?.take(MAX_ARCHIVE_BYTES);
    let mut reader = Reader::new(io::BufReader::with_capacity(BUFFER_BYTES, plain));
    let mut files = BTreeMap::new();
    let mut links = BTreeMap::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut entries, mut paths_bytes) = (0, 0);
    while let Some(entry) = reader.next().map_err(|err| tar_error(WHAT, err))? {
        let too_large = |limit: String| Error::TooLarge {
            what: format!("the {WHAT}"),
            limit,
        };
        entries += 1;
        paths_bytes += entry.path.len() + entry.link.len();
        if entries > MAX_ENTRIES {
            return Err(too_large(format!("{MAX_ENTRIES} entries")));
        }
        if entry.path.len().max(entry.link.len()) > MAX_PATH_BYTES {
            return Err(too_large(format!("{MAX_PATH_BYTES} bytes for a path")));
        }
        if paths_bytes > MAX_PATHS_BYTES {
            return Err(too_large(format!("{MAX_PATHS_BYTES} bytes for all paths")));
        }
        let path = contents::entry_path(&entry.path)?;
        match entry.kind {
            EntryKind::Directory => {}
            EntryKind::File => {
                // Names of ours: those of the archive never reach the disk.
                let name = dir.path().join(entries.to_string());
                let file = put_aside(&entry, &mut reader, name, &mut buffer)?;
                links.remove(&path);
                files.insert(path, file);
            }
            // Old archives say with links that two images share a layer.
            EntryKind::Symlink => {
                files.remove(&path);
                links.insert(path.clone(), contents::symlink_target(&path, &entry.link)?);
            }
            EntryKind::HardLink => {
                files.remove(&path);
                links.insert(path, contents::entry_path(&entry.link)?);
            }
            // Devices and pipes mean nothing here.
            _ => {}
        }
    }
    Ok(Spool {
        _dir: dir,
        files,
        links,
    })
}

fn put_aside<R: Read>(
    entry: &TarEntry,
    reader: &mut Reader<R>,
    path: std::path::PathBuf,
    buffer: &mut [u8],
) -> Result<SpooledFile, Error> {
    let stored: u64 = entry.segments.iter().map(|segment| segment.length).sum();
    if stored != entry.size_bytes {
        return Err(Error::malformed(WHAT, "a file in it is sparse"));
    }
    let mut file = File::create_new(&path).map_err(Error::io("putting a file aside"))?;
    let mut content = reader.content();
    let mut hasher = Sha256::new();
    let mut size_bytes = 0;
    loop {
        let count = match content.read(buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(Error::reading(WHAT, err)),
        };
        hasher.update(&buffer[..count]);
        file.write_all(&buffer[..count])
            .map_err(Error::io("putting a file aside"))?;
        size_bytes += count as u64;
    }
    if size_bytes < stored {
        return Err(Error::malformed(WHAT, "the archive is cut short"));
    }
    Ok(SpooledFile {
        path,
        digest: Digest::finish(hasher),
        size_bytes,
    })
}

impl Spool {
    /// A file by its path, through links.
    pub(super) fn file(&self, path: &str) -> Option<&SpooledFile> {
        let mut path = contents::entry_path(path.as_bytes()).ok()?;
        for _ in 0..=MAX_LINKS {
            if let Some(file) = self.files.get(&path) {
                return Some(file);
            }
            // The first part that is a link, be it a folder's.
            let ends = path.match_indices('/').map(|(end, _)| end);
            let (end, target) = ends
                .chain([path.len()])
                .find_map(|end| Some((end, self.links.get(&path[..end])?)))?;
            path = format!("{target}{}", &path[end..])
                .trim_start_matches('/')
                .to_owned();
        }
        None
    }

    /// As [`Spool::file`], for one that must be there.
    pub(super) fn expect(&self, path: &str) -> Result<&SpooledFile, Error> {
        self.file(path).ok_or_else(|| {
            let path: String = path.chars().take(200).collect();
            Error::malformed(
                WHAT,
                format!("{path:?} is missing: the archive is cut short or damaged"),
            )
        })
    }

    /// A blob of the layout by its digest, verified.
    pub(super) fn blob(&self, digest: &Digest) -> Result<&SpooledFile, Error> {
        let path = format!("blobs/sha256/{}", digest.hex());
        let file = self.expect(&path)?;
        check(file, digest, &path)?;
        Ok(file)
    }

    /// Reads a document, if there is one of this name.
    pub(super) fn document(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        self.file(path).map(|file| read(file, path)).transpose()
    }
}

/// Compares a file with what it's said to be.
pub(super) fn check(file: &SpooledFile, digest: &Digest, path: &str) -> Result<(), Error> {
    if file.digest == *digest {
        return Ok(());
    }
    Err(Error::DigestMismatch {
        what: format!("{path} in the {WHAT}"),
        expected: digest.to_string(),
        actual: file.digest.to_string(),
    })
}

/// Reads a document that was put aside.
pub(super) fn read(file: &SpooledFile, path: &str) -> Result<Vec<u8>, Error> {
    if file.size_bytes > MAX_DOCUMENT_BYTES {
        return Err(Error::TooLarge {
            what: format!("{path} in the {WHAT}"),
            limit: format!("{MAX_DOCUMENT_BYTES} bytes"),
        });
    }
    std::fs::read(&file.path).map_err(Error::io("reading a file that was put aside"))
}
