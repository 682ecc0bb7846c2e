//! Archives that are OCI layouts and nothing else.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use hearth_image::Error;
use hearth_tests::{
    archive::{Encoding, OCI_INDEX, OCI_MANIFEST, digest},
    layer::Layer,
};
use serde_json::{Value, json};
use support::{Place, image};

/// A layout of these blobs whose `index.json` lists these manifests.
fn layout(blobs: &[Vec<u8>], manifests: Value) -> Vec<u8> {
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    let mut tar = Layer::new().file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
    for blob in blobs {
        let path = digest(blob).replace("sha256:", "blobs/sha256/");
        tar = tar.file(&path, 0o644, blob);
    }
    tar.file("index.json", 0o644, index.to_string().as_bytes())
        .finish()
}

fn entry(media_type: &str, document: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(document), "size": document.len() })
}

#[tokio::test]
async fn names_come_from_annotations_and_the_manifest_stays_as_it_was() {
    let image = image(vec![Layer::new().file("a", 0o644, b"a")]);
    let stored = image.stored(Encoding::Zstd);
    let mut blobs = stored.blobs.clone();
    blobs.push(stored.manifest.clone());
    let named = |key: &str, name: &str| {
        let mut entry = entry(OCI_MANIFEST, &stored.manifest);
        entry["annotations"] = json!({ key: name });
        entry
    };
    let manifests = json!([
        named("io.containerd.image.name", "docker.io/library/app:1"),
        named("org.opencontainers.image.ref.name", "example.com/app:2"),
        named("org.opencontainers.image.ref.name", "latest"),
    ]);
    let place = Place::new().await;
    let loaded = place.load(&layout(&blobs, manifests)).await.unwrap();
    assert_eq!(loaded.len(), 1);
    let names: Vec<_> = loaded[0].tags.iter().map(|tag| tag.familiar()).collect();
    assert_eq!(names, ["app:1", "example.com/app:2"]);
    let held = place.store.image(&loaded[0].id).await.unwrap().unwrap();
    assert_eq!(held.manifest_digest.to_string(), digest(&stored.manifest));
    support::paths(&place.store.root_file(&loaded[0].id));
}

#[tokio::test]
async fn of_several_platforms_ours_is_loaded() {
    let ours = image(vec![Layer::new().file("ours", 0o644, b"")]);
    let stored = ours.stored(Encoding::Gzip);
    let platform = |document: &[u8], architecture: &str| {
        let mut entry = entry(OCI_MANIFEST, document);
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        entry
    };
    let missing = platform(b"this manifest isn't even here", "arm64");
    let manifests = json!([missing, platform(&stored.manifest, "amd64")]);
    let list = json!({ "schemaVersion": 2, "manifests": manifests })
        .to_string()
        .into_bytes();
    let mut blobs = stored.blobs.clone();
    blobs.extend([stored.manifest.clone(), list.clone()]);
    for manifests in [manifests, json!([entry(OCI_INDEX, &list)])] {
        let place = Place::new().await;
        let loaded = place.load(&layout(&blobs, manifests)).await.unwrap();
        assert_eq!(loaded[0].id.to_string(), ours.id());
    }
    let place = Place::new().await;
    let err = place
        .load(&layout(&blobs, json!([missing])))
        .await
        .unwrap_err();
    assert!(matches!(err, Error::UnsupportedPlatform { .. }), "{err:?}");
}

#[tokio::test]
async fn blobs_that_are_missing_or_wrong_are_refused() {
    let stored = image(vec![Layer::new().file("a", 0o644, b"a")]).stored(Encoding::Plain);
    let manifests = json!([entry(OCI_MANIFEST, &stored.manifest)]);
    let mut blobs = stored.blobs.clone();
    blobs.push(stored.manifest.clone());
    for missing in 0..blobs.len() {
        let mut some = blobs.clone();
        some.remove(missing);
        let err = Place::new()
            .await
            .load(&layout(&some, manifests.clone()))
            .await
            .unwrap_err();
        assert!(err.to_string().contains("is missing"), "{err}");
    }
    // A byte of a blob, under its old name.
    let mut archive = layout(&blobs, manifests);
    let config = stored.blobs.last().unwrap();
    let at = archive
        .windows(config.len())
        .position(|window| window == config)
        .unwrap();
    archive[at + 1] ^= 1;
    let err = Place::new().await.load(&archive).await.unwrap_err();
    assert!(matches!(err, Error::DigestMismatch { .. }), "{err:?}");
}

#[tokio::test]
async fn a_config_that_is_no_images_is_refused() {
    for config in [
        &b"{}"[..],
        b"nul",
        b"[]",
        br#"{"rootfs":{"type":"layers","diff_ids":["x"]}}"#,
    ] {
        let archive = Layer::new()
            .file("c", 0o644, config)
            .file(
                "manifest.json",
                0o644,
                br#"[{"Config":"c","RepoTags":["a:1"],"Layers":[]}]"#,
            )
            .finish();
        let err = Place::new().await.load(&archive).await.unwrap_err();
        assert!(matches!(err, Error::Malformed { .. }), "{err:?}");
    }
}
