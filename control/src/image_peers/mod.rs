//! Images from other nodes, by digest: one `docker load` or pull serves all of them.
//!
//! ```text
//! Fetcher ──Reach::open(holder, part)──▶ OverPeers ══▶ Served ──▶ Exports::answer(node, part) ──▶ store
//!    └──▶ store: verifies each piece, lists the image when all of it is there
//! Elsewhere: what an image is, without having it
//! ```
//!
//! The state says what an image's root file system must be ([`Contents`](hearth_image::Contents), told by a node that has built it) and which nodes have it;
//! the nodes that are asked for it are trusted in nothing. Images are fetched for the node, whoever wanted them: what a tenant may see
//! is in the state alone. So every member of the cluster may ask for every image, and nobody else may.

mod elsewhere;
mod exports;
mod fetcher;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod over_peers;
mod served;
#[cfg(test)]
pub(crate) mod tests;

pub use elsewhere::{Elsewhere, Whereabouts};
pub use exports::Exports;
pub use fetcher::{FetchError, Fetcher};
pub use over_peers::OverPeers;
pub use served::Served;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use hearth_image::{Chunks, Part, Source, SourceError};

use crate::state::NodeId;

/// The path of streams that carry a part of an image; the first frame says which.
pub const PART: &str = "/image/part";

/// A node that is said to have an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Which.
    pub node: NodeId,
    /// Where its peers reach it.
    pub address: String,
}

/// The way to other nodes.
#[async_trait]
pub trait Reach: Send + Sync + 'static {
    /// Asks a node for a part of an image. The stream's own end says nothing: who reads knows how much must come, and drops it then; the
    /// other node is to stop at that. What it refuses is an error here or in the stream. Called for few parts at a time.
    async fn open(&self, holder: &Holder, part: Part) -> Result<Chunks, SourceError>;
}

/// Another node's store.
struct Way<'a> {
    reach: &'a dyn Reach,
    holder: &'a Holder,
}

impl Source for Way<'_> {
    fn fetch(&self, part: Part) -> BoxFuture<'_, Result<Chunks, SourceError>> {
        self.reach.open(self.holder, part)
    }
}
