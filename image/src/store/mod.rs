//! The content store: one directory, one owner.
//!
//! What is kept of an image: its root file system, its config and manifest, and (by [`StoreOptions::keep_layers`]) its
//! layers as they came. Layers cost disk space, about half as much again as the root file system, and are worth it
//! where there is a disk: an image that shares layers with one that is here fetches only the others, and what came
//! from a registry can be pushed and saved again byte for byte. Where the store is in memory they are not worth it.
//!
//! That the store has some bytes gives nobody a right to them: digests are names that anybody may say. Pull and load are
//! told which images the caller has `shown` that it can read; everything else it must bring, all of it, hashed here,
//! whether the store has it already or not.

mod build;
mod claims;
mod contents;
mod export;
mod import;
mod layers;
mod layout;
mod load;
mod pool;
mod pull;
mod record;
mod remove;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

pub use self::import::Import;
use self::{build::blocking, claims::Claims, pool::Pool, record::Held};
pub(crate) use self::{
    build::{MAX_CONFIG_BYTES, MAX_DOCUMENT_BYTES, MAX_LAYERS, read_config},
    layout::Layout,
    record::LayerRecord,
};
use crate::{Digest, Error, Image, ImageId};

/// Layers fetched at the same time: what docker does by default; more only helps with registries that throttle each
/// connection.
const DEFAULT_PARALLEL_LAYERS: usize = 3;

/// Events of progress that wait for whoever shows them; a slow client slows the pull down rather than filling memory.
const WAITING_EVENTS: usize = 64;

/// Layers taken apart at the same time, all pulls and loads together. Each keeps a processor and the disk busy; more
/// would only take both from the containers.
const WORKERS: usize = 4;

/// Pieces packed or unpacked at the same time, to and from all other stores. One fills a gigabit link more than twice.
const TRANSFERS: usize = 2;

/// How the store behaves.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Registries (`host:port`, as in references) that are spoken to without TLS.
    pub insecure_registries: Vec<String>,
    /// Whom to ask for registries' addresses; if empty, those of `/etc/resolv.conf`.
    pub dns_servers: Vec<IpAddr>,
    /// Layers fetched at the same time, at least 1.
    pub parallel_layers: usize,
    /// Whether layers stay beside the root file system made of them; turn it off where the store is in memory.
    pub keep_layers: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            insecure_registries: Vec::new(),
            dns_servers: Vec::new(),
            parallel_layers: DEFAULT_PARALLEL_LAYERS,
            keep_layers: true,
        }
    }
}

/// A content store under one directory. One process owns it; clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    layout: Layout,
    options: StoreOptions,
    claims: Claims,
    /// Of images that come from another store: these are held while a network is waited for.
    imports: Claims,
    pool: Pool,
    /// Of its own, so that stores don't wait for each other's registries.
    transfers: Pool,
    // What `images/` has on the disk; never held across an await.
    images: RwLock<BTreeMap<ImageId, Held>>,
}

impl Shared {
    fn held(&self, id: &ImageId) -> Option<Held> {
        self.images
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned()
    }

    /// The layers of these images, by the digest of their plain bytes and by that of the bytes as they came, where that was seen.
    fn layers_of(&self, ids: &BTreeSet<ImageId>) -> BTreeSet<Digest> {
        let images = self.images.read().unwrap_or_else(PoisonError::into_inner);
        ids.iter()
            .filter_map(|id| images.get(id))
            .flat_map(|held| &held.record.layers)
            .flat_map(|layer| [Some(layer.diff_id), layer.seen.then_some(layer.digest)])
            .flatten()
            .collect()
    }

    /// How a layer with these plain bytes came with one of these images.
    fn layer_of(&self, ids: &BTreeSet<ImageId>, diff_id: &Digest) -> Option<LayerRecord> {
        let images = self.images.read().unwrap_or_else(PoisonError::into_inner);
        ids.iter()
            .filter_map(|id| images.get(id))
            .flat_map(|held| &held.record.layers)
            .find(|layer| layer.diff_id == *diff_id)
            .cloned()
    }

    fn insert(&self, held: Held) {
        let mut images = self.images.write().unwrap_or_else(PoisonError::into_inner);
        images.insert(held.image.id, held);
    }
}

impl Store {
    /// Opens the store, making the directory if needed, and clears what a power cut left half done.
    pub async fn open(dir: &Path, options: StoreOptions) -> Result<Self, Error> {
        let dir = dir.to_owned();
        blocking(move || {
            let layout = Layout::prepare(&dir)?;
            let images = remove::recover(&layout)?;
            let shared = Shared {
                layout,
                options,
                claims: Claims::default(),
                imports: Claims::default(),
                pool: Pool::of(WORKERS),
                transfers: Pool::of(TRANSFERS),
                images: RwLock::new(images),
            };
            Ok(Self {
                shared: Arc::new(shared),
            })
        })
        .await
    }

    /// One image; `None` if the store doesn't have it.
    pub async fn image(&self, id: &ImageId) -> Result<Option<Image>, Error> {
        Ok(self.shared.held(id).map(|held| held.image))
    }

    /// All images, by id.
    pub async fn list(&self) -> Result<Vec<Image>, Error> {
        let images = self
            .shared
            .images
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(images.values().map(|held| held.image.clone()).collect())
    }

    /// The image's root file system, an EROFS file whose size is a multiple of 4096. Present for each image listed.
    pub fn root_file(&self, id: &ImageId) -> PathBuf {
        self.shared.layout.root(id)
    }
}
