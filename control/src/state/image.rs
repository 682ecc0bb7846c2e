//! Images as a tenant sees them. The bytes are in each node's store.

use serde::{Deserialize, Serialize};

/// A name for an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRecord {
    /// `sha256:…` of the image's configuration.
    pub image: String,
}

/// A tenant has this image, named or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// `registry/name@sha256:…` for each repository it was pulled from (docker's RepoDigests).
    pub repo_digests: Vec<String>,
    /// Nanoseconds since the Unix epoch when it first came.
    pub arrived_ns: u64,
}
