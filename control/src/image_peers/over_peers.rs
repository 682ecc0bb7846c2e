//! The way to other nodes' images, over the connection between nodes.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use hearth_image::{Chunks, Part, SourceError};

use super::{Holder, PART, Reach};
use crate::peers::{PeerError, Peers};
use crate::state::encoding;

/// A stream is taken at once by a node that is there, whatever it does before it answers: a connection is made, and two frames go.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);

/// Reaches other nodes over [`Peers`].
pub struct OverPeers(pub Peers);

#[async_trait]
impl Reach for OverPeers {
    async fn open(&self, holder: &Holder, part: Part) -> Result<Chunks, SourceError> {
        let first = encoding::encode(&part).map_err(|e| SourceError(e.to_string()))?;
        let (node, address) = (holder.node, &holder.address);
        let opened = self
            .0
            .open(node, address, PART, first.into(), OPEN_PATIENCE);
        let (send, receive) = opened.await.map_err(|e| words(&e))?;
        // Nothing more to say; an error comes with what is read, too.
        let _ = send.finish();
        let chunks = stream::unfold(Some(receive), |receive| async {
            let mut receive = receive?;
            match receive.recv().await {
                Ok(None) => None,
                Ok(Some(chunk)) => Some((Ok(chunk), Some(receive))),
                Err(error) => Some((Err(words(&error)), None)),
            }
        });
        Ok(chunks.boxed())
    }
}

/// Who it is about is said beside it.
fn words(error: &PeerError) -> SourceError {
    SourceError(match error {
        PeerError::Refused { refusal, .. } => refusal.to_string(),
        other => other.to_string(),
    })
}
