//! From verified layers to an image that is listed; pull and load end here.

use serde_json::json;
use tempfile::NamedTempFile;
use tokio::sync::mpsc::{Receiver, Sender};

use super::{
    Shared,
    record::{self, LayerRecord, Record, RootRecord},
    remove,
};
use crate::{
    Digest, Error, ImageConfig, ImageId, LayerState, Progress,
    pieces::Pieces,
    unpack::{self, LayerFile, Unpacker},
};

/// Bytes of any document: docker's limit for manifests (OCI distribution specification, "Pushing Manifests", asks for no less
/// of a registry).
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// Bytes of a config document. It stays in memory, parsed, as long as the image is there; the largest in use, of builders
/// that write bills of materials into labels, have some hundred kilobytes.
pub(crate) const MAX_CONFIG_BYTES: usize = 1 << 20;

/// Layers of an image: overlayfs never took more than 500, docker takes 127.
pub(crate) const MAX_LAYERS: usize = 512;

/// What an image is made of, besides its layers' bytes.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) id: ImageId,
    pub(super) config: ImageConfig,
    pub(super) config_json: Vec<u8>,
    pub(super) manifest_json: Vec<u8>,
    /// Lowest first; one for each diff id of the config.
    pub(super) layers: Vec<LayerRecord>,
}

/// Reads a config document and checks that this node can run it. Returns the image's id.
pub(crate) fn read_config(json: &[u8], reference: &str) -> Result<(ImageId, ImageConfig), Error> {
    if json.len() > MAX_CONFIG_BYTES {
        return Err(Error::TooLarge {
            what: format!("the config of {reference}"),
            limit: format!("{MAX_CONFIG_BYTES} bytes"),
        });
    }
    let config = ImageConfig::from_json(json)
        .map_err(|err| Error::malformed(format!("config of {reference}"), err.to_string()))?;
    // OCI image specification, config.md, "Properties": rootfs.type is "layers" and nothing else. Who leaves it out means it.
    let rootfs = &config.rootfs;
    if rootfs.kind != "layers" && (!rootfs.kind.is_empty() || rootfs.diff_ids.is_empty()) {
        return Err(Error::malformed(
            format!("config of {reference}"),
            "it names no layers (rootfs of type \"layers\"), so it is no image's",
        ));
    }
    let runs_here = |value: &str, wanted| value.is_empty() || value == wanted;
    if !runs_here(&config.os, "linux") || !runs_here(&config.architecture, "amd64") {
        return Err(Error::UnsupportedPlatform {
            reference: reference.to_owned(),
            offered: format!("{}/{}", config.os, config.architecture),
        });
    }
    if config.rootfs.diff_ids.len() > MAX_LAYERS {
        return Err(Error::TooLarge {
            what: format!("the number of layers of {reference}"),
            limit: MAX_LAYERS.to_string(),
        });
    }
    Ok((Digest::of(json).into(), config))
}

/// A manifest (OCI image specification, manifest.md) for an image that came without one.
pub(super) fn make_manifest(config_json: &[u8], layers: &[(LayerRecord, &str)]) -> Vec<u8> {
    let layers: Vec<_> = layers
        .iter()
        .map(|(layer, media_type)| {
            json!({
                "mediaType": media_type,
                "digest": layer.digest.to_string(),
                "size": layer.size_bytes,
            })
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(config_json).to_string(),
            "size": config_json.len(),
        },
        "layers": layers,
    });
    manifest.to_string().into_bytes()
}

/// A layer that is ready to be unpacked: its file is wholly there.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) layer: LayerFile,
    /// How progress names it; `None`: nobody wants to hear of it.
    pub(super) short_id: Option<String>,
}

/// A finished root file system.
pub(super) struct Built {
    pub(super) root: NamedTempFile,
    pub(super) pieces: Pieces,
    /// Docker's size of the image.
    pub(super) size_bytes: u64,
}

/// Which words progress uses.
#[derive(Clone, Copy, Debug)]
pub(super) enum Words {
    Pull,
    Load,
}

/// A root file system in the making. Between layers it takes no thread.
pub(super) struct Building {
    unpacker: Unpacker,
    root: NamedTempFile,
    words: Words,
    events: Sender<Progress>,
}

impl Building {
    pub(super) fn begin(
        shared: &Shared,
        words: Words,
        events: Sender<Progress>,
    ) -> Result<Self, Error> {
        let root = shared.layout.temporary()?;
        let file = root
            .reopen()
            .map_err(Error::io("opening a root file system"))?;
        Ok(Self {
            unpacker: Unpacker::new(file),
            root,
            words,
            events,
        })
    }

    /// Puts a layer on top. The work ends early where nobody listens any more.
    pub(super) async fn add(mut self, shared: &Shared, ready: Ready) -> Result<Self, Error> {
        let work = move || {
            let Ready { layer, short_id } = ready;
            let told = Told {
                words: self.words,
                short_id,
                total: layer.size_bytes,
                events: &self.events,
            };
            self.unpacker
                .add(&layer, &mut |current| told.tell(current))?;
            told.tell(layer.size_bytes);
            told.complete();
            Ok(self)
        };
        shared.pool.run(work).await
    }

    pub(super) async fn finish(self, shared: &Shared, id: ImageId) -> Result<Built, Error> {
        let work = move || {
            let (pieces, size_bytes) = self.unpacker.finish(&id)?;
            Ok(Built {
                root: self.root,
                pieces,
                size_bytes,
            })
        };
        shared.pool.run(work).await
    }
}

/// Compares the plain bytes of a layer with what they must be, and keeps nothing of them.
pub(super) async fn verify(
    shared: &Shared,
    layer: LayerFile,
    events: Sender<Progress>,
) -> Result<(), Error> {
    let work = move || unpack::verify(&layer, &mut |_| !events.is_closed());
    shared.pool.run(work).await
}

/// How far a layer is, in the words of whoever asked.
struct Told<'a> {
    words: Words,
    short_id: Option<String>,
    total: u64,
    events: &'a Sender<Progress>,
}

impl Told<'_> {
    /// False: nobody listens any more.
    fn tell(&self, current: u64) -> bool {
        let total = self.total;
        self.send(match self.words {
            Words::Pull => LayerState::Extracting { current, total },
            Words::Load => LayerState::Loading { current, total },
        })
    }

    fn complete(&self) {
        if let Words::Pull = self.words {
            self.send(LayerState::PullComplete);
        }
    }

    fn send(&self, state: LayerState) -> bool {
        match self.short_id.clone() {
            Some(id) => self
                .events
                .blocking_send(Progress::Layer { id, state })
                .is_ok(),
            None => !self.events.is_closed(),
        }
    }
}

/// Lists the image: its documents, its root file system, and last the record that makes it exist; all of it or nothing. The
/// caller has locked the image's claim, and knows that it isn't there.
pub(super) fn commit(shared: &Shared, plan: Plan, built: Built) -> Result<(), Error> {
    let (id, manifest) = (plan.id, Digest::of(&plan.manifest_json));
    list(shared, plan, manifest, built)
        .inspect_err(|_| remove::drop_unlisted(shared, &id, &manifest))
}

fn list(shared: &Shared, plan: Plan, manifest: Digest, built: Built) -> Result<(), Error> {
    let layout = &shared.layout;
    let Built {
        root,
        pieces,
        size_bytes,
    } = built;
    layout.keep_bytes(&plan.config_json, &layout.blob(plan.id.digest()))?;
    layout.keep_bytes(&plan.manifest_json, &layout.blob(&manifest))?;
    layout.keep_bytes(pieces.list(), &layout.pieces(&plan.id))?;
    layout.keep(root, &layout.root(&plan.id))?;
    let root = RootRecord::from(&pieces);
    let record = Record::new(manifest, size_bytes, plan.layers, root);
    layout.keep_bytes(&record.to_json(), &layout.record(&plan.id))?;
    let held = record::hold(layout, plan.id, plan.config, record)?;
    tracing::info!(image = %plan.id, size_bytes, disk_bytes = held.image.disk_bytes, "image stored");
    shared.insert(held);
    Ok(())
}

/// Runs `work` in a thread that may block: short work of ours on the disk, nothing whose length a stranger sets.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|err| {
            tracing::error!(%err, "a thread of the image store failed");
            Err(Error::malformed(
                "image",
                "it could not be processed; the node's log says why",
            ))
        })
}

/// Hands events to `progress` until `work` is done, and then the rest.
pub(super) async fn relay<T>(
    work: impl Future<Output = T>,
    mut events: Receiver<Progress>,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            Some(event) = events.recv() => progress(event),
            result = &mut work => {
                while let Ok(event) = events.try_recv() {
                    progress(event);
                }
                return result;
            }
        }
    }
}
