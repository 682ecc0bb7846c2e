//! The OCI layout's list of contents: `index.json`.

use std::collections::BTreeMap;

use oci_distribution::manifest::{ImageIndexEntry, OciImageIndex};

use super::{
    FoundImage, FoundLayer, Held,
    spool::{self, Spool},
};
use crate::{
    Digest, Error, ImageRef,
    registry::{Document, parse_manifest, select_platform},
};

/// Where containerd writes the whole name.
const FULL_NAME: &str = "io.containerd.image.name";
/// Where the specification has the tag, and some tools the whole name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// How errors name what is being read.
const WHAT: &str = "the OCI layout";

pub(super) fn images(spool: &Spool, index: &[u8]) -> Result<Vec<FoundImage>, Error> {
    let index: OciImageIndex = serde_json::from_slice(index)
        .map_err(|err| Error::malformed("index.json of the image archive", err.to_string()))?;
    let (mut images, mut held) = (Vec::<FoundImage>::new(), Held::default());
    let (ours, others): (Vec<_>, Vec<_>) = index
        .manifests
        .iter()
        .partition(|entry| may_run_here(entry));
    if ours.is_empty() && !others.is_empty() {
        // Says what there is instead.
        select_platform(&index, WHAT)?;
    }
    for entry in ours {
        let name = name(entry.annotations.as_ref());
        // image-layout.md, "Content": a blob lies under the digest that it has.
        let digest: Digest = entry.digest.parse()?;
        // One image with several names has as many entries.
        let image = image(spool, &digest, true)?;
        held.add(&image)?;
        match images
            .iter_mut()
            .find(|other| other.config_json == image.config_json)
        {
            Some(other) => other.tags.extend(name),
            None => images.push(FoundImage {
                tags: name.into_iter().collect(),
                ..image
            }),
        }
    }
    Ok(images)
}

fn image(spool: &Spool, digest: &Digest, may_be_list: bool) -> Result<FoundImage, Error> {
    let file = spool.blob(digest)?;
    let json = spool::read(file, "a manifest")?;
    let manifest = match parse_manifest(&json, WHAT)? {
        Document::Manifest(manifest) => manifest,
        Document::Index(index) if may_be_list => {
            return image(spool, &select_platform(&index, WHAT)?, false);
        }
        Document::Index(_) => {
            return Err(Error::malformed(
                WHAT,
                "a manifest list leads to another list",
            ));
        }
    };
    let config = spool.blob(&manifest.config.digest)?;
    let layers = manifest
        .layers
        .iter()
        .map(|layer| {
            let file = spool.blob(&layer.digest)?;
            Ok(FoundLayer {
                path: file.path.clone(),
                digest: file.digest,
                size_bytes: file.size_bytes,
            })
        })
        .collect::<Result<_, Error>>()?;
    Ok(FoundImage {
        tags: Vec::new(),
        config_json: spool::read(config, "a config")?,
        manifest_json: Some(json),
        layers,
    })
}

/// Archives for several platforms are loaded as far as they are for this one.
fn may_run_here(entry: &ImageIndexEntry) -> bool {
    entry.platform.as_ref().is_none_or(|platform| {
        platform.os.to_string() == "linux" && platform.architecture.to_string() == "amd64"
    })
}

fn name(annotations: Option<&BTreeMap<String, String>>) -> Option<ImageRef> {
    let annotations = annotations?;
    if let Some(name) = annotations.get(FULL_NAME) {
        return name.parse().ok();
    }
    // A mere tag doesn't say of what.
    annotations
        .get(REF_NAME)
        .filter(|name| name.contains([':', '/']))
        .and_then(|name| name.parse().ok())
}
