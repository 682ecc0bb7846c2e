//! What fuzzing reaches of this crate: each function reads bytes from a stranger, and promises to end with a value or an error.

use std::fs::File;
use std::io::{Read, Seek, Write};

use crate::config::ImageConfig;
use crate::exchange::{description, packed};
use crate::registry::auth::Challenge;
use crate::registry::{Document, parse_manifest, select_platform};
use crate::store::Layout;
use crate::tar::Reader;
use crate::tar::pax::Pax;
use crate::tree::Attributes;
use crate::unpack::{LayerFile, Unpacker};
use crate::{Digest, ImageRef, archive};

const ROOM: &str = "the machine that fuzzes has room for a file";

/// Entries and contents of a plain tar. What it says of each entry must fit together.
pub fn tar(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    while let Ok(Some(entry)) = reader.next() {
        let mut end = 0;
        for segment in &entry.segments {
            assert!(segment.offset >= end && segment.length > 0);
            end = segment.offset + segment.length;
        }
        assert!(end <= entry.size_bytes);
        let mut content = Vec::new();
        if reader.content().read_to_end(&mut content).is_err() {
            return;
        }
        let stored: u64 = entry.segments.iter().map(|segment| segment.length).sum();
        assert!(content.len() as u64 <= stored);
    }
}

/// What another store says of an image, and pieces of its root file system.
pub fn exchange(bytes: &[u8]) {
    description::fuzz(bytes);
    packed::fuzz(bytes);
}

/// The records of a pax header.
pub fn pax(bytes: &[u8]) {
    let mut pax = Pax::default();
    if pax.read(bytes).is_ok() {
        let _ = pax.amend(&mut Attributes::default());
    }
}

/// A layer, compressed or not, up to a complete root file system.
pub fn layer(bytes: &[u8]) {
    let digest = Digest::of(bytes);
    let layer = LayerFile {
        file: file(bytes).expect(ROOM),
        size_bytes: bytes.len() as u64,
        diff_id: digest,
        // No input could be made to hash to something.
        verified: Some(digest),
    };
    let mut unpacker = Unpacker::new(file(b"").expect(ROOM));
    if unpacker.add(&layer, &mut |_| true).is_ok() {
        unpacker
            .finish(&digest.into())
            .expect("a tree that was accepted can be written");
    }
}

/// In memory, so that nobody waits until it's on a disk.
fn file(content: &[u8]) -> std::io::Result<File> {
    let memory = rustix::fs::memfd_create("fuzzing", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memory);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

/// An archive of images, docker's or OCI's.
pub fn archive(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect(ROOM);
    let layout = Layout::prepare(dir.path()).expect(ROOM);
    if let Ok(spool) = archive::spool(bytes, &layout) {
        let _ = archive::images(&spool);
    }
}

/// A manifest, or a list of manifests.
pub fn manifest(bytes: &[u8]) {
    if let Ok(Document::Index(index)) = parse_manifest(bytes, "example.com/image") {
        let _ = select_platform(&index, 1, "example.com/image");
    }
}

/// An image's configuration.
pub fn config(bytes: &[u8]) {
    let _ = ImageConfig::from_json(bytes);
}

/// What a registry sends as `WWW-Authenticate`, a line for each.
pub fn challenge(bytes: &[u8]) {
    let _ = Challenge::of(bytes.split(|byte| *byte == b'\n'));
}

/// The name of an image. One that is taken is taken again, written out.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(reference) = text.parse::<ImageRef>() {
        let again = reference.to_string().parse::<ImageRef>();
        assert_eq!(again.expect("a name that we wrote"), reference);
        let familiar = reference.familiar().parse::<ImageRef>();
        assert_eq!(familiar.expect("a name that we showed"), reference);
    }
}
