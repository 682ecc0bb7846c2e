//! The OCI layout's list of contents: `index.json`.

use std::collections::BTreeMap;

use super::{
    FoundImage, FoundLayer, Held, check_images,
    spool::{self, Spool},
};
use crate::{
    Digest, Error, ImageRef,
    registry::{Document, may_run_here, parse_manifest, select_platform},
};

/// Where containerd writes the whole name.
const FULL_NAME: &str = "io.containerd.image.name";
/// Where the specification has the tag, and some tools the whole name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// How errors name what is being read.
const WHAT: &str = "the OCI layout";

pub(super) fn images(spool: &Spool, index: &[u8]) -> Result<Vec<FoundImage>, Error> {
    let Document::Index(index) = parse_manifest(index, WHAT)? else {
        return Err(Error::malformed(WHAT, "its index.json lists no manifests"));
    };
    let (mut images, mut held) = (Vec::<FoundImage>::new(), Held::default());
    let (ours, others): (Vec<_>, Vec<_>) = index
        .manifests
        .iter()
        .partition(|entry| may_run_here(entry));
    if ours.is_empty() && !others.is_empty() {
        // Says what there is instead.
        select_platform(&index, 1, WHAT)?;
    }
    check_images(ours.len())?;
    let mut passed_over = None;
    for entry in ours {
        let name = name(entry.annotations.as_ref());
        // image-layout.md, "Content": a blob lies under the digest that it has.
        let digest: Digest = entry.digest.parse()?;
        let image = match image(spool, digest) {
            // Signatures and images for others may lie beside ours.
            Err(err @ (Error::UnsupportedPlatform { .. } | Error::UnsupportedMediaType { .. })) => {
                passed_over.get_or_insert(err);
                continue;
            }
            image => image?,
        };
        // One image with several names has as many entries.
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
    match passed_over {
        Some(err) if images.is_empty() => Err(err),
        _ => Ok(images),
    }
}

fn image(spool: &Spool, mut digest: Digest) -> Result<FoundImage, Error> {
    let mut lists = 0;
    let (json, manifest) = loop {
        let json = spool::read(spool.blob(&digest)?, "a manifest")?;
        match parse_manifest(&json, WHAT)? {
            Document::Manifest(manifest) => break (json, manifest),
            Document::Index(index) => {
                lists += 1;
                digest = select_platform(&index, lists, WHAT)?;
            }
        }
    };
    let config = spool.blob(&manifest.config.digest)?;
    let layers = manifest
        .layers
        .iter()
        .map(|layer| {
            let file = spool.blob(&layer.digest)?;
            Ok(Some(FoundLayer::from(file)))
        })
        .collect::<Result<_, Error>>()?;
    Ok(FoundImage {
        tags: Vec::new(),
        config_json: spool::read(config, "a config")?,
        manifest_json: Some(json),
        layers,
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
