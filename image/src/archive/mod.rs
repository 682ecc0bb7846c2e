//! Archives of whole images: what `docker save` writes, and OCI layouts (OCI image specification, image-layout.md).
//!
//! An archive is read once, front to back, and its files are put aside under names of ours; only then is it known what
//! they are, because the list of contents may come last.

mod contents;
mod docker;
mod legacy;
mod oci;
mod spool;

use std::path::PathBuf;

use crate::{
    Digest, Error, ImageRef,
    store::{MAX_LAYERS, read_config},
    unpack::LayerFile,
};

use spool::SpooledFile;
pub(crate) use spool::{Spool, spool};

/// Images of one archive. Who saves a whole node has some dozens.
const MAX_IMAGES: usize = 256;

/// Bytes of the configs of an archive's images, which are held in memory until each is loaded.
const MAX_CONFIGS_BYTES: usize = 64 << 20;

/// An image found in an archive.
#[derive(Debug)]
pub(crate) struct FoundImage {
    pub(crate) tags: Vec<ImageRef>,
    pub(crate) config_json: Vec<u8>,
    /// As it came; `None` if the archive has none.
    pub(crate) manifest_json: Option<Vec<u8>>,
    /// Lowest first; `None` for one that is named and isn't there.
    pub(crate) layers: Vec<Option<FoundLayer>>,
}

impl FoundImage {
    fn may_run_here(&self) -> bool {
        !matches!(
            read_config(&self.config_json, ""),
            Err(Error::UnsupportedPlatform { .. })
        )
    }
}

/// A layer found in an archive, which was put aside, or one that the store has kept.
#[derive(Clone, Debug)]
pub(crate) struct FoundLayer {
    pub(crate) path: PathBuf,
    /// Of the file as it is, compressed or not.
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
    /// Whether it was just found to have this digest.
    pub(crate) verified: bool,
}

impl From<&SpooledFile> for FoundLayer {
    fn from(file: &SpooledFile) -> Self {
        Self {
            path: file.path.clone(),
            digest: file.digest,
            size_bytes: file.size_bytes,
            // It was hashed while it was put aside.
            verified: true,
        }
    }
}

impl FoundLayer {
    /// Opens it for unpacking.
    pub(crate) fn open(&self, diff_id: Digest) -> Result<LayerFile, Error> {
        let file = std::fs::File::open(&self.path)
            .map_err(Error::io("opening a layer that was put aside"))?;
        Ok(LayerFile {
            file,
            size_bytes: self.size_bytes,
            diff_id,
            verified: self.verified.then_some(self.digest),
        })
    }
}

/// The images of an archive, by whichever list of contents it has.
pub(crate) fn images(spool: &Spool) -> Result<Vec<FoundImage>, Error> {
    let manifest = spool.document("manifest.json")?;
    let index = spool.document("index.json")?;
    match (manifest, index) {
        (Some(manifest), None) => return docker::images(spool, &manifest),
        (None, Some(index)) => return oci::images(spool, &index),
        // Docker writes both lists. Its own has the names, but of each image what was for the machine that saved it, and
        // nothing of other platforms.
        (Some(manifest), Some(index)) => {
            let images = docker::images(spool, &manifest)?;
            return match images.iter().all(FoundImage::may_run_here) {
                true => Ok(images),
                false => oci::images(spool, &index),
            };
        }
        (None, None) => {}
    }
    if let Some(repositories) = spool.document("repositories")? {
        return legacy::images(spool, &repositories);
    }
    Err(Error::malformed(
        "image archive",
        "it has no manifest.json, index.json or repositories: make it with docker save, or as an OCI layout \
         (docker import is for file system trees)",
    ))
}

/// Adds up what the images of one archive hold in memory.
#[derive(Default)]
struct Held {
    images: usize,
    configs_bytes: usize,
}

impl Held {
    /// Refuses one image too many.
    fn add(&mut self, image: &FoundImage) -> Result<(), Error> {
        self.images += 1;
        check_images(self.images)?;
        let manifest_bytes = image.manifest_json.as_ref().map_or(0, Vec::len);
        self.configs_bytes += image.config_json.len() + manifest_bytes;
        if image.layers.len() > MAX_LAYERS {
            return Err(too_large(
                "the number of layers of an image",
                MAX_LAYERS.to_string(),
            ));
        }
        if self.configs_bytes > MAX_CONFIGS_BYTES {
            let limit = format!("{MAX_CONFIGS_BYTES} bytes");
            return Err(too_large("the configs", limit));
        }
        Ok(())
    }
}

fn check_images(count: usize) -> Result<(), Error> {
    if count > MAX_IMAGES {
        return Err(too_large("the number of images", MAX_IMAGES.to_string()));
    }
    Ok(())
}

fn too_large(what: &str, limit: String) -> Error {
    Error::TooLarge {
        what: format!("{what} of the image archive"),
        limit,
    }
}
