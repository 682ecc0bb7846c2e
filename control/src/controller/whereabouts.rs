//! Images wherever they are: described by whoever has them, brought here to be run.
//!
//! The state says which nodes have an image, and what its bytes must be. Nothing here asks whose it is: a tenant has been shown to have it
//! before (`api/docker`), and what is brought is brought for the node.

use std::sync::Arc;

use async_trait::async_trait;
use hearth_image::{Contents, Image, ImageId};

use super::stock::{self, Look, Stock};
use super::{Controller, Error};
use crate::agent::{AgentError, keeper};
use crate::image_peers::{Elsewhere, FetchError, Fetcher, Holder, Reach, Whereabouts};
use crate::state::{Node, Stored};

/// How this node has what only others have.
pub(super) struct Others {
    fetcher: Fetcher,
    elsewhere: Elsewhere,
    waker: Arc<stock::Waker>,
}

/// Has an image looked at in the end, whatever that is.
struct LooksAfter<'a>(&'a stock::Waker, &'a str);

impl Drop for LooksAfter<'_> {
    fn drop(&mut self) {
        self.0.look(Look::Image(self.1.to_owned()));
    }
}

#[async_trait]
impl keeper::Images for Controller {
    async fn bring(&self, image: &str) -> Result<(), AgentError> {
        let failed = |reason: String| AgentError::Failed {
            doing: format!("looking for image {image}"),
            reason,
        };
        let here = async { Ok::<_, Error>(self.own_image(image).await?.is_some()) };
        match (here.await, self.inner.images.others.get()) {
            (Ok(true), _) => Ok(()),
            (Ok(false), Some(others)) => self.fetch(others, image).await,
            (Ok(false), None) => Err(failed("this node doesn't have it".to_owned())),
            (Err(error), _) => Err(failed(error.to_string())),
        }
    }
}

impl Controller {
    /// From now on, images that only other nodes have are described and brought by those. Called once; what it returns sees to it that the
    /// others know what this node has, and is to be run and to observe.
    pub fn reach_images(&self, reach: Arc<dyn Reach>) -> (Stock, Arc<stock::Waker>) {
        let (stock, waker) = Stock::new(self.clone());
        let others = Others {
            fetcher: Fetcher::new(self.inner.images.store.clone(), Arc::clone(&reach)),
            elsewhere: Elsewhere::new(reach),
            waker: Arc::clone(&waker),
        };
        // A second call has no effect, which its caller would find out at once.
        let _ = self.inner.images.others.set(others);
        (stock, waker)
    }

    /// What an image is that the state has, from this node's store or another's; `None`: no node that is there has it.
    pub async fn image(&self, id: &str) -> Result<Option<Image>, Error> {
        Ok(self.images(&[id.to_owned()]).await?.pop())
    }

    /// As [`Controller::image`], of several: those that some node has, in no order.
    pub async fn images(&self, ids: &[String]) -> Result<Vec<Image>, Error> {
        let mut found = Vec::new();
        let mut others = Vec::new();
        for id in ids {
            match self.own_image(id).await? {
                Some(image) => found.push(image),
                None => others.extend(self.whereabouts(&id.parse()?)),
            }
        }
        if let Some(here) = self.inner.images.others.get() {
            found.extend(here.elsewhere.describe(others).await);
        }
        Ok(found)
    }

    /// docker's size of an image, bytes; 0: it isn't known here.
    pub async fn image_bytes(&self, id: &str) -> Result<u64, Error> {
        let own = self.own_image(id).await?.map(|image| image.size_bytes);
        let told = || Some(self.whereabouts(&id.parse().ok()?)?.contents.size_bytes);
        Ok(own.or_else(told).unwrap_or(0))
    }

    pub(super) async fn own_image(&self, id: &str) -> Result<Option<Image>, Error> {
        Ok(self.inner.images.store.image(&id.parse()?).await?)
    }

    /// Where an image is but here; `None`: nobody has ever told.
    fn whereabouts(&self, image: &ImageId) -> Option<Whereabouts> {
        let own = self.inner.replica.node();
        let state = self.state();
        let stored = state.stored.get(&image.to_string())?;
        let others = stored.nodes.iter().filter(|node| **node != own);
        let mut others: Vec<&Node> = others.filter_map(|node| state.nodes.get(node)).collect();
        // Who may not be there is asked last; and each node asks another one first.
        others.sort_by_key(|node| (!node.is_ready(), node.id.0 ^ own.0));
        let holder = |node: &Node| {
            Some(Holder {
                node: node.id,
                address: node.is.address?.to_string(),
            })
        };
        Some(Whereabouts {
            image: *image,
            contents: Contents::from_bytes(&stored.contents)?,
            disk_bytes: stored.bytes,
            holders: others.into_iter().filter_map(holder).collect(),
        })
    }

    /// Has an image here that only others have. Whoever observes the store tells that then.
    async fn fetch(&self, others: &Others, image: &str) -> Result<(), AgentError> {
        let failed = |reason: String| AgentError::Failed {
            doing: format!("getting image {image}"),
            reason,
        };
        let id: ImageId = image
            .parse()
            .map_err(|e: hearth_image::Error| failed(e.to_string()))?;
        let somewhere = self.whereabouts(&id).filter(|it| !it.holders.is_empty());
        let Some(it) = somewhere else {
            return Err(failed(
                "no node that is there has it: pull or load it again".to_owned(),
            ));
        };
        // What nobody needs when it has come, or when this is given up, goes again.
        let _looks = LooksAfter(&others.waker, image);
        let fetched = others.fetcher.fetch(&id, &it.contents, &it.holders).await;
        match fetched {
            Ok(()) => Ok(()),
            Err(FetchError::Here { reason, .. })
                if matches!(*reason, hearth_image::Error::NoSpace) =>
            {
                Err(AgentError::DiskFull)
            }
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// That this node has an image, for the state; nothing where that is known.
    pub(super) async fn stored(&self, id: &ImageId) -> Stored {
        let node = self.inner.replica.node();
        let is_known = {
            let state = self.state();
            let stored = state.stored.get(&id.to_string());
            stored.is_some_and(|stored| stored.nodes.contains(&node))
        };
        if is_known {
            return Stored::default();
        }
        let store = &self.inner.images.store;
        match (store.contents(id).await, store.image(id).await) {
            (Ok(contents), Ok(Some(image))) => Stored {
                contents: contents.to_bytes().to_vec(),
                bytes: image.disk_bytes,
                nodes: [node].into(),
            },
            (Ok(_), Ok(None)) => Stored::default(),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(image = %id, %error, "other nodes can't have this image");
                Stored::default()
            }
        }
    }
}
