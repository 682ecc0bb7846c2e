//! An image in memory, and the archives and blobs that clients and registries exchange.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::layer::Layer;

/// How a layer is stored in a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Plain,
    /// gzip, what nearly every image has.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Encoding {
    /// The layer's media type in an OCI manifest.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// `tar`, encoded.
    pub fn encode(self, tar: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => tar.to_vec(),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder
                    .write_all(tar)
                    .expect("writing to memory can't fail");
                encoder.finish().expect("writing to memory can't fail")
            }
            Self::Zstd => zstd::encode_all(tar, 1).expect("writing to memory can't fail"),
        }
    }
}

/// An image: its configuration and the uncompressed tars of its layers, lowest first.
#[derive(Clone, Debug)]
pub struct Image {
    config: Value,
    layers: Vec<Vec<u8>>,
}

impl Image {
    /// An image of `layers` whose `config` object (`Cmd`, `Env`, …) is `config`.
    pub fn new(config: Value, layers: Vec<Vec<u8>>) -> Self {
        Self { config, layers }
    }

    /// The same layers under another `config` object.
    pub fn with_config(&self, config: Value) -> Self {
        Self {
            config,
            layers: self.layers.clone(),
        }
    }

    /// The same image with one more layer on top.
    pub fn with_layer(&self, layer: Layer) -> Self {
        let mut image = self.clone();
        image.layers.push(layer.finish());
        image
    }

    /// The layers' tars, lowest first.
    pub fn layers(&self) -> &[Vec<u8>] {
        &self.layers
    }

    /// The image's configuration file; its digest is the image's id.
    pub fn config_file(&self) -> Vec<u8> {
        let mut config = self.config.clone();
        if config.get("Env").is_none() {
            config["Env"] =
                json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
        }
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| digest(layer)).collect();
        let history: Vec<Value> = self
            .layers
            .iter()
            .map(|_| json!({ "created": CREATED, "created_by": "hearth-tests" }))
            .collect();
        json!({
            "architecture": "amd64",
            "os": "linux",
            "created": CREATED,
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": history,
        })
        .to_string()
        .into_bytes()
    }

    /// `sha256:…` of the configuration file.
    pub fn id(&self) -> String {
        digest(&self.config_file())
    }

    /// What `docker save` of 24 and older writes: a folder per layer, and `manifest.json`.
    pub fn docker_archive(&self, tag: &str) -> Vec<u8> {
        let config = self.config_file();
        let config_name = format!("{}.json", hex_of(&config));
        let mut tar = Layer::new();
        let mut names = Vec::new();
        for (position, layer) in self.layers.iter().enumerate() {
            let folder = hex_of(format!("{position} {}", digest(layer)).as_bytes());
            let name = format!("{folder}/layer.tar");
            tar = tar.dir(&folder, 0o755).file(&name, 0o644, layer);
            names.push(name);
        }
        let manifest = json!([{ "Config": config_name, "RepoTags": [tag], "Layers": names }]);
        tar.file(&config_name, 0o644, &config)
            .file("manifest.json", 0o644, manifest.to_string().as_bytes())
            .finish()
    }

    /// What `docker save` of 25 and newer writes: an OCI layout that has `manifest.json` beside it.
    pub fn oci_archive(&self, tag: &str) -> Vec<u8> {
        let config = self.config_file();
        let stored = self.stored(Encoding::Plain);
        let mut tar = Layer::new().dir("blobs", 0o755).dir("blobs/sha256", 0o755);
        let blob = |bytes: &[u8]| format!("blobs/sha256/{}", hex_of(bytes));
        let mut names = Vec::new();
        for layer in &self.layers {
            let name = blob(layer);
            tar = tar.file(&name, 0o644, layer);
            names.push(name);
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": OCI_MANIFEST,
                "digest": digest(&stored.manifest),
                "size": stored.manifest.len(),
                "annotations": {
                    "io.containerd.image.name": format!("docker.io/library/{tag}"),
                    "org.opencontainers.image.ref.name": tag.rsplit(':').next(),
                },
            }],
        });
        let manifest = json!([{ "Config": blob(&config), "RepoTags": [tag], "Layers": names }]);
        tar.file(&blob(&config), 0o644, &config)
            .file(&blob(&stored.manifest), 0o644, &stored.manifest)
            .file("index.json", 0o644, index.to_string().as_bytes())
            .file("manifest.json", 0o644, manifest.to_string().as_bytes())
            .file("oci-layout", 0o644, br#"{"imageLayoutVersion": "1.0.0"}"#)
            .finish()
    }

    /// The manifest and blobs that a registry stores.
    pub fn stored(&self, encoding: Encoding) -> Stored {
        let config = self.config_file();
        let layers: Vec<Vec<u8>> = self
            .layers
            .iter()
            .map(|layer| encoding.encode(layer))
            .collect();
        let described: Vec<Value> = layers
            .iter()
            .map(|layer| {
                json!({ "mediaType": encoding.media_type(), "digest": digest(layer), "size": layer.len() })
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(&config),
                "size": config.len(),
            },
            "layers": described,
        });
        let mut blobs = layers;
        blobs.push(config);
        Stored {
            manifest: manifest.to_string().into_bytes(),
            media_type: OCI_MANIFEST,
            blobs,
        }
    }
}

/// When every test image says that it was made.
const CREATED: &str = "2024-01-01T00:00:00Z";

/// OCI image manifest's media type.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index's media type: a list of manifests by platform.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A manifest with the blobs that it refers to.
pub struct Stored {
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The manifest's media type.
    pub media_type: &'static str,
    /// Layers and configuration.
    pub blobs: Vec<Vec<u8>>,
}

/// `sha256:…` of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex_of(bytes))
}

fn hex_of(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
