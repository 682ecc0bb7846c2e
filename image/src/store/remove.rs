//! Taking images away, and what nobody needs without them; and the same after a power cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    sync::PoisonError,
};

use super::{
    Shared, Store,
    build::blocking,
    layout::{self, Layout},
    record::{self, Held, Record},
};
use crate::{Digest, Error, ImageId, Removed};

impl Store {
    /// Removes an image that nobody uses any more (the caller has checked that), and what no other image shares with
    /// it.
    pub async fn remove(&self, id: &ImageId) -> Result<Removed, Error> {
        let claim = self.shared.claims.claim(id.digest());
        let guard = claim.lock().await;
        let (shared, id) = (self.shared.clone(), *id);
        let removed = blocking(move || remove(&shared, id)).await;
        drop(guard);
        removed
    }
}

fn remove(shared: &Shared, id: ImageId) -> Result<Removed, Error> {
    let layout = &shared.layout;
    let held = shared
        .held(&id)
        .ok_or_else(|| Error::NoSuchImage { id: id.to_string() })?;
    // Without its record it's gone; the rest is only space, which opening the store would find as well.
    layout::remove_file(&layout.record(&id))?;
    layout::sync_dir(&layout.images())?;
    let others: Vec<Held> = {
        let mut images = shared
            .images
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        images.remove(&id);
        images.values().cloned().collect()
    };
    let mut freed_bytes = layout::remove_file(&layout.root(&id))?;
    freed_bytes += layout::remove_file(&layout.pieces(&id))?;

    let needed: BTreeSet<Digest> = others
        .iter()
        .flat_map(|other| blobs(&other.image.id, &other.record))
        .collect();
    for blob in blobs(&id, &held.record).difference(&needed) {
        // The image's own claim is ours.
        let removed = if blob == id.digest() {
            Some(layout::remove_file(&layout.blob(blob)))
        } else {
            shared
                .claims
                .unless_claimed(blob, || layout::remove_file(&layout.blob(blob)))
        };
        freed_bytes += removed.transpose()?.unwrap_or(0);
    }
    let kept: BTreeSet<&Digest> = others
        .iter()
        .flat_map(|other| other.image.diff_ids())
        .collect();
    let layers = held
        .image
        .diff_ids()
        .iter()
        .filter(|layer| !kept.contains(layer))
        .copied();
    tracing::info!(image = %id, freed_bytes, "image removed");
    Ok(Removed {
        id,
        layers: layers.collect(),
        freed_bytes,
    })
}

/// Everything in `blobs/` that an image needs.
fn blobs(id: &ImageId, record: &Record) -> BTreeSet<Digest> {
    let layers = record.layers.iter().map(|layer| layer.digest);
    layers.chain([*id.digest(), record.manifest]).collect()
}

/// Drops what listing an image has left that failed in the middle: a full disk must not become fuller by it.
pub(super) fn drop_unlisted(shared: &Shared, id: &ImageId, manifest: &Digest) {
    let layout = &shared.layout;
    let parts = [
        // The record first, as ever.
        layout.record(id),
        layout.root(id),
        layout.pieces(id),
        layout.blob(id.digest()),
        layout.blob(manifest),
    ];
    for part in parts {
        if let Err(err) = layout::remove_file(&part) {
            tracing::warn!(image = %id, %err, "a part of an image that failed could not be removed");
        }
    }
}

/// Drops what a failed pull or load has put into `blobs/` and no image needs.
pub(super) fn drop_unneeded(shared: &Shared, digests: &[Digest]) {
    let needed: BTreeSet<Digest> = {
        let images = shared.images.read().unwrap_or_else(PoisonError::into_inner);
        images
            .iter()
            .flat_map(|(id, held)| blobs(id, &held.record))
            .collect()
    };
    for digest in digests.iter().filter(|digest| !needed.contains(digest)) {
        let path = shared.layout.blob(digest);
        let removed = shared
            .claims
            .unless_claimed(digest, || layout::remove_file(&path));
        if let Some(Err(err)) = removed {
            tracing::warn!(%digest, %err, "a layer of no image could not be removed");
        }
    }
}

/// Reads the images and removes what belongs to none of them.
pub(super) fn recover(layout: &Layout) -> Result<BTreeMap<ImageId, Held>, Error> {
    let mut images = BTreeMap::new();
    let mut damaged = false;
    for path in files(&layout.images())? {
        let id = path.file_name().and_then(OsStr::to_str).and_then(|name| {
            format!("sha256:{}", name.strip_suffix(".json")?)
                .parse::<ImageId>()
                .ok()
        });
        match id.map(|id| record::read(layout, &id)) {
            Some(Ok(held)) => {
                images.insert(held.image.id, held);
            }
            // The disk is damaged, or from the future. What can't be used isn't listed, and isn't destroyed either.
            Some(Err(err)) => {
                tracing::error!(record = %path.display(), %err, "an image can't be used; pull it again");
                damaged = true;
            }
            None => {}
        }
    }
    if damaged {
        return Ok(images);
    }
    let needed: BTreeSet<PathBuf> = images
        .iter()
        .flat_map(|(id, held)| {
            let blobs = blobs(id, &held.record);
            let blobs: Vec<_> = blobs.iter().map(|blob| layout.blob(blob)).collect();
            let root = [layout.root(id), layout.pieces(id)];
            blobs.into_iter().chain(root)
        })
        .collect();
    for dir in [layout.roots(), layout.blobs()] {
        for path in files(&dir)? {
            if !needed.contains(&path) {
                let freed_bytes = layout::remove_file(&path)?;
                tracing::info!(file = %path.display(), freed_bytes, "removed what no image needs");
            }
        }
    }
    Ok(images)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let action = || format!("listing {}", dir.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io(action()))? {
        paths.push(entry.map_err(Error::io(action()))?.path());
    }
    paths.sort();
    Ok(paths)
}
