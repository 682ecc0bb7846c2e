//! Archives and layers that are malformed, or mean harm.

use hearth_tests::archive::{Encoding, Image};
use hearth_tests::images;
use hearth_tests::layer::Layer;
use serde_json::json;

use super::{large, listed, plain, setup};

#[test]
fn a_layer_that_climbs_out_stays_inside_or_is_refused() {
    let (target, docker) = setup();
    let base = || images::busybox().clone();
    let cases = [
        (
            "parent",
            Layer::new().raw_named_file("../../../climbed-out", b"evil"),
        ),
        (
            "deep",
            Layer::new()
                .dir("etc", 0o755)
                .raw_named_file("etc/../../../climbed-out", b"evil"),
        ),
        (
            "absolute",
            Layer::new().raw_named_file("/climbed-out", b"evil"),
        ),
        (
            "symlink",
            Layer::new()
                .symlink("link", "../../../../..")
                .raw_named_file("link/climbed-out", b"evil"),
        ),
        (
            "absolute-symlink",
            Layer::new()
                .symlink("link", "/")
                .raw_named_file("link/climbed-out", b"evil"),
        ),
    ];
    for (name, layer) in cases {
        let tag = format!("hearth-test/climb-{name}:latest");
        let done = docker.run_with_input(&["load"], &base().with_layer(layer).docker_archive(&tag));
        if done.code == Some(0) {
            // Taken as inside: then the image works, and the file is in it, if it's anywhere.
            docker
                .run(&[
                    "run",
                    "--rm",
                    &tag,
                    "sh",
                    "-c",
                    "ls -l /climbed-out /link/climbed-out || true",
                ])
                .exits(0);
        } else {
            assert!(!done.stderr.trim().is_empty(), "{name}: {done:?}");
            assert_eq!(listed(docker, &tag), "", "{name}");
        }
        // dockerd unpacks in a change of root, where the way out leads back in.
        if target.is_hearth() && (name == "parent" || name == "deep") {
            assert_ne!(
                done.code,
                Some(0),
                "a path that leads out isn't taken: {done:?}"
            );
        }
    }
}

#[test]
fn an_archive_that_points_out_of_itself_is_refused() {
    let (target, docker) = plain();
    // Nobody has it: layers that are here may be left out.
    let image = Image::new(
        json!({}),
        vec![Layer::new().file("pointing", 0o644, b"").finish()],
    );
    for (config, layer) in [
        ("/etc/passwd", "layer.tar"),
        ("../../etc/passwd", "layer.tar"),
        ("config.json", "../../../etc/passwd"),
        ("config.json", "/proc/self/environ"),
    ] {
        let manifest = json!([{ "Config": config, "RepoTags": ["hearth-test/pointing:1"], "Layers": [layer] }]);
        let archive = Layer::new()
            .file("manifest.json", 0o644, manifest.to_string().as_bytes())
            .file("config.json", 0o644, &image.config_file())
            .file("layer.tar", 0o644, &image.layers()[0])
            .finish();
        let done = docker.run_with_input(&["load"], &archive);
        if done.code == Some(0) && !target.is_hearth() {
            continue; // dockerd takes the way out as one that leads back in.
        }
        assert_eq!(done.code, Some(1), "{config} {layer}: {done:?}");
        assert!(
            !(done.text() + &done.stderr).contains("root:x:0"),
            "{done:?}"
        );
        assert_eq!(listed(docker, "hearth-test/pointing:1"), "");
    }
}

#[test]
fn garbage_to_load_is_an_error_that_says_so() {
    let (_, docker) = setup();
    let whole = large("cut").docker_archive("hearth-test/cut:1");
    let cut = &whole[..whole.len() / 2];
    let gzip = Encoding::Gzip.encode(&whole);
    let noise: Vec<u8> = (0..100_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let inputs: [(&str, &[u8]); 5] = [
        ("nothing", b""),
        ("text", b"this is no archive\n"),
        ("noise", &noise),
        ("a tar cut short", cut),
        ("a gzip cut short", &gzip[..gzip.len() / 2]),
    ];
    for (what, input) in inputs {
        let done = docker.run_with_input(&["load"], input);
        if what == "nothing" && done.code == Some(0) {
            continue; // dockerd takes nothing for an archive of no images.
        }
        assert_eq!(done.code, Some(1), "{what}: {done:?}");
        assert!(!done.stderr.trim().is_empty(), "{what}: {done:?}");
    }
    assert_eq!(listed(docker, "hearth-test/cut:1"), "");
    // And the whole one is taken after that.
    docker.run_with_input(&["load"], &whole).exits(0);
    docker
        .run(&["run", "--rm", "hearth-test/cut:1", "true"])
        .exits(0);
}

#[test]
fn an_archive_that_contradicts_itself_is_refused() {
    let (target, docker) = plain();
    let manifest = |config: &str| {
        json!([{ "Config": config, "RepoTags": ["hearth-test/odd:1"], "Layers": ["layer.tar"] }])
            .to_string()
    };
    let layer = &images::busybox().layers()[0];
    // Of an image that no node has: what is there already isn't read again.
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", "0f".repeat(32))] },
    })
    .to_string();
    let cases: [(&str, Vec<u8>); 5] = [
        (
            "no manifest",
            Layer::new().file("layer.tar", 0o644, layer).finish(),
        ),
        (
            "the manifest isn't JSON",
            Layer::new().file("manifest.json", 0o644, b"{").finish(),
        ),
        (
            "no configuration",
            Layer::new()
                .file("manifest.json", 0o644, manifest("absent.json").as_bytes())
                .file("layer.tar", 0o644, layer)
                .finish(),
        ),
        (
            "the configuration isn't JSON",
            Layer::new()
                .file("manifest.json", 0o644, manifest("config.json").as_bytes())
                .file("config.json", 0o644, b"nul")
                .file("layer.tar", 0o644, layer)
                .finish(),
        ),
        (
            "another layer than the configuration says",
            Layer::new()
                .file("manifest.json", 0o644, manifest("config.json").as_bytes())
                .file("config.json", 0o644, config.as_bytes())
                .file(
                    "layer.tar",
                    0o644,
                    &Layer::new().file("x", 0o644, b"y").finish(),
                )
                .finish(),
        ),
    ];
    for (what, archive) in cases {
        let done = docker.run_with_input(&["load"], &archive);
        if !target.is_hearth() && done.code == Some(0) {
            eprintln!("dockerd takes {what}");
            continue;
        }
        assert_eq!(done.code, Some(1), "{what}: {done:?}");
        assert!(!done.stderr.trim().is_empty(), "{what}: {done:?}");
        assert_eq!(listed(docker, "hearth-test/odd:1"), "", "{what}");
    }
}
