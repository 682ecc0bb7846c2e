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

/// The bytes of an image, whoever's it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stored {
    /// What a node that has built it says about them ([`crate::image_peers::written`]); nodes check what they get from others against this.
    /// Empty: no node has said it yet.
    pub contents: Vec<u8>,
    /// Bytes that it takes on a node's disk.
    pub bytes: u64,
    /// Members that have just that.
    pub nodes: std::collections::BTreeSet<super::NodeId>,
}
