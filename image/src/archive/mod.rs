//! Archives of whole images: what `docker save` writes, and OCI layouts (OCI image specification, image-layout.md).
//!
//! An archive is read once, front to back, and its files are put aside under names of ours; only then is it known what
//! they are, because the list of contents may come last.

mod contents;
mod docker;
mod oci;
mod spool;

use std::path::PathBuf;

use crate::{Digest, Error, ImageRef, unpack::LayerFile};

pub(crate) use spool::{Spool, spool};

/// An image found in an archive.
#[derive(Debug)]
pub(crate) struct FoundImage {
    pub(crate) tags: Vec<ImageRef>,
    pub(crate) config_json: Vec<u8>,
    /// As it came; `None` if the archive has none.
    pub(crate) manifest_json: Option<Vec<u8>>,
    /// Lowest first.
    pub(crate) layers: Vec<FoundLayer>,
}

/// A layer found in an archive: a file that was put aside.
#[derive(Clone, Debug)]
pub(crate) struct FoundLayer {
    pub(crate) path: PathBuf,
    /// Of the file as it is, compressed or not.
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
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
            // It was hashed while it was put aside.
            verified: Some(self.digest),
        })
    }
}

/// The images of an archive, by whichever list of contents it has.
pub(crate) fn images(spool: &Spool) -> Result<Vec<FoundImage>, Error> {
    // Docker writes both lists; its own has the names.
    if let Some(manifest) = spool.document("manifest.json")? {
        return docker::images(spool, &manifest);
    }
    if let Some(index) = spool.document("index.json")? {
        return oci::images(spool, &index);
    }
    Err(Error::malformed(
        "image archive",
        "it has neither manifest.json nor index.json: make it with docker save, or as an OCI layout \
         (docker import is for file system trees)",
    ))
}
