//! What one store asks of another, and in which bytes it is answered.
//!
//! A store trusts another as little as a registry. Of an image it knows the id, which verifies the config, and [`Contents`], which
//! verify the root file system; both from whoever asks it to import the image, never from the other store.
//!
//! ```text
//! Part::Description   4 bytes: length; JSON: the layers, lowest first: digest, size and diff id of each
//!                     4 bytes: length; the config, as it came
//!                     4 bytes: length; the manifest, as it came
//!                     the list of the root file system's pieces (`pieces`), whose length its size tells
//!                     32 bytes: SHA-256 of all this, against damage; against lies each part is verified by itself
//! Part::Root          for each piece from the one asked for on, without those that are holes:
//!                     1 byte: 0 plain, 1 zstd; 4 bytes: length; so many bytes
//! Part::Layer         the layer, as it came
//! ```
//!
//! Numbers are little endian. What an answer doesn't need to end with isn't read: a stream has no end of its own.

pub(crate) mod description;
pub(crate) mod packed;
pub(crate) mod received;

use std::fmt;

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};
use serde::{Deserialize, Serialize};

use crate::{Digest, ImageId};

/// Bytes of a chunk that a store hands out, at most.
pub const CHUNK_BYTES: usize = 64 << 10;

/// [`Contents`] as bytes.
pub const CONTENTS_BYTES: usize = 32 + 8 + 8;

/// What a store makes of an image's layers: the same on every node, since building is deterministic. Whoever has built the image tells
/// it to those who get it from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Contents {
    /// Names the root file system: a hash over its size and the hashes of its pieces.
    pub root: Digest,
    /// Of the root file system, holes included.
    pub root_bytes: u64,
    /// Docker's size of the image.
    pub size_bytes: u64,
}

impl Contents {
    /// As others keep it: the root's digest, then both sizes, little endian.
    pub fn to_bytes(&self) -> [u8; CONTENTS_BYTES] {
        let mut bytes = [0; CONTENTS_BYTES];
        bytes[..32].copy_from_slice(self.root.as_bytes());
        bytes[32..40].copy_from_slice(&self.root_bytes.to_le_bytes());
        bytes[40..].copy_from_slice(&self.size_bytes.to_le_bytes());
        bytes
    }

    /// What [`Contents::to_bytes`] has written; `None`: something else has.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; CONTENTS_BYTES] = bytes.try_into().ok()?;
        let (root, sizes) = bytes.split_first_chunk()?;
        let (root_bytes, size_bytes) = sizes.split_first_chunk()?;
        Some(Self {
            root: Digest::from(*root),
            root_bytes: u64::from_le_bytes(*root_bytes),
            size_bytes: u64::from_le_bytes(size_bytes.try_into().ok()?),
        })
    }
}

/// A part of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Part {
    /// Everything but layers and the root file system.
    Description {
        /// Of which image.
        image: ImageId,
    },
    /// The root file system.
    Root {
        /// Of which image.
        image: ImageId,
        /// Which one: see [`Contents::root`].
        root: Digest,
        /// From this piece on.
        from: u32,
    },
    /// A layer as it came, if it was kept.
    Layer {
        /// Of which image.
        image: ImageId,
        /// Of the bytes as they came.
        digest: Digest,
    },
}

impl Part {
    /// The image that it is a part of.
    pub fn image(&self) -> &ImageId {
        match self {
            Self::Description { image } | Self::Root { image, .. } | Self::Layer { image, .. } => {
                image
            }
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Description { image } => write!(f, "the description of image {image}"),
            Self::Root { image, .. } => write!(f, "the root file system of image {image}"),
            Self::Layer { image, digest } => write!(f, "layer {digest} of image {image}"),
        }
    }
}

/// The bytes of a part. It is read as fast as they can be used and no faster; whoever drops it wants no more.
pub type Chunks = BoxStream<'static, Result<Bytes, SourceError>>;

/// The words of whatever went wrong at the other store, or on the way.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// Another store. Its bytes are a stranger's.
pub trait Source: Send + Sync {
    /// Asks for a part. Where the other store doesn't have it, this fails or the stream does. It waits as long as it likes: whoever asks
    /// has a limit. Chunks have any length but 0.
    fn fetch(&self, part: Part) -> BoxFuture<'_, Result<Chunks, SourceError>>;
}
