//! The record that makes an image exist, and the image read back by it.

use std::{fs, os::unix::fs::MetadataExt};

use serde::{Deserialize, Serialize};

use super::layout::Layout;
use crate::{Digest, Error, Image, ImageConfig, ImageId, pieces::Pieces};

/// Version of [`Record`]'s form; a store of another version is left alone.
const VERSION: u32 = 1;

/// `images/<id>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    pub(super) manifest: Digest,
    /// Docker's size of the image.
    pub(super) size_bytes: u64,
    /// Lowest first.
    pub(super) layers: Vec<LayerRecord>,
    /// Records of earlier versions have none, until somebody asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) root: Option<RootRecord>,
}

/// The root file system, by its pieces ([`crate::pieces`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RootRecord {
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
}

impl From<&Pieces> for RootRecord {
    fn from(pieces: &Pieces) -> Self {
        Self {
            digest: pieces.root(),
            size_bytes: pieces.size_bytes(),
        }
    }
}

/// A layer as it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Of the bytes as they came, compressed or not.
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
    /// Of the uncompressed bytes.
    pub(crate) diff_id: Digest,
    /// This store has seen that these two belong together. Where it has an image from another store it was only told so; then `digest`
    /// is a name that anybody may say, and `diff_id`, which is the config's, counts alone.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub(crate) seen: bool,
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

impl Record {
    pub(super) fn new(
        manifest: Digest,
        size_bytes: u64,
        layers: Vec<LayerRecord>,
        root: RootRecord,
    ) -> Self {
        Self {
            version: VERSION,
            manifest,
            size_bytes,
            layers,
            root: Some(root),
        }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|_| unreachable!("plain data has a JSON form"))
    }
}

/// An image in the store.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) image: Image,
    pub(super) record: Record,
}

/// Reads an image back; an error says why it can't be used.
pub(super) fn read(layout: &Layout, id: &ImageId) -> Result<Held, Error> {
    let path = layout.record(id);
    let what = path.display().to_string();
    let json = fs::read(&path).map_err(Error::io(format!("reading {what}")))?;
    let record: Record =
        serde_json::from_slice(&json).map_err(|err| Error::malformed(&what, err.to_string()))?;
    if record.version != VERSION {
        return Err(Error::malformed(
            what,
            format!("unknown version {}", record.version),
        ));
    }
    let blob = layout.blob(id.digest());
    let config_json = fs::read(&blob).map_err(Error::io(format!("reading {}", blob.display())))?;
    let actual = Digest::of(&config_json);
    if actual != *id.digest() {
        return Err(Error::DigestMismatch {
            what: format!("config of image {id}"),
            expected: id.to_string(),
            actual: actual.to_string(),
        });
    }
    let config = ImageConfig::from_json(&config_json)
        .map_err(|err| Error::malformed(format!("config of image {id}"), err.to_string()))?;
    hold(layout, *id, config, record)
}

/// Puts together what is known of an image whose root file system is in its place.
pub(super) fn hold(
    layout: &Layout,
    id: ImageId,
    config: ImageConfig,
    record: Record,
) -> Result<Held, Error> {
    let root = layout.root(&id);
    let meta = fs::metadata(&root).map_err(Error::io(format!("looking at {}", root.display())))?;
    let image = Image {
        id,
        config,
        manifest_digest: record.manifest,
        size_bytes: record.size_bytes,
        disk_bytes: meta.blocks() * 512,
    };
    Ok(Held { image, record })
}
