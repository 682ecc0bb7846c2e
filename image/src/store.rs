//! The content store: one directory, one owner.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::io::AsyncRead;

use crate::{Credentials, Error, Image, ImageId, ImageRef, Loaded, Progress, Pulled, Removed};

/// Layers fetched at the same time: what docker does by default; more only helps registries that throttle per
/// connection.
const DEFAULT_PARALLEL_LAYERS: usize = 3;

/// How the store behaves.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Registries (`host:port`, as in references) that are spoken to without TLS.
    pub insecure_registries: Vec<String>,
    /// Layers fetched at the same time, at least 1.
    pub parallel_layers: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            insecure_registries: Vec::new(),
            parallel_layers: DEFAULT_PARALLEL_LAYERS,
        }
    }
}

/// A content store under one directory. One process owns it; clones share it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    #[expect(dead_code)]
    options: StoreOptions,
}

impl Store {
    /// Opens the store, making the directory if needed, and clears what a power cut left half done.
    pub async fn open(dir: &Path, options: StoreOptions) -> Result<Self, Error> {
        Ok(Self {
            shared: Arc::new(Shared {
                dir: dir.to_owned(),
                options,
            }),
        })
    }

    /// Pulls for linux/amd64. `progress` hears what docker would show.
    pub async fn pull(
        &self,
        reference: &ImageRef,
        auth: &Credentials,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Pulled, Error> {
        let _ = (auth, progress);
        Err(Error::NotFound {
            reference: reference.familiar(),
        })
    }

    /// `docker load`: the body is a tar of `docker save` or of an OCI layout, plain or compressed by gzip or zstd.
    pub async fn load(
        &self,
        body: impl AsyncRead + Send + Unpin,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Vec<Loaded>, Error> {
        let _ = (body, progress);
        Err(Error::malformed("archive", "not read yet"))
    }

    /// One image; `None` if the store doesn't have it.
    pub async fn image(&self, id: &ImageId) -> Result<Option<Image>, Error> {
        let _ = id;
        Ok(None)
    }

    /// All images, by id.
    pub async fn list(&self) -> Result<Vec<Image>, Error> {
        Ok(Vec::new())
    }

    /// Removes an image that nobody uses any more; the caller has checked that.
    pub async fn remove(&self, id: &ImageId) -> Result<Removed, Error> {
        Err(Error::NoSuchImage { id: id.to_string() })
    }

    /// The image's root file system, an EROFS file whose size is a multiple of 4096. Present for each image listed.
    pub fn root_file(&self, id: &ImageId) -> PathBuf {
        self.shared
            .dir
            .join("roots")
            .join(format!("{}.erofs", id.hex()))
    }
}
