//! What the store tells about an image.

use crate::{Digest, ImageConfig, ImageId, ImageRef};

/// An image that is wholly present: its root file system can be booted.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Digest of the config document.
    pub id: ImageId,
    /// The parsed config document.
    pub config: ImageConfig,
    /// Digest of the manifest it came with; made by us for archives without one.
    pub manifest_digest: Digest,
    /// Size as docker counts it: the sum of the files of all layers, in bytes.
    pub size_bytes: u64,
    /// Disk space of the root file system image, holes not counted, in bytes.
    pub disk_bytes: u64,
}

impl Image {
    /// Digests of the uncompressed layers, lowest first.
    pub fn diff_ids(&self) -> &[Digest] {
        &self.config.rootfs.diff_ids
    }

    /// RFC 3339 time of creation as the builder wrote it; may be empty.
    pub fn created(&self) -> &str {
        &self.config.created
    }

    /// CPU architecture in Go's words: `amd64`.
    pub fn architecture(&self) -> &str {
        &self.config.architecture
    }
}

/// The outcome of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub id: ImageId,
    /// What the reference led to: the digest of the manifest, or of the manifest list if it was one. Docker's
    /// RepoDigests hold this.
    pub digest: Digest,
    /// The store had it, and the caller had shown before that it can read it.
    pub already_present: bool,
}

/// One image of a `docker load`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The image.
    pub id: ImageId,
    /// The names that the archive gives it; may be empty.
    pub tags: Vec<ImageRef>,
}

/// What a removal deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The image.
    pub id: ImageId,
    /// Digests of its uncompressed layers that no image left here shares.
    pub layers: Vec<Digest>,
    /// Disk space given back, in bytes.
    pub freed_bytes: u64,
}
