//! What images are that only other nodes have.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use hearth_image::{Contents, Error, Image, ImageId, describe};
use tokio::time::Instant;

use super::{Holder, Reach, Way};
use crate::state::{NodeId, encoding};

/// Images asked for at the same time: a round trip and some kilobytes each.
const AT_ONCE: usize = 8;
/// One node's answer comes within this, or the next one is asked: a connection and a round trip through a slow link.
const ANSWER_PATIENCE: Duration = Duration::from_secs(4);
/// A user waits no longer for all that are asked for together: two nodes that don't answer, and one that does.
const PATIENCE: Duration = Duration::from_secs(10);
/// Configs that are remembered, bytes as they are encoded: some thousands of usual ones. They never change.
const REMEMBERED_BYTES: usize = 16 << 20;

/// Where an image is, as the state knows it.
#[derive(Debug, Clone)]
pub struct Whereabouts {
    /// Which.
    pub image: ImageId,
    /// What its bytes must be.
    pub contents: Contents,
    /// Bytes that it takes on a node's disk.
    pub disk_bytes: u64,
    /// Who has it, in the order in which they are to be asked.
    pub holders: Vec<Holder>,
}

/// Asks other nodes what images are, and remembers it.
pub struct Elsewhere {
    reach: Arc<dyn Reach>,
    // Never held across an await.
    remembered: Mutex<Remembered>,
}

#[derive(Default)]
struct Remembered {
    images: HashMap<(ImageId, Contents), (Image, usize)>,
    /// The oldest first.
    order: VecDeque<(ImageId, Contents)>,
    bytes: usize,
}

impl Remembered {
    fn add(&mut self, key: (ImageId, Contents), image: Image) {
        let bytes = encoding::size(&image.config).unwrap_or(REMEMBERED_BYTES);
        if self.images.contains_key(&key) {
            return;
        }
        self.images.insert(key, (image, bytes));
        self.order.push_back(key);
        self.bytes += bytes;
        while self.bytes > REMEMBERED_BYTES
            && let Some(oldest) = self.order.pop_front()
        {
            let (_, bytes) = self.images.remove(&oldest).unzip();
            self.bytes -= bytes.unwrap_or(0);
        }
    }
}

impl Elsewhere {
    /// Over a way to other nodes.
    pub fn new(reach: Arc<dyn Reach>) -> Self {
        Self {
            reach,
            remembered: Mutex::default(),
        }
    }

    /// What these images are, as far as some node tells it in time. Nothing of them comes to this node.
    pub async fn describe(&self, wanted: Vec<Whereabouts>) -> Vec<Image> {
        let mut known = Vec::new();
        let mut unknown = Vec::new();
        for wanted in wanted {
            match self.recall(&wanted) {
                Some(image) => known.push(image),
                None => unknown.push(wanted),
            }
        }
        let silent = Mutex::default();
        let asking = unknown.into_iter().map(|wanted| self.ask(wanted, &silent));
        let mut asking = stream::iter(asking).buffer_unordered(AT_ONCE);
        let until = Instant::now() + PATIENCE;
        while let Ok(Some(told)) = tokio::time::timeout_at(until, asking.next()).await {
            known.extend(told);
        }
        known
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, Remembered> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn recall(&self, wanted: &Whereabouts) -> Option<Image> {
        let key = (wanted.image, wanted.contents);
        let image = self.remembered().images.get(&key)?.0.clone();
        Some(Image {
            disk_bytes: wanted.disk_bytes,
            ..image
        })
    }

    /// `silent`: those who haven't answered this time, and aren't asked for the other images.
    async fn ask(&self, wanted: Whereabouts, silent: &Mutex<BTreeSet<NodeId>>) -> Option<Image> {
        let silent = || silent.lock().unwrap_or_else(PoisonError::into_inner);
        for holder in &wanted.holders {
            if silent().contains(&holder.node) {
                continue;
            }
            let way = Way {
                reach: &*self.reach,
                holder,
            };
            let told = describe(&wanted.image, &wanted.contents, &way);
            let told = tokio::time::timeout(ANSWER_PATIENCE, told).await;
            let told = told.unwrap_or_else(|_| {
                Err(Error::SourceFailed {
                    what: format!("the description of image {}", wanted.image),
                    reason: format!("no answer within {ANSWER_PATIENCE:?}"),
                })
            });
            match told {
                Ok(image) => {
                    let key = (wanted.image, wanted.contents);
                    self.remembered().add(key, image);
                    return self.recall(&wanted);
                }
                Err(error) => {
                    silent().insert(holder.node);
                    tracing::info!(node = %holder.node, image = %wanted.image, %error, "a node does not say what an image is");
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use hearth_image::{Digest, ImageConfig};

    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_the_latest_stays() {
        let mut remembered = Remembered::default();
        let comment = "x".repeat(REMEMBERED_BYTES / 10);
        for n in 0..100u8 {
            let id = ImageId::from(Digest::of([n]));
            let contents = Contents {
                root: *id.digest(),
                root_bytes: 4096,
                size_bytes: 1,
            };
            let image = Image {
                id,
                config: ImageConfig {
                    comment: comment.clone(),
                    ..ImageConfig::default()
                },
                manifest_digest: *id.digest(),
                size_bytes: 1,
                disk_bytes: 1,
            };
            remembered.add((id, contents), image);
            assert!(remembered.images.contains_key(&(id, contents)));
            assert!(remembered.bytes <= REMEMBERED_BYTES);
            assert_eq!(remembered.order.len(), remembered.images.len());
        }
        assert_eq!(remembered.images.len(), 9);
    }
}
