//! Archives of images as real tools write them, which all load: names, order, links, what is around the files.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use hearth_image::{Error, ImageRef};
use hearth_tests::{
    archive::{Encoding, Image},
    layer::Layer,
};
use serde_json::{Value, json};
use support::{Place, names};

fn image() -> Image {
    // The first layer is there twice, and what the second takes away is back.
    let first = Layer::new().file("a", 0o644, b"a").finish();
    let second = Layer::new()
        .file(".wh.a", 0o644, b"")
        .file("b", 0o644, b"b");
    Image::new(json!({}), vec![first.clone(), second.finish(), first])
}

fn manifest(config: &str, layers: [&str; 3]) -> Vec<u8> {
    json!([{ "Config": config, "RepoTags": ["app:1"], "Layers": layers }])
        .to_string()
        .into_bytes()
}

async fn assert_loads(how: &str, archive: &[u8]) {
    let place = Place::new().await;
    let loaded = place.load(archive).await;
    let loaded = loaded.unwrap_or_else(|err| panic!("{how}: {err}"));
    assert_eq!(loaded[0].id.to_string(), image().id(), "{how}");
    let tags: Vec<_> = loaded[0].tags.iter().map(ImageRef::familiar).collect();
    assert_eq!(tags, ["app:1"], "{how}");
    let paths = support::paths(&place.store.root_file(&loaded[0].id));
    assert_eq!(names(&paths), ["/a", "/b"], "{how}");
}

#[tokio::test]
async fn a_layer_that_is_there_twice_may_be_a_link_wherever_it_stands() {
    let image = image();
    let [first, second, _] = image.layers() else {
        panic!("three layers");
    };
    let config = image.config_file();
    let list = manifest("c.json", ["x/layer.tar", "y/layer.tar", "z/layer.tar"]);
    let layers = || {
        Layer::new()
            .file("x/layer.tar", 0o644, first)
            .file("y/layer.tar", 0o644, second)
    };
    let finish = |tar: Layer| {
        tar.file("c.json", 0o644, &config)
            .file("manifest.json", 0o644, &list)
            .finish()
    };
    for (how, archive) in [
        (
            "behind",
            finish(layers().symlink("z/layer.tar", "../x/layer.tar")),
        ),
        (
            "absolute",
            finish(layers().symlink("z/layer.tar", "/x/layer.tar")),
        ),
        (
            "hard",
            finish(layers().hard_link("z/layer.tar", "x/layer.tar")),
        ),
        ("a folder", finish(layers().symlink("z", "x"))),
        (
            "a folder's folder",
            finish(
                layers()
                    .symlink("z", "./w/v")
                    .symlink("w", "u")
                    .symlink("u/v", "../x"),
            ),
        ),
        (
            "copied over",
            finish(
                layers()
                    .symlink("z/layer.tar", "gone")
                    .file("z/layer.tar", 0o644, first),
            ),
        ),
    ] {
        assert_loads(how, &archive).await;
    }
    // In front of what it leads to: links are looked up at the end.
    let link = Layer::new()
        .symlink("z/layer.tar", "../x/layer.tar")
        .finish();
    let before = [&link[..link.len() - 1024], &finish(layers())].concat();
    assert_loads("in front", &before).await;
    // A manifest and a config may be links too.
    let linked = layers()
        .file("z/layer.tar", 0o644, first)
        .file("real/c", 0o644, &config)
        .symlink("c.json", "real/c")
        .file("real/m", 0o644, &list)
        .symlink("manifest.json", "real/m");
    assert_loads("documents", &linked.finish()).await;
}

#[tokio::test]
async fn names_order_and_what_is_around_the_files_dont_matter() {
    let image = image();
    let [first, second, _] = image.layers() else {
        panic!("three layers");
    };
    let config = image.config_file();
    let gzip = Encoding::Gzip.encode(first);
    let list = manifest("sha256:0", ["0.tar.gz", "./b/1.tar.gz", "0.tar.gz"]);
    // Plain bytes under a name that says otherwise, and the other way round; the list first and the config last.
    let odd = Layer::new()
        .dir("./", 0o755)
        .raw_named_file("./manifest.json", &list)
        .raw_named_file("/0.tar.gz", first)
        .fifo("pipe")
        .file("b/1.tar.gz", 0o644, &Encoding::Zstd.encode(second))
        .file("unknown/file", 0o644, b"?")
        .file("VERSION", 0o644, b"")
        .file("sha256:0", 0o644, &config);
    let archive = odd.finish();
    assert_loads("plain", &archive).await;
    assert_loads("zeros behind", &[&archive[..], &[0; 30_000]].concat()).await;
    assert_loads("junk behind", &[&archive[..], &[7; 30_000]].concat()).await;
    assert_loads("no end", &archive[..archive.len() - 1024]).await;
    let (front, back) = archive.split_at(archive.len() / 2);
    for encoding in [Encoding::Gzip, Encoding::Zstd] {
        let members = [encoding.encode(front), encoding.encode(back)].concat();
        assert_loads("two members", &members).await;
    }
    // A file that was written again: the last one counts.
    let again = Layer::new()
        .file("c", 0o644, b"{}")
        .file("0.tar", 0o644, &gzip)
        .file("1.tar", 0o644, second)
        .file("manifest.json", 0o644, b"[]")
        .file("c", 0o644, &config)
        .file(
            "manifest.json",
            0o644,
            &manifest("c", ["0.tar", "1.tar", "0.tar"]),
        );
    assert_loads("twice", &again.finish()).await;
}

#[tokio::test]
async fn global_headers_and_fields_of_later_versions_are_passed_over() {
    let image = image();
    let [first, second, _] = image.layers() else {
        panic!("three layers");
    };
    let mut list: Value = serde_json::from_slice(&manifest("c", ["0", "1", "0"])).unwrap();
    list[0]["Parent"] = "".into();
    list[0]["LayerSources"] = json!({ "sha256:0": { "mediaType": "x", "size": 1 } });
    let tar = Layer::new()
        .file("c", 0o644, &image.config_file())
        .file("0", 0o644, first)
        .file("1", 0o644, second)
        .file("manifest.json", 0o644, list.to_string().as_bytes())
        .finish();
    // As `git archive` writes one, of the type `g`.
    let mut global = Layer::new()
        .file(
            "pax_global_header",
            0o644,
            b"52 comment=0123456789012345678901234567890123456789\n",
        )
        .finish();
    global.truncate(1024);
    global[156] = b'g';
    global[148..156].fill(b' ');
    let sum: u64 = global[..512].iter().map(|&byte| u64::from(byte)).sum();
    global[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_loads("a global header", &[&global[..], &tar].concat()).await;
}

#[tokio::test]
async fn an_image_without_names_or_layers_is_loaded() {
    for tags in [json!(null), json!([])] {
        for layers in [json!(null), json!([])] {
            let empty = Image::new(json!({}), vec![]);
            let list = json!([{ "Config": "c", "RepoTags": tags, "Layers": layers }]);
            let archive = Layer::new().file("c", 0o644, &empty.config_file()).file(
                "manifest.json",
                0o644,
                list.to_string().as_bytes(),
            );
            let place = Place::new().await;
            let loaded = place.load(&archive.finish()).await.unwrap();
            assert_eq!(loaded[0].id.to_string(), empty.id());
            assert!(loaded[0].tags.is_empty());
        }
    }
}

#[tokio::test]
async fn a_layer_may_be_empty_in_every_way_that_there_is() {
    for empty in [vec![], vec![0; 512], vec![0; 1024], vec![0; 10_240]] {
        for encoding in [Encoding::Plain, Encoding::Gzip, Encoding::Zstd] {
            let image = Image::new(json!({}), vec![empty.clone()]);
            let archive = Layer::new()
                .file("c", 0o644, &image.config_file())
                .file("l", 0o644, &encoding.encode(&empty))
                .file(
                    "manifest.json",
                    0o644,
                    br#"[{"Config":"c","Layers":["l"]}]"#,
                );
            let loaded = Place::new().await.load(&archive.finish()).await;
            assert_eq!(loaded.unwrap()[0].id.to_string(), image.id());
        }
    }
}

#[tokio::test]
async fn a_config_that_somebody_has_edited_keeps_its_name_and_a_blob_does_not() {
    let edited = Image::new(json!({ "Cmd": ["/edited"] }), vec![]);
    let hex = "ab".repeat(32);
    for (name, taken) in [
        (format!("{hex}.json"), true),
        (format!("blobs/sha256/{hex}"), false),
    ] {
        let list = json!([{ "Config": name, "RepoTags": ["app:1"], "Layers": [] }]);
        let archive = Layer::new().file(&name, 0o644, &edited.config_file()).file(
            "manifest.json",
            0o644,
            list.to_string().as_bytes(),
        );
        let loaded = Place::new().await.load(&archive.finish()).await;
        match loaded {
            Ok(loaded) => assert_eq!((loaded[0].id.to_string(), taken), (edited.id(), true)),
            Err(Error::DigestMismatch { .. }) => assert!(!taken, "{name}"),
            Err(other) => panic!("{name}: {other}"),
        }
    }
}
