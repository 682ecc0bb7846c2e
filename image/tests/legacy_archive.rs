//! Archives of docker before 1.10, which have no manifest.json.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use hearth_image::{Error, ImageRef};
use hearth_tests::layer::Layer;
use serde_json::{Value, json};
use support::{Place, names};

const BASE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const TOP: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn document(id: &str, parent: Option<&str>) -> Value {
    let mut document = json!({
        "id": id,
        "created": "2014-06-05T00:00:00Z",
        "container": "c",
        "container_config": { "Cmd": ["/bin/sh", "-c", format!("#(nop) {}", &id[..1])], "Env": null },
        "docker_version": "1.2.0",
        "config": { "Cmd": ["/run"], "Env": ["A=b"], "Volumes": null },
        "architecture": "amd64",
        "os": "linux",
        "Size": 5,
    });
    if let Some(parent) = parent {
        document["parent"] = parent.into();
    }
    document
}

fn folder(tar: Layer, id: &str, document: &Value, layer: &[u8]) -> Layer {
    tar.dir(id, 0o755)
        .file(&format!("{id}/VERSION"), 0o644, b"1.0")
        .file(
            &format!("{id}/json"),
            0o644,
            document.to_string().as_bytes(),
        )
        .file(&format!("{id}/layer.tar"), 0o644, layer)
}

fn named(tar: Layer, repositories: Value) -> Vec<u8> {
    tar.file("repositories", 0o644, repositories.to_string().as_bytes())
        .finish()
}

fn both() -> Layer {
    let base = Layer::new()
        .file("base", 0o644, b"1")
        .file("gone", 0o644, b"");
    let top = Layer::new()
        .file("top", 0o644, b"2")
        .file(".wh.gone", 0o644, b"");
    let tar = folder(Layer::new(), TOP, &document(TOP, Some(BASE)), &top.finish());
    folder(tar, BASE, &document(BASE, None), &base.finish())
}

#[tokio::test]
async fn images_are_put_together_from_their_layers_and_their_layers_parents() {
    let place = Place::new().await;
    let repositories =
        json!({ "app": { "1": TOP, "latest": TOP }, "example.com/base": { "2": BASE } });
    let loaded = place.load(&named(both(), repositories)).await.unwrap();
    let told: Vec<Vec<String>> = loaded
        .iter()
        .map(|image| image.tags.iter().map(ImageRef::familiar).collect())
        .collect();
    assert_eq!(
        told,
        [vec!["example.com/base:2"], vec!["app:1", "app:latest"]]
    );
    let paths = support::paths(&place.store.root_file(&loaded[0].id));
    assert_eq!(names(&paths), ["/base", "/gone"]);
    let paths = support::paths(&place.store.root_file(&loaded[1].id));
    assert_eq!(names(&paths), ["/base", "/top"]);

    let image = place.store.image(&loaded[1].id).await.unwrap().unwrap();
    assert_eq!(image.config.config.cmd, ["/run"]);
    assert_eq!(image.config.rootfs.diff_ids.len(), 2);
    let steps: Vec<_> = image
        .config
        .history
        .iter()
        .map(|step| step.created_by.as_str())
        .collect();
    assert_eq!(steps, ["/bin/sh -c #(nop) a", "/bin/sh -c #(nop) b"]);
}

#[tokio::test]
async fn what_is_missing_or_goes_round_in_circles_is_refused() {
    let layer = Layer::new().file("a", 0o644, b"").finish();
    let alone = folder(Layer::new(), TOP, &document(TOP, Some(BASE)), &layer);
    let circle = folder(Layer::new(), TOP, &document(TOP, Some(TOP)), &layer);
    let outside = folder(Layer::new(), TOP, &document(TOP, Some("../../etc")), &layer);
    let packed = folder(
        Layer::new(),
        TOP,
        &document(TOP, None),
        &zstd::encode_all(&layer[..], 1).unwrap(),
    );
    for (tar, id, words) in [
        (both(), "cc", "is missing"),
        (alone, TOP, "is missing"),
        (circle, TOP, "number of layers"),
        (outside, TOP, "is missing"),
        (packed, TOP, "it is compressed"),
    ] {
        let place = Place::new().await;
        let err = place
            .load(&named(tar, json!({ "app": { "1": id } })))
            .await
            .unwrap_err();
        assert!(
            matches!(err, Error::Malformed { .. } | Error::TooLarge { .. }),
            "{err:?}"
        );
        assert!(err.to_string().contains(words), "{err}");
        assert_eq!(place.files(), [""; 0], "something was left behind");
    }
}
