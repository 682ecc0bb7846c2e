//! From a reference through lists of manifests to the image for this node; and what leads to none.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use hearth_image::{Credentials, Error, ImageRef, Pulled, StoreOptions};
use hearth_tests::{
    archive::{Encoding, Image, OCI_INDEX, OCI_MANIFEST, digest},
    layer::Layer,
};
use serde_json::{Value, json};
use support::{
    Place,
    fake::{Answer, Fake},
};

/// Documents by their digests.
#[derive(Default)]
struct Documents(BTreeMap<String, Vec<u8>>);

impl Documents {
    /// Keeps one, and gives its descriptor.
    fn add(&mut self, media_type: &str, document: Vec<u8>) -> Value {
        let entry =
            json!({ "mediaType": media_type, "digest": digest(&document), "size": document.len() });
        self.0.insert(digest(&document), document);
        entry
    }

    fn list(&mut self, manifests: Value) -> Value {
        let list = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        self.add(OCI_INDEX, list.to_string().into_bytes())
    }

    fn image(&mut self, image: &Image) -> Value {
        let stored = image.stored(Encoding::Gzip);
        for blob in stored.blobs {
            self.add("", blob);
        }
        self.add(OCI_MANIFEST, stored.manifest)
    }

    /// What builders say of an image, beside it.
    fn attestation(&mut self, about: &Value) -> Value {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self.add("application/vnd.oci.image.config.v1+json", b"{}".to_vec()),
            "layers": [self.add("application/vnd.in-toto+json", b"{\"a\":1}".to_vec())],
        });
        let mut entry = self.add(OCI_MANIFEST, manifest.to_string().into_bytes());
        entry["annotations"] = json!({
            "vnd.docker.reference.digest": about["digest"],
            "vnd.docker.reference.type": "attestation-manifest",
        });
        on(entry, "unknown/unknown")
    }

    /// An OCI layout whose `index.json` has these entries.
    fn layout(&self, manifests: Value) -> Vec<u8> {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        let mut tar = Layer::new().file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
        for (digest, document) in &self.0 {
            tar = tar.file(&digest.replace("sha256:", "blobs/sha256/"), 0o644, document);
        }
        tar.file("index.json", 0o644, index.to_string().as_bytes())
            .finish()
    }

    /// Pulls from a registry that has all of them, `tag` under the tag.
    async fn pull(&self, tag: &Value) -> Result<Pulled, Error> {
        let (documents, tag) = (self.0.clone(), tag["digest"].as_str().unwrap().to_owned());
        let registry = Fake::start(move |request| {
            let path = request.target.split('?').next().unwrap();
            let asked = path.rsplit('/').next().unwrap();
            let asked = if asked == "1" { &tag } else { asked };
            match documents.get(asked) {
                Some(document) => Answer::ok(document.clone()),
                None => Answer::status(404),
            }
        });
        let place = Place::with(StoreOptions {
            insecure_registries: vec![registry.address.clone()],
            ..StoreOptions::default()
        })
        .await;
        let reference: ImageRef = format!("{}/app:1", registry.address).parse().unwrap();
        place
            .store
            .pull(
                &reference,
                &Credentials::Anonymous,
                &BTreeSet::new(),
                &mut |_| {},
            )
            .await
    }
}

fn on(mut entry: Value, platform: &str) -> Value {
    let (os, architecture) = platform.split_once('/').unwrap();
    entry["platform"] = json!({ "os": os, "architecture": architecture });
    entry
}

fn named(mut entry: Value, name: &str) -> Value {
    entry["annotations"] = json!({ "io.containerd.image.name": name });
    entry
}

fn image(file: &str) -> Image {
    support::image(vec![Layer::new().file(file, 0o644, b"")])
}

/// As a builder with attestations makes an image for one platform.
fn attested(documents: &mut Documents, image: &Image) -> Value {
    let manifest = documents.image(image);
    let attestation = documents.attestation(&manifest);
    documents.list(json!([on(manifest, "linux/amd64"), attestation]))
}

#[tokio::test]
async fn lists_in_lists_lead_to_the_image_past_what_is_attested_of_it() {
    let ours = image("ours");
    let mut documents = Documents::default();
    let inner = attested(&mut documents, &ours);
    let other = documents.list(json!([]));
    // Each architecture was built by itself, and then they were joined; the entries may say for what they are, or not.
    let joined = documents.list(json!([
        on(other, "linux/arm64"),
        on(inner.clone(), "linux/amd64")
    ]));
    let unsaid = documents.list(json!([inner]));
    let empty = documents.list(json!([on(inner.clone(), "/")]));
    for tag in [&inner, &joined, &unsaid, &empty] {
        let pulled = documents.pull(tag).await.unwrap();
        assert_eq!(pulled.id.to_string(), ours.id());
        // The digest is that of what was named, as docker shows it.
        assert_eq!(pulled.digest.to_string(), tag["digest"]);
        let archive = documents.layout(json!([tag]));
        let loaded = Place::new().await.load(&archive).await.unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].id.to_string(), ours.id());
    }
}

#[tokio::test]
async fn lists_that_lead_to_lists_without_end_are_refused() {
    let mut documents = Documents::default();
    let mut entry = attested(&mut documents, &image("a"));
    for _ in 0..4 {
        entry = documents.list(json!([entry]));
    }
    let refused = [
        documents.pull(&entry).await.unwrap_err(),
        Place::new()
            .await
            .load(&documents.layout(json!([entry])))
            .await
            .unwrap_err(),
    ];
    for err in refused {
        assert!(matches!(err, Error::Malformed { .. }), "{err:?}");
        assert!(err.to_string().contains("more than 4 lists"), "{err}");
    }
}

#[tokio::test]
async fn a_layout_of_several_images_gives_each_under_its_names() {
    let (one, two) = (image("one"), image("two"));
    let mut documents = Documents::default();
    let first = attested(&mut documents, &one);
    let second = documents.image(&two);
    let elsewhere = documents.list(json!([on(second.clone(), "linux/arm64")]));
    let signature = json!({
        "schemaVersion": 2,
        "config": documents.add("application/vnd.example.signature", b"{}".to_vec()),
        "layers": [],
    });
    let signature = documents.add(OCI_MANIFEST, signature.to_string().into_bytes());
    let archive = documents.layout(json!([
        signature,
        named(elsewhere.clone(), "example.com/not-here:1"),
        named(first.clone(), "docker.io/library/one:1"),
        named(second, "example.com/two:2"),
        named(first, "docker.io/library/one:latest"),
    ]));
    let loaded = Place::new().await.load(&archive).await.unwrap();
    let told: Vec<_> = loaded
        .iter()
        .map(|image| {
            let names: Vec<_> = image.tags.iter().map(ImageRef::familiar).collect();
            (image.id.to_string(), names.join(" "))
        })
        .collect();
    assert_eq!(
        told,
        [
            (one.id(), "one:1 one:latest".to_owned()),
            (two.id(), "example.com/two:2".to_owned())
        ]
    );
    // Where there is nothing else, the reason is told.
    let err = Place::new()
        .await
        .load(&documents.layout(json!([signature])))
        .await
        .unwrap_err();
    assert!(err.to_string().contains("artifact"), "{err}");
    let err = Place::new()
        .await
        .load(&documents.layout(json!([elsewhere])))
        .await
        .unwrap_err();
    assert!(err.to_string().contains("linux/arm64"), "{err}");
}

#[tokio::test]
async fn of_an_image_saved_for_several_platforms_ours_is_loaded() {
    let ours = image("ours");
    let mut documents = Documents::default();
    let mut foreign: Value = serde_json::from_slice(&image("theirs").config_file()).unwrap();
    foreign["architecture"] = json!("arm64");
    let config = documents.add("", foreign.to_string().into_bytes());
    let list = attested(&mut documents, &ours);
    let archive = documents.layout(json!([named(list, "docker.io/library/app:1")]));
    // On a machine of another kind, docker's own list has the image for that one.
    let manifest = json!([{
        "Config": config["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/"),
        "RepoTags": ["app:1"],
        "Layers": [],
    }]);
    let end = archive.len() - 1024;
    let more = Layer::new().file("manifest.json", 0o644, manifest.to_string().as_bytes());
    let archive = [&archive[..end], &more.finish()].concat();
    let loaded = Place::new().await.load(&archive).await.unwrap();
    assert_eq!(loaded[0].id.to_string(), ours.id());
    assert_eq!(loaded[0].tags[0].familiar(), "app:1");
}

#[tokio::test]
async fn what_is_no_image_for_this_node_is_refused_in_words_that_say_what_it_is() {
    let mut documents = Documents::default();
    let manifest = documents.image(&image("a"));
    let attested_alone = documents.attestation(&manifest);
    let other = documents.list(json!([
        on(manifest.clone(), "linux/arm64"),
        on(manifest.clone(), "windows/amd64"),
        attested_alone,
    ]));
    let none = documents.list(json!([]));
    let helm = json!({
        "schemaVersion": 2,
        "config": { "mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": manifest["digest"], "size": 2 },
        "layers": [],
    });
    let helm = documents.add(OCI_MANIFEST, helm.to_string().into_bytes());
    let schema1 =
        json!({ "schemaVersion": 1, "name": "a", "fsLayers": [], "history": [], "signatures": [] });
    let schema1 = documents.add("", schema1.to_string().into_bytes());
    for (tag, words) in [
        (
            other,
            "no matching manifest for linux/amd64 in the manifest list entries",
        ),
        (none, "no matching manifest for linux/amd64"),
        (attested_alone, "application/vnd.in-toto+json"),
        (helm, "application/vnd.cncf.helm.config.v1+json"),
        (schema1, "schema 1"),
    ] {
        let err = documents.pull(&tag).await.unwrap_err().to_string();
        assert!(err.contains(words), "{err}");
        assert!(!err.contains("unknown/unknown"), "{err}");
    }
}
