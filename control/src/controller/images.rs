//! A tenant's images: pulled, loaded, and committed as its own.
//!
//! The store has bytes and knows nobody; the state says who has what. Here is where the two meet: what a tenant has is
//! what it has shown that it can read, and nothing else of the store is told to it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use hearth_image::{Credentials, Digest, ImageId, ImageRef, Loaded, Progress};
use tokio::io::AsyncRead;
use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use super::whereabouts::Others;
use super::{Controller, Error};
use crate::clock::now_ns;
use crate::state::{Command, Telling, Tenant};

/// Pulls of one tenant that go on at the same time; more wait for these. Compose pulls a dozen services side by side, and
/// the network is full long before.
const PULLS_PER_TENANT: usize = 8;

/// Loads of one tenant that go on at the same time; more wait for these. Each has a thread, and room on the disk for a
/// whole archive.
const LOADS_PER_TENANT: usize = 2;

/// The node's store, and who is using it.
pub(super) struct Images {
    pub(super) store: hearth_image::Store,
    pulls: Shares,
    loads: Shares,
    /// Commits of images that have come: they are carried out though the client that asked may have gone.
    commits: TaskTracker,
    /// Held by whoever removes an image, from the look whether somebody needs it; and by whoever has committed one, for a look whether it is
    /// still there.
    removal: AsyncMutex<()>,
    /// Pulls and loads that have stored something, or may have, and have not committed it yet.
    arriving: Arc<()>,
    /// The other nodes' images; without it, this node is alone.
    pub(super) others: OnceLock<Others>,
}

/// What came of a pull.
pub struct PulledImage {
    /// What the reference led to.
    pub digest: Digest,
    /// The tenant had it under this name before.
    pub had_it: bool,
}

/// An image of an archive that is the tenant's now.
pub struct LoadedImage {
    /// `sha256:…`.
    pub id: String,
    /// What it is called now.
    pub names: Vec<String>,
    /// Of those names the ones that another image had, with its id.
    pub moved: Vec<(String, String)>,
}

impl Images {
    pub(super) fn new(store: hearth_image::Store) -> Self {
        Self {
            store,
            pulls: Shares::of(PULLS_PER_TENANT),
            loads: Shares::of(LOADS_PER_TENANT),
            commits: TaskTracker::new(),
            removal: AsyncMutex::default(),
            arriving: Arc::default(),
            others: OnceLock::new(),
        }
    }

    /// Something may be in the store that is nobody's yet.
    pub(super) fn is_arriving(&self) -> bool {
        Arc::strong_count(&self.arriving) > 1
    }

    /// Waits for commits that are under way.
    pub(super) async fn close(&self) {
        self.commits.close();
        self.commits.wait().await;
    }
}

/// Each tenant's share of something.
struct Shares {
    each: usize,
    // Protects the map only; never held across an await. An entry lives while somebody has or waits for a part of it.
    tenants: Mutex<HashMap<Tenant, Weak<Semaphore>>>,
}

impl Shares {
    fn of(each: usize) -> Self {
        Self {
            each,
            tenants: Mutex::default(),
        }
    }

    async fn take(&self, tenant: &Tenant) -> Result<OwnedSemaphorePermit, Error> {
        let share = {
            let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
            tenants.retain(|_, share| share.strong_count() > 0);
            tenants
                .get(tenant)
                .and_then(Weak::upgrade)
                .unwrap_or_else(|| {
                    let share = Arc::new(Semaphore::new(self.each));
                    tenants.insert(tenant.clone(), Arc::downgrade(&share));
                    share
                })
        };
        let part = share.acquire_owned().await;
        part.map_err(|_| Error::Unavailable("the node is going down".into()))
    }
}

/// The key of a name in the state: familiar; by digest if it has one, which counts before the tag, else with the tag.
pub fn key_of(reference: &ImageRef) -> String {
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => format!("{}@{digest}", reference.familiar_name()),
        (None, Some(tag)) => format!("{}:{tag}", reference.familiar_name()),
        (None, None) => reference.familiar(),
    }
}

/// Images that were stored and aren't anybody's yet. Where the load is given up, they go.
struct Uncommitted {
    controller: Controller,
    loaded: Vec<Loaded>,
}

impl Uncommitted {
    fn new(controller: Controller) -> Self {
        Self {
            controller,
            loaded: Vec::new(),
        }
    }
}

impl Drop for Uncommitted {
    fn drop(&mut self) {
        if self.loaded.is_empty() {
            return;
        }
        let (controller, loaded) = (self.controller.clone(), std::mem::take(&mut self.loaded));
        self.controller.inner.images.commits.spawn(async move {
            for image in loaded {
                let id = image.id.to_string();
                if let Err(error) = controller.collect_image(&id).await {
                    tracing::warn!(image = id, %error, "an image of a load that was given up stays until the next start");
                }
            }
        });
    }
}

impl Controller {
    /// Whether a registry takes these credentials.
    pub async fn login(&self, registry: &str, credentials: &Credentials) -> Result<(), Error> {
        Ok(self.inner.images.store.login(registry, credentials).await?)
    }

    /// The tags of a repository.
    pub async fn tags(
        &self,
        repository: &ImageRef,
        credentials: &Credentials,
    ) -> Result<Vec<String>, Error> {
        Ok(self
            .inner
            .images
            .store
            .tags(repository, credentials)
            .await?)
    }

    /// Pulls, and commits the image as the tenant's; under its tag, unless it was named by digest. Dropping the future
    /// gives up what isn't being committed.
    pub async fn pull(
        &self,
        tenant: &Tenant,
        reference: &ImageRef,
        credentials: &Credentials,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<PulledImage, Error> {
        let _part = self.inner.images.pulls.take(tenant).await?;
        let _arriving = Arc::clone(&self.inner.images.arriving);
        let shown = self.shown(tenant);
        let pulled = self
            .inner
            .images
            .store
            .pull(reference, credentials, &shown, progress)
            .await?;
        let id = pulled.id.to_string();
        let had_it = {
            let state = self.state();
            match reference.digest() {
                Some(_) => shown.contains(&pulled.id),
                None => state
                    .tags
                    .get(&(tenant.clone(), key_of(reference)))
                    .is_some_and(|tag| tag.image == id),
            }
        };
        let names = match reference.digest() {
            Some(_) => Vec::new(),
            None => vec![key_of(reference)],
        };
        let repo_digest = reference.with_digest(&pulled.digest).familiar();
        self.add_image(tenant, id, names, Some(repo_digest), Telling::Pull)
            .await?;
        Ok(PulledImage {
            digest: pulled.digest,
            had_it,
        })
    }

    /// Loads the images of an archive, and commits each as the tenant's. Those that came before one that fails stay, and
    /// are told beside the failure.
    pub async fn load(
        &self,
        tenant: &Tenant,
        body: impl AsyncRead + Send + Unpin,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> (Vec<LoadedImage>, Result<(), Error>) {
        let _part = match self.inner.images.loads.take(tenant).await {
            Ok(part) => part,
            Err(error) => return (Vec::new(), Err(error)),
        };
        let arriving = Arc::clone(&self.inner.images.arriving);
        let shown = self.shown(tenant);
        let mut uncommitted = Uncommitted::new(self.clone());
        let done = self
            .inner
            .images
            .store
            .load(body, &shown, &mut uncommitted.loaded, progress)
            .await;
        let loaded = std::mem::take(&mut uncommitted.loaded);
        // All of them by one task: a client that goes now must not leave some that nobody has.
        let (controller, tenant) = (self.clone(), tenant.clone());
        let commit = async move {
            let _arriving = arriving;
            let mut committed = Vec::new();
            for image in loaded {
                match controller.add_loaded(&tenant, image).await {
                    Ok(image) => committed.push(image),
                    Err(error) => return (committed, Err(error)),
                }
            }
            (committed, Ok(()))
        };
        match self.inner.images.commits.spawn(commit).await {
            Ok((committed, added)) => (committed, done.map_err(Error::from).and(added)),
            Err(broken) => (Vec::new(), Err(Error::Unavailable(broken.to_string()))),
        }
    }

    async fn add_loaded(&self, tenant: &Tenant, image: Loaded) -> Result<LoadedImage, Error> {
        let id = image.id.to_string();
        // An archive gives tags; a digest is a registry's to give.
        let tags = image.tags.iter().filter(|tag| tag.digest().is_none());
        let names: Vec<String> = tags.map(key_of).collect();
        let moved = {
            let state = self.state();
            let before = names.iter().filter_map(|name| {
                let tag = state.tags.get(&(tenant.clone(), name.clone()))?;
                (tag.image != id).then(|| (name.clone(), tag.image.clone()))
            });
            before.collect()
        };
        self.add_image(tenant, id.clone(), names.clone(), None, Telling::Load)
            .await?;
        Ok(LoadedImage { id, names, moved })
    }

    /// By a task of its own: a client that goes now must not leave an image that nobody has.
    async fn add_image(
        &self,
        tenant: &Tenant,
        image: String,
        names: Vec<String>,
        repo_digest: Option<String>,
        telling: Telling,
    ) -> Result<(), Error> {
        let id = image.clone();
        let image_id = id.parse()?;
        let stored = self.stored(&image_id).await;
        let command = Command::AddImage {
            tenant: tenant.clone(),
            at_ns: now_ns(),
            image,
            names,
            repo_digest,
            telling,
            stored,
        };
        let (controller, arriving) = (self.clone(), Arc::clone(&self.inner.images.arriving));
        let commit = async move {
            let _arriving = arriving;
            controller.propose(command).await
        };
        match self.inner.images.commits.spawn(commit).await {
            Ok(Ok(_)) => self.is_still_here(&image_id).await,
            Ok(Err(error)) => {
                // The tenant may not have it: then nobody needs it here, unless somebody else has it.
                self.collect_image(&id).await?;
                Err(error)
            }
            Err(broken) => Err(Error::Unavailable(broken.to_string())),
        }
    }

    /// Another user may have removed it between its arrival and the commit, when nobody seemed to need it.
    async fn is_still_here(&self, image: &ImageId) -> Result<(), Error> {
        let _turn = self.inner.images.removal.lock().await;
        match self.inner.images.store.image(image).await? {
            Some(_) => Ok(()),
            None => Err(Error::Unavailable(format!(
                "image {image} was removed while it came: pull or load it again"
            ))),
        }
    }

    /// Removes an image that no tenant has any more from this node's store. Returns what went (`sha256:…`).
    pub async fn collect_image(&self, image: &str) -> Result<Vec<String>, Error> {
        let _turn = self.inner.images.removal.lock().await;
        if self.state().is_needed(image) {
            return Ok(Vec::new());
        }
        match self.inner.images.store.remove(&image.parse()?).await {
            Ok(removed) => {
                let layers = removed.layers.iter().map(ToString::to_string);
                Ok([removed.id.to_string()].into_iter().chain(layers).collect())
            }
            Err(hearth_image::Error::NoSuchImage { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what the store has and nobody owns: a load that broke off leaves the images that it had finished.
    /// Called once, before the APIs answer and when the state is as the others have it.
    pub async fn collect_unowned_images(&self) -> Result<(), Error> {
        for image in self.inner.images.store.list().await? {
            self.collect_image(&image.id.to_string()).await?;
        }
        Ok(())
    }

    /// Images whose bytes a tenant has shown that it can read: those that it has.
    fn shown(&self, tenant: &Tenant) -> BTreeSet<ImageId> {
        let state = self.state();
        let own = state.images.keys().filter(|(owner, _)| owner == tenant);
        own.filter_map(|(_, id)| id.parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_tenant_takes_its_own_share_and_no_other() {
        let shares = Shares::of(2);
        let (one, other): (Tenant, Tenant) = ("one".parse().unwrap(), "other".parse().unwrap());
        let _held = (
            shares.take(&one).await.unwrap(),
            shares.take(&one).await.unwrap(),
        );
        let third = shares.take(&one);
        tokio::select! {
            biased;
            _ = third => panic!("a third part of two"),
            other = shares.take(&other) => drop(other.unwrap()),
        }
        drop(_held);
        drop(shares.take(&one).await.unwrap());
        assert_eq!(
            shares.tenants.lock().unwrap().len(),
            1,
            "what nobody has is forgotten"
        );
    }

    #[test]
    fn a_digest_counts_before_a_tag() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let key = |text: String| key_of(&text.parse().unwrap());
        assert_eq!(key("busybox".into()), "busybox:latest");
        assert_eq!(
            key(format!("busybox:1@{digest}")),
            format!("busybox@{digest}")
        );
        assert_eq!(
            key(format!("busybox@{digest}")),
            format!("busybox@{digest}")
        );
    }
}
