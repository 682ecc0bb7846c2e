//! Config documents as builders write them, read as docker reads them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use hearth_image::{Error, ImageConfig};
use hearth_tests::{archive::digest, layer::Layer};
use serde_json::{Value, json};
use support::Place;

/// Loads an image of one layer with this config, whose `rootfs` says what it is in words of its own.
async fn load(config: &Value) -> Result<ImageConfig, Error> {
    let layer = Layer::new().file("a", 0o644, b"").finish();
    let text = config.to_string().replace("LAYER", &digest(&layer));
    let archive = Layer::new()
        .file("c", 0o644, text.as_bytes())
        .file("l", 0o644, &layer)
        .file(
            "manifest.json",
            0o644,
            br#"[{"config":"c","repoTags":["a:1"],"LAYERS":["l"]}]"#,
        );
    let place = Place::new().await;
    let loaded = place.load(&archive.finish()).await?;
    // As after a start, too.
    let again = hearth_image::Store::open(place.dir.path(), Default::default()).await?;
    let image = place.store.image(&loaded[0].id).await?.unwrap();
    assert_eq!(
        again.image(&loaded[0].id).await?.unwrap().config,
        image.config
    );
    Ok(image.config)
}

fn rootfs() -> Value {
    json!({ "type": "layers", "diff_ids": ["LAYER"] })
}

#[tokio::test]
async fn names_go_in_any_case_and_one_word_for_a_list_of_them() {
    let config = load(&json!({
        "OS": "linux",
        "Config": {
            "cmd": "/run it",
            "entryPoint": ["/a", "b"],
            "ENV": ["A=b"],
            "workingdir": "/w",
            "Shell": "/bin/sh",
            "labels": { "Key": "Value" },
        },
        "RootFS": rootfs(),
    }))
    .await
    .unwrap();
    assert_eq!(config.config.cmd, ["/run it"]);
    assert_eq!(config.config.entrypoint, ["/a", "b"]);
    assert_eq!(config.config.env, ["A=b"]);
    assert_eq!(config.config.working_dir, "/w");
    assert_eq!(config.config.shell, ["/bin/sh"]);
    assert_eq!(config.config.labels["Key"], "Value");
}

#[tokio::test]
async fn what_is_null_or_left_out_says_nothing() {
    let empty = load(&json!({ "rootfs": rootfs() })).await.unwrap();
    let nothing = json!({
        "architecture": null, "os": "", "created": null, "history": null, "config": {
            "Cmd": null, "Entrypoint": null, "Env": null, "Labels": null, "Volumes": null,
            "ExposedPorts": null, "User": null, "WorkingDir": null, "Healthcheck": null, "OnBuild": null,
            "StopSignal": null, "Tty": null, "ArgsEscaped": null,
        },
        "rootfs": rootfs(),
    });
    assert_eq!(load(&nothing).await.unwrap(), empty);
    let no_config = json!({ "config": null, "rootfs": rootfs() });
    assert_eq!(load(&no_config).await.unwrap(), empty);
    // The kind of a root file system that has layers goes without saying.
    let unsaid = json!({ "rootfs": { "diff_ids": ["LAYER"] } });
    let unsaid = load(&unsaid).await.unwrap();
    assert_eq!(unsaid.rootfs.diff_ids, empty.rootfs.diff_ids);
}

#[tokio::test]
async fn a_history_of_any_length_is_taken() {
    for history in [
        json!([]),
        json!([null]),
        json!([{ "created": "0001-01-01T00:00:00Z", "empty_layer": true }, {}, { "empty_layer": true }]),
        json!([{}, {}, {}]),
    ] {
        let count = history.as_array().unwrap().len();
        let config = load(&json!({ "history": history, "rootfs": rootfs() })).await;
        assert_eq!(config.unwrap().history.len(), count);
    }
}

#[tokio::test]
async fn an_image_for_another_machine_is_refused() {
    for (os, architecture) in [("linux", "arm64"), ("windows", "amd64")] {
        let config = json!({ "os": os, "architecture": architecture, "rootfs": rootfs() });
        let err = load(&config).await.unwrap_err();
        assert!(matches!(err, Error::UnsupportedPlatform { .. }), "{err:?}");
        assert!(
            err.to_string().contains(&format!("{os}/{architecture}")),
            "{err}"
        );
    }
    let windows = json!({ "rootfs": { "type": "layers+base", "diff_ids": ["LAYER"] } });
    assert!(load(&windows).await.is_err());
}
