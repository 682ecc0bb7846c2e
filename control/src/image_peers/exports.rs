//! What other nodes ask of this one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::StreamExt;
use hearth_image::{Chunks, Error, Part, Store};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::state::NodeId;

/// Streams of bytes at the same time: each holds up to 8 MiB, and two of them keep a gigabit link full. More wait for these; who waits for
/// longer than it likes asks another node.
const STREAMS_MAX: usize = 8;

/// Of one node, so that none can take all: as many as it fetches images at the same time, by [`super::Fetcher`].
const STREAMS_PER_NODE: usize = 2;

/// Descriptions at the same time, some kilobytes each. Users wait for them: they don't wait behind the bytes of whole images.
const DESCRIPTIONS_MAX: usize = 64;

/// Of one node: as many as it asks for at the same time, by [`super::Elsewhere`].
const DESCRIPTIONS_PER_NODE: usize = 8;

/// Hands out parts of the images that this node has.
pub struct Exports {
    store: Store,
    streams: Places,
    descriptions: Places,
}

impl Exports {
    /// Of a store.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            streams: Places::of(STREAMS_MAX, STREAMS_PER_NODE),
            descriptions: Places::of(DESCRIPTIONS_MAX, DESCRIPTIONS_PER_NODE),
        }
    }

    /// Answers a member of the cluster, which the caller has made sure of. Dropped, also while it waits for its turn, it costs nothing any
    /// more.
    pub async fn answer(&self, node: NodeId, part: Part) -> Result<Chunks, Error> {
        let places = match part {
            Part::Description { .. } => &self.descriptions,
            Part::Root { .. } | Part::Layer { .. } => &self.streams,
        };
        let place = places.take(node).await?;
        let chunks = self.store.export(part).await?;
        Ok(chunks
            .inspect(move |_| {
                let _held = &place;
            })
            .boxed())
    }
}

/// Places for all nodes together, of which each has its share.
struct Places {
    all: Arc<Semaphore>,
    each: usize,
    // Protects the map only; never held across an await. An entry lives while somebody has or waits for a part of it.
    nodes: Mutex<HashMap<NodeId, Weak<Semaphore>>>,
}

impl Places {
    fn of(all: usize, each: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            each,
            nodes: Mutex::default(),
        }
    }

    async fn take(&self, node: NodeId) -> Result<[OwnedSemaphorePermit; 2], Error> {
        let share = self.share(node);
        Ok([take(share).await?, take(self.all.clone()).await?])
    }

    fn share(&self, node: NodeId) -> Arc<Semaphore> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|_, share| share.strong_count() > 0);
        nodes.get(&node).and_then(Weak::upgrade).unwrap_or_else(|| {
            let share = Arc::new(Semaphore::new(self.each));
            nodes.insert(node, Arc::downgrade(&share));
            share
        })
    }
}

async fn take(places: Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Error> {
    // Nobody closes these.
    places.acquire_owned().await.map_err(|_| Error::Cancelled)
}
