//! Everything that a store has of an image but its layers and its root file system.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Contents, Part, Source,
    received::{PATIENCE, Received, lied},
};
use crate::{
    Digest, Error, Image, ImageConfig, ImageId,
    pieces::Pieces,
    registry::{Document, parse_manifest},
    store::{LayerRecord, MAX_CONFIG_BYTES, MAX_DOCUMENT_BYTES, MAX_LAYERS, read_config},
};

/// Bytes of the list of layers; one takes 200.
const MAX_LIST_BYTES: u64 = 512 * MAX_LAYERS as u64;

/// A layer as another store says that it came.
#[derive(Debug, Serialize, Deserialize)]
struct Layer {
    digest: Digest,
    size_bytes: u64,
    diff_id: Digest,
}

/// An image without its bytes, verified as far as that can be done: see [`Description::receive`].
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) config: ImageConfig,
    pub(crate) config_json: Vec<u8>,
    pub(crate) manifest_json: Vec<u8>,
    /// None of them is [`LayerRecord::seen`].
    pub(crate) layers: Vec<LayerRecord>,
    pub(crate) pieces: Pieces,
}

/// What goes over the wire.
pub(crate) fn to_bytes(
    layers: &[LayerRecord],
    config_json: &[u8],
    manifest_json: &[u8],
    pieces: &Pieces,
) -> Bytes {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| Layer {
            digest: layer.digest,
            size_bytes: layer.size_bytes,
            diff_id: layer.diff_id,
        })
        .collect();
    let layers =
        serde_json::to_vec(&layers).unwrap_or_else(|_| unreachable!("plain data has a JSON form"));
    let mut bytes = Vec::new();
    for document in [layers.as_slice(), config_json, manifest_json] {
        // All of them have limits of some megabytes.
        bytes.extend_from_slice(&(document.len() as u32).to_le_bytes());
        bytes.extend_from_slice(document);
    }
    bytes.extend_from_slice(pieces.list());
    bytes.extend_from_slice(Digest::of(&bytes).as_bytes());
    bytes.into()
}

/// What an image is that another store has, verified; nothing of it is kept. `contents` are told by whoever knows them, as for an import;
/// [`Error::SourceFailed`] and [`Error::SourceLied`] are that store's fault. How much of the disk it takes there is not among it: the image
/// counts as large as its root file system.
pub async fn describe(
    image: &ImageId,
    contents: &Contents,
    source: &dyn Source,
) -> Result<Image, Error> {
    let part = Part::Description { image: *image };
    let mut received = Received::of(source, part, PATIENCE).await?;
    let described = Description::receive(&mut received, image, contents).await?;
    Ok(Image {
        id: *image,
        config: described.config,
        manifest_digest: Digest::of(&described.manifest_json),
        size_bytes: contents.size_bytes,
        disk_bytes: contents.root_bytes,
    })
}

impl Description {
    /// Reads one, and verifies: the config by the image's id, the pieces by what its contents must be, and that layers, manifest and
    /// config speak of the same things. That a layer's digest is that of its diff id can't be seen without the layer.
    pub(crate) async fn receive(
        received: &mut Received,
        image: &ImageId,
        contents: &Contents,
    ) -> Result<Self, Error> {
        received.hash();
        let layers = received
            .document("a list of layers", MAX_LIST_BYTES)
            .await?;
        let config_json = received
            .document("a config", MAX_CONFIG_BYTES as u64)
            .await?;
        let manifest_json = received.document("a manifest", MAX_DOCUMENT_BYTES).await?;
        let list = received
            .take(Pieces::list_bytes(contents.root_bytes))
            .await?;

        let whole = received.hashed();
        if received.take(32).await? != whole.as_bytes() {
            return Err(received.lied("it was damaged on its way"));
        }

        let lied = |reason: String| lied(&Part::Description { image: *image }, reason);
        let actual = Digest::of(&config_json);
        if actual != *image.digest() {
            return Err(lied(format!("its config has the digest {actual}")));
        }
        let (_, config) = read_config(&config_json, &image.to_string())?;
        let layers = read_layers(&layers, &config).map_err(lied)?;
        check_manifest(&manifest_json, image, &layers).map_err(lied)?;
        let pieces = Pieces::new(contents.root_bytes, list.into());
        let pieces = pieces
            .filter(|pieces| pieces.root() == contents.root)
            .ok_or_else(|| lied("it has another root file system".to_owned()))?;
        Ok(Self {
            config,
            config_json,
            manifest_json,
            layers,
            pieces,
        })
    }
}

/// Any bytes as a list of layers, a config and a manifest, a line for each; no input could be made to hash to something.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (layers, config, manifest) = (line(), line(), line());
    let Ok((image, config)) = read_config(config, "image") else {
        return;
    };
    if let Ok(layers) = read_layers(layers, &config) {
        assert!(layers.iter().all(|layer| !layer.seen));
        let _ = check_manifest(manifest, &image, &layers);
    }
}

fn read_layers(json: &[u8], config: &ImageConfig) -> Result<Vec<LayerRecord>, String> {
    let layers: Vec<Layer> =
        serde_json::from_slice(json).map_err(|err| format!("its list of layers: {err}"))?;
    let told = layers.iter().map(|layer| &layer.diff_id);
    if !told.eq(&config.rootfs.diff_ids) {
        return Err("its layers are not those of its config".to_owned());
    }
    let records = layers.into_iter().map(|layer| LayerRecord {
        digest: layer.digest,
        size_bytes: layer.size_bytes,
        diff_id: layer.diff_id,
        seen: false,
    });
    Ok(records.collect())
}

fn check_manifest(json: &[u8], image: &ImageId, layers: &[LayerRecord]) -> Result<(), String> {
    let manifest = match parse_manifest(json, &image.to_string()) {
        Ok(Document::Manifest(manifest)) => manifest,
        Ok(Document::Index(_)) => return Err("its manifest is a list of manifests".to_owned()),
        Err(err) => return Err(err.to_string()),
    };
    let named = manifest.layers.iter().map(|layer| layer.digest);
    if manifest.config.digest != *image.digest()
        || !named.eq(layers.iter().map(|layer| layer.digest))
    {
        return Err("its manifest is another image's".to_owned());
    }
    Ok(())
}
