//! Manifests and manifest lists (OCI image specification, manifest.md and image-index.md; docker's schema 2).

use oci_distribution::manifest::{ImageIndexEntry, OciDescriptor, OciImageIndex, OciImageManifest};
use serde_json::Value;

use super::Registry;
use crate::{
    Digest, Error,
    store::{MAX_DOCUMENT_BYTES, MAX_LAYERS},
};

/// Lists that lead to one another, at most. A builder that adds attestations, and a tool that joins such images into one for
/// several platforms, make two.
const MAX_NESTED_LISTS: u32 = 4;

/// What we ask a registry for.
const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// A reference to a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
}

/// A manifest, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageManifest {
    pub(crate) config: Descriptor,
    /// Lowest first.
    pub(crate) layers: Vec<Descriptor>,
}

/// What a reference can lead to.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Manifest(ImageManifest),
    /// Of several platforms.
    Index(Box<OciImageIndex>),
}

/// What a reference has led to.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// Of the document that the reference names.
    pub(crate) digest: Digest,
    pub(crate) manifest_json: Vec<u8>,
    pub(crate) config: Digest,
    config_size_bytes: u64,
    pub(crate) layers: Vec<Descriptor>,
}

impl Registry {
    /// Finds the manifest for linux/amd64.
    pub(crate) async fn resolve(&self) -> Result<Resolved, Error> {
        let name = self.reference.familiar();
        let asked = match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => digest,
            (None, tag) => tag.unwrap_or("latest"),
        };
        let expected = self.reference.digest().map(str::parse).transpose()?;
        let (mut manifest_json, digest) = self.manifest(asked, expected).await?;
        let mut lists = 0;
        let manifest = loop {
            match parse_manifest(&manifest_json, &name)? {
                Document::Manifest(manifest) => break manifest,
                Document::Index(index) => {
                    lists += 1;
                    let chosen = select_platform(&index, lists, &name)?;
                    let found = self.manifest(&chosen.to_string(), Some(chosen)).await?;
                    manifest_json = found.0;
                }
            }
        };
        Ok(Resolved {
            digest,
            manifest_json,
            config: manifest.config.digest,
            config_size_bytes: manifest.config.size_bytes,
            layers: manifest.layers,
        })
    }

    async fn manifest(
        &self,
        asked: &str,
        expected: Option<Digest>,
    ) -> Result<(Vec<u8>, Digest), Error> {
        let path = format!("manifests/{asked}");
        let response = self.get(&path, Some(ACCEPT_MANIFESTS), 0).await?;
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        // OCI distribution specification, "Pulling manifests": what the registry calls it must be what it is.
        let promised = response.headers().get("docker-content-digest");
        let promised = promised.and_then(|value| value.to_str().ok()?.parse().ok());
        let json = self
            .read(response, MAX_DOCUMENT_BYTES, "the manifest")
            .await?;
        let actual = Digest::of(&json);
        match expected.or(promised) {
            Some(expected) if expected != actual => Err(Error::DigestMismatch {
                what: format!("manifest of {}", self.reference.familiar()),
                expected: expected.to_string(),
                actual: actual.to_string(),
            }),
            _ => Ok((json, actual)),
        }
    }

    /// The config document, verified.
    pub(crate) async fn config(&self, resolved: &Resolved) -> Result<Vec<u8>, Error> {
        let what = format!("config of {}", self.reference.familiar());
        if resolved.config_size_bytes > MAX_DOCUMENT_BYTES {
            return Err(Error::TooLarge {
                what,
                limit: format!("{MAX_DOCUMENT_BYTES} bytes"),
            });
        }
        let response = self
            .get(&format!("blobs/{}", resolved.config), None, 0)
            .await?;
        if !response.status().is_success() {
            return Err(self.blob_refused(response, &resolved.config).await);
        }
        let json = self.read(response, MAX_DOCUMENT_BYTES, &what).await?;
        let actual = Digest::of(&json);
        if actual != resolved.config {
            return Err(Error::DigestMismatch {
                what,
                expected: resolved.config.to_string(),
                actual: actual.to_string(),
            });
        }
        Ok(json)
    }
}

/// Tells what a document is and checks what will be relied on.
pub(crate) fn parse_manifest(json: &[u8], name: &str) -> Result<Document, Error> {
    let what = || format!("manifest of {name}");
    let mut value: Value =
        serde_json::from_slice(json).map_err(|err| Error::malformed(what(), err.to_string()))?;
    fill_in_media_types(&mut value);
    let is_index = value.get("manifests").is_some();
    if is_index && value.get("layers").is_some() {
        // One document that two readers understand differently.
        return Err(Error::malformed(
            what(),
            "it is a manifest and a list at once",
        ));
    }
    let bad = |err: serde_json::Error| Error::malformed(what(), err.to_string());
    if is_index {
        return Ok(Document::Index(Box::new(
            serde_json::from_value(value).map_err(bad)?,
        )));
    }
    if value.get("layers").is_none() {
        let media_type = value
            .get("mediaType")
            .and_then(Value::as_str)
            .unwrap_or("schema 1");
        return Err(Error::UnsupportedMediaType {
            what: what(),
            media_type: media_type.chars().take(100).collect(),
        });
    }
    let manifest: OciImageManifest = serde_json::from_value(value).map_err(bad)?;
    check_config_type(&manifest.config, name)?;
    let config = descriptor(&manifest.config, name)?;
    if manifest.layers.len() > MAX_LAYERS {
        return Err(Error::TooLarge {
            what: format!("the number of layers of {name}"),
            limit: MAX_LAYERS.to_string(),
        });
    }
    let layers = manifest
        .layers
        .iter()
        .map(|layer| {
            check_layer_type(&layer.media_type, name)?;
            descriptor(layer, name)
        })
        .collect::<Result<_, _>>()?;
    Ok(Document::Manifest(ImageManifest { config, layers }))
}

/// What a list has for this node: a manifest, or one more list. It is the `nested`th, from 1, on the way.
pub(crate) fn select_platform(
    index: &OciImageIndex,
    nested: u32,
    name: &str,
) -> Result<Digest, Error> {
    if nested > MAX_NESTED_LISTS {
        return Err(Error::malformed(
            format!("manifest list of {name}"),
            format!("more than {MAX_NESTED_LISTS} lists lead to one another"),
        ));
    }
    let entries = || {
        let told = index.manifests.iter().map(|entry| (entry, platform(entry)));
        told.filter(|(_, platform)| platform.as_deref() != Some(ATTESTATION))
    };
    let ours: Vec<_> = entries()
        .filter(|(_, platform)| platform.as_deref() == Some(OURS))
        .map(|(entry, _)| entry)
        .collect();
    // Variants (v2, v3) ask for more of the processor than a virtual one may have.
    let plain = ours.iter().find(|entry| {
        let platform = entry.platform.as_ref();
        let variant = platform.and_then(|platform| platform.variant.as_deref());
        variant.is_none_or(|variant| matches!(variant, "" | "v1"))
    });
    let mut unsaid = entries().filter(|(_, platform)| platform.is_none());
    let chosen = match (plain.or(ours.first()), unsaid.next(), unsaid.next()) {
        (Some(found), ..) => found,
        // One that doesn't say; its config will.
        (None, Some((only, _)), None) => only,
        _ => {
            let offered: Vec<_> = entries().filter_map(|(_, platform)| platform).collect();
            return Err(Error::UnsupportedPlatform {
                reference: name.to_owned(),
                offered: offered.join(", ").chars().take(200).collect(),
            });
        }
    };
    chosen.digest.parse()
}

/// What this node runs.
const OURS: &str = "linux/amd64";

/// Builders say this of what they attest about another entry.
const ATTESTATION: &str = "unknown/unknown";

fn platform(entry: &ImageIndexEntry) -> Option<String> {
    let platform = entry.platform.as_ref()?;
    let told = format!("{}/{}", platform.os, platform.architecture);
    // Empty is what some write who mean nothing.
    (told != "/").then_some(told)
}

/// Whether an entry of a layout's list, which is of many images, is for this node; what doesn't say may be.
pub(crate) fn may_run_here(entry: &ImageIndexEntry) -> bool {
    platform(entry).is_none_or(|platform| platform == OURS)
}

fn descriptor(descriptor: &OciDescriptor, name: &str) -> Result<Descriptor, Error> {
    let size_bytes = u64::try_from(descriptor.size).map_err(|_| {
        Error::malformed(format!("manifest of {name}"), "a blob's size is negative")
    })?;
    Ok(Descriptor {
        digest: descriptor.digest.parse()?,
        size_bytes,
    })
}

fn check_config_type(config: &OciDescriptor, name: &str) -> Result<(), Error> {
    match config.media_type.as_str() {
        "application/vnd.oci.image.config.v1+json"
        | "application/vnd.docker.container.image.v1+json" => Ok(()),
        // Of registries and builders that didn't know better; dockerd takes them, and what it is shows when it's read.
        "" | "application/octet-stream" | "application/json" | "text/html" => Ok(()),
        other => Err(Error::UnsupportedMediaType {
            what: format!("the config of {name}, which is an artifact rather than an image"),
            media_type: other.chars().take(100).collect(),
        }),
    }
}

/// What a layer is packed with is told by its own bytes, and that it is the one that the config means by its digest. So, as
/// dockerd does, this refuses only what is of no family that has layers; and what is encrypted (OCI image specification,
/// layer.md). A foreign layer is asked of its registry like any other: the `urls` that a manifest gives would let a
/// stranger say whom this node talks to.
fn check_layer_type(media_type: &str, name: &str) -> Result<(), Error> {
    let may_be_layer = ["application/vnd.oci.", "application/vnd.docker."]
        .iter()
        .any(|family| media_type.starts_with(family));
    match media_type {
        "" | "application/octet-stream" => Ok(()),
        kind if may_be_layer && !kind.ends_with("+encrypted") => Ok(()),
        _ => Err(Error::UnsupportedMediaType {
            what: format!("a layer of {name}"),
            media_type: media_type.chars().take(100).collect(),
        }),
    }
}

/// Says nothing where a document doesn't say what it refers to, as dockerd reads it.
fn fill_in_media_types(document: &mut Value) {
    if let Some(config) = document.get_mut("config").and_then(Value::as_object_mut) {
        config.entry("mediaType").or_insert_with(|| "".into());
    }
    for list in ["layers", "manifests"] {
        let entries = document.get_mut(list).and_then(Value::as_array_mut);
        for entry in entries
            .into_iter()
            .flatten()
            .filter_map(Value::as_object_mut)
        {
            entry.entry("mediaType").or_insert_with(|| "".into());
        }
    }
}
