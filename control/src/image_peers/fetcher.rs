//! Gets images from the nodes that have them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use hearth_image::{Contents, Digest, Error, ImageId, Import, Store};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use super::{Holder, Reach, Way};

/// Images fetched at the same time; more wait for these. One fills a gigabit link by itself, and each holds up to 12 MiB.
const FETCHES_MAX: usize = 2;

/// Why an image was not fetched.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// No node gave it.
    #[error("image {image} could not be had from another node ({}): pull or load it here", words(.asked))]
    NoneGave {
        /// Which.
        image: ImageId,
        /// Each node that was asked, and why it didn't give it, or not all of it.
        asked: Vec<(Holder, String)>,
    },
    /// This node can't take it, whoever gives it.
    #[error("image {image} can't be stored on this node: {reason}")]
    Here {
        /// Which.
        image: ImageId,
        /// What is wrong.
        reason: Arc<Error>,
    },
}

fn words(asked: &[(Holder, String)]) -> String {
    if asked.is_empty() {
        return "none is known to have it".to_owned();
    }
    let each: Vec<_> = asked
        .iter()
        .map(|(holder, why)| format!("node {:x} at {}: {why}", holder.node.0, holder.address))
        .collect();
    each.join("; ")
}

/// An image's way to this node; who wants it has it in hand, and whoever has it drives it. When nobody wants it any more it ends.
type Work = BoxFuture<'static, Result<(), FetchError>>;
type Wanted = (ImageId, Contents);

/// Gets images from other nodes. Cheap to clone.
#[derive(Clone)]
pub struct Fetcher {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    reach: Arc<dyn Reach>,
    places: Semaphore,
    // Protects the map only; never held across an await. Work that has ended isn't in it.
    under_way: Mutex<HashMap<Wanted, WeakShared<Work>>>,
    /// Layers are nobody's hurry: one image's at a time.
    layers: AsyncMutex<()>,
}

impl Fetcher {
    /// Into a store, over a way to other nodes.
    pub fn new(store: Store, reach: Arc<dyn Reach>) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                reach,
                places: Semaphore::new(FETCHES_MAX),
                under_way: Mutex::default(),
                layers: AsyncMutex::default(),
            }),
        }
    }

    /// Has an image here, so that it can be run: from the first of these nodes that gives it, and on with the next where one breaks off or
    /// sends something else. What was verified of it isn't fetched again. Who wants what another is fetching shares that, and each one's nodes
    /// are asked.
    ///
    /// The image is the node's then and no tenant's. Dropped: gives up, unless another wants it.
    pub async fn fetch(
        &self,
        image: &ImageId,
        contents: &Contents,
        holders: &[Holder],
    ) -> Result<(), FetchError> {
        loop {
            let (work, is_own) = self.work((*image, *contents), holders);
            match work.await {
                Err(FetchError::NoneGave { asked, .. }) if !is_own && misses(&asked, holders) => {}
                done => return done,
            }
        }
    }

    /// Fetches the image's layers, as they once came from a registry or an archive, so that it can be pushed and saved from here as well. Where
    /// the store keeps no layers this does nothing.
    pub async fn fetch_layers(
        &self,
        image: &ImageId,
        holders: &[Holder],
    ) -> Result<(), FetchError> {
        let _turn = self.inner.layers.lock().await;
        let here = |error| FetchError::Here {
            image: *image,
            reason: Arc::new(error),
        };
        let missing = self.inner.store.missing_layers(image).await.map_err(here)?;
        for layer in missing {
            self.fetch_layer(image, &layer, holders).await?;
        }
        Ok(())
    }

    async fn fetch_layer(
        &self,
        image: &ImageId,
        layer: &Digest,
        holders: &[Holder],
    ) -> Result<(), FetchError> {
        let mut asked = Asked::default();
        for holder in holders {
            let way = self.inner.way(holder);
            match self.inner.store.import_layer(image, layer, &way).await {
                Ok(()) => return Ok(()),
                Err(error) => asked.hear(image, holder, error)?,
            }
        }
        Err(asked.none_gave(image))
    }

    /// What is under way already, or one's own.
    fn work(&self, wanted: Wanted, holders: &[Holder]) -> (Shared<Work>, bool) {
        let mut under_way = self.inner.under_way();
        under_way.retain(|_, work| work.upgrade().is_some());
        if let Some(work) = under_way.get(&wanted).and_then(WeakShared::upgrade) {
            return (work, false);
        }
        let (inner, holders) = (self.inner.clone(), holders.to_vec());
        let work = async move {
            let done = inner.bring(&wanted, holders).await;
            inner.under_way().remove(&wanted);
            done
        };
        let work = work.boxed().shared();
        if let Some(weak) = work.downgrade() {
            under_way.insert(wanted, weak);
        }
        (work, true)
    }
}

impl Inner {
    fn under_way(&self) -> std::sync::MutexGuard<'_, HashMap<Wanted, WeakShared<Work>>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn way<'a>(&'a self, holder: &'a Holder) -> Way<'a> {
        Way {
            reach: &*self.reach,
            holder,
        }
    }

    async fn bring(&self, wanted: &Wanted, holders: Vec<Holder>) -> Result<(), FetchError> {
        let (image, contents) = wanted;
        let here = |error| FetchError::Here {
            image: *image,
            reason: Arc::new(error),
        };
        // Nobody closes it.
        let _place = self
            .places
            .acquire()
            .await
            .map_err(|_| here(Error::Cancelled))?;
        let import = self.store.import(image, contents).await.map_err(here)?;
        match import {
            Some(import) => self.ask_all(import, wanted, holders).await,
            None => Ok(()),
        }
    }

    /// Who breaks off is asked again as long as something comes; who lies isn't.
    async fn ask_all(
        &self,
        mut import: Import,
        (image, contents): &Wanted,
        mut holders: Vec<Holder>,
    ) -> Result<(), FetchError> {
        let mut asked = Asked::default();
        loop {
            let before = import.done_bytes();
            let mut once_more = Vec::new();
            for holder in holders {
                let node = format!("{:x}", holder.node.0);
                let mut progress = |done_bytes| {
                    tracing::debug!(%image, node, done_bytes, of_bytes = contents.root_bytes, "image on its way");
                };
                let way = self.way(&holder);
                match import.take(&way, &mut progress).await {
                    Ok(()) => {
                        tracing::info!(%image, node, bytes = contents.root_bytes, "image fetched from another node");
                        return Ok(());
                    }
                    Err(error) => {
                        let lied = matches!(error, Error::SourceLied { .. });
                        asked.hear(image, &holder, error)?;
                        if !lied {
                            once_more.push(holder);
                        }
                    }
                }
            }
            if once_more.is_empty() || import.done_bytes() == before {
                return Err(asked.none_gave(image));
            }
            holders = once_more;
        }
    }
}

/// The nodes that have failed, each with why it did so last.
#[derive(Default)]
struct Asked(Vec<(Holder, String)>);

impl Asked {
    /// An error that isn't the node's ends the whole.
    fn hear(&mut self, image: &ImageId, holder: &Holder, error: Error) -> Result<(), FetchError> {
        let node = format!("{:x}", holder.node.0);
        let why = match error {
            Error::SourceFailed { what, reason } => {
                tracing::info!(node, what, reason, "a node did not give a part of an image");
                reason
            }
            Error::SourceLied { what, reason } => {
                tracing::warn!(
                    node,
                    what,
                    reason,
                    "a node has sent something else than was asked for"
                );
                format!("it has sent something else: {reason}")
            }
            other => {
                return Err(FetchError::Here {
                    image: *image,
                    reason: Arc::new(other),
                });
            }
        };
        self.0.retain(|(known, _)| known.node != holder.node);
        self.0.push((holder.clone(), why));
        Ok(())
    }

    fn none_gave(self, image: &ImageId) -> FetchError {
        FetchError::NoneGave {
            image: *image,
            asked: self.0,
        }
    }
}

/// Whether some node of these wasn't asked.
fn misses(asked: &[(Holder, String)], holders: &[Holder]) -> bool {
    let was_asked = |holder: &Holder| asked.iter().any(|(known, _)| known == holder);
    !holders.iter().all(was_asked)
}
