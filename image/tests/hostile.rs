//! Archives that mean harm, or were harmed, are refused with a reason, and leave nothing behind.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use hearth_image::Error;
use hearth_tests::{archive::Encoding, layer::Layer};
use support::Place;

async fn refusal(layers: Vec<Layer>) -> String {
    let place = Place::new().await;
    let err = place.look(layers).await.expect_err("it was taken");
    assert!(place.store.list().await.unwrap().is_empty());
    assert_eq!(place.files(), [""; 0], "something was left behind");
    assert!(matches!(err, Error::Malformed { .. }), "{err:?}");
    err.to_string()
}

#[tokio::test]
async fn paths_that_climb_out_are_refused() {
    for name in [
        "../evil",
        "a/../../evil",
        "/../evil",
        "./../evil",
        "/a/../..",
        "..",
    ] {
        let message = refusal(vec![Layer::new().raw_named_file(name, b"x")]).await;
        assert!(message.contains("inside the image"), "{message}");
        let link = Layer::new().raw_link(tar::EntryType::Link, "link", name);
        let message = refusal(vec![link]).await;
        assert!(message.contains("inside the image"), "{message}");
    }
    let message = refusal(vec![Layer::new().raw_named_file("a/..", b"x")]).await;
    assert!(message.contains("must be a directory"), "{message}");
}

#[tokio::test]
async fn symlinks_that_climb_out_are_not_followed() {
    for target in ["../..", "../../etc", "/..", "/../etc"] {
        let layer = Layer::new()
            .symlink("out", target)
            .raw_named_file("out/evil", b"x");
        let message = refusal(vec![layer]).await;
        assert!(message.contains("out of the image"), "{message}");
    }
    let planted = Layer::new().symlink("out", "../..");
    let message = refusal(vec![planted, Layer::new().raw_named_file("out/evil", b"x")]).await;
    assert!(message.contains("climbs out of the image"), "{message}");
    let circle = Layer::new()
        .symlink("a", "b")
        .symlink("b", "a")
        .raw_named_file("a/x", b"x");
    assert!(refusal(vec![circle]).await.contains("too many symlinks"));
}

#[tokio::test]
async fn hard_links_to_nowhere_or_to_a_directory_are_refused() {
    assert!(
        refusal(vec![Layer::new().hard_link("a", "b")])
            .await
            .contains("does not exist")
    );
    let message = refusal(vec![Layer::new().dir("d", 0o755).hard_link("a", "d")]).await;
    assert!(message.contains("directory"), "{message}");
}

#[tokio::test]
async fn an_entry_below_a_file_is_refused() {
    let layer = Layer::new()
        .file("a", 0o644, b"")
        .raw_named_file("a/b", b"");
    assert!(refusal(vec![layer]).await.contains("not a directory"));
}

#[tokio::test]
async fn whiteouts_of_nothing_nameable_are_refused() {
    for name in [".wh.", "d/.wh..", ".wh..."] {
        let layer = Layer::new().dir("d", 0o755).raw_named_file(name, b"");
        assert!(refusal(vec![layer]).await.contains("whiteout"));
    }
}

#[tokio::test]
async fn garbage_is_refused() {
    let place = Place::new().await;
    for garbage in [
        &b""[..],
        b"hello",
        &[0x1f, 0x8b, 8, 1, 2],
        &[0x28, 0xb5, 0x2f, 0xfd, 1],
        &[0; 1024],
    ] {
        let err = place.load(garbage).await.expect_err("it was taken");
        assert!(matches!(err, Error::Malformed { .. }), "{err:?}");
    }
    let noise: Vec<u8> = (0..100_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let err = place.load(&noise).await.expect_err("it was taken");
    assert!(err.to_string().contains("not a tar archive"), "{err}");
    assert_eq!(place.files(), [""; 0]);
}

#[tokio::test]
async fn an_archive_cut_short_anywhere_is_refused_or_whole() {
    let image = support::image(vec![Layer::new().file("a", 0o644, &[3; 3000])]);
    let archive = image.oci_archive("test:1");
    for cut in (0..archive.len()).step_by(256) {
        let place = Place::new().await;
        match place.load(&archive[..cut]).await {
            Err(err) => {
                assert!(matches!(err, Error::Malformed { .. }), "{err:?}");
                assert_eq!(place.files(), [""; 0]);
            }
            Ok(loaded) => assert_eq!(loaded[0].id.to_string(), image.id()),
        }
    }
    for encoding in [Encoding::Gzip, Encoding::Zstd] {
        let packed = encoding.encode(&archive);
        let place = Place::new().await;
        let err = place
            .load(&packed[..packed.len() / 2])
            .await
            .expect_err("it was taken");
        assert!(matches!(err, Error::Malformed { .. }), "{err:?}");
        assert_eq!(
            place.load(&packed).await.unwrap()[0].id.to_string(),
            image.id()
        );
    }
}

#[tokio::test]
async fn a_layer_that_is_not_what_the_config_says_is_refused() {
    let image = support::image(vec![Layer::new().file("a", 0o644, b"honest content")]);
    let mut archive = image.docker_archive("test:1");
    let at = archive
        .windows(14)
        .position(|window| window == b"honest content")
        .unwrap();
    archive[at] ^= 1;
    let place = Place::new().await;
    let err = place.load(&archive).await.expect_err("it was taken");
    assert!(matches!(err, Error::DigestMismatch { .. }), "{err:?}");
    assert_eq!(place.files(), [""; 0]);
}

#[tokio::test]
async fn names_and_images_of_an_archive_are_bounded() {
    let too_large = async |archive: Layer| {
        let place = Place::new().await;
        let err = place
            .load(&archive.finish())
            .await
            .expect_err("it was taken");
        assert!(matches!(err, Error::TooLarge { .. }), "{err:?}");
        assert_eq!(place.files(), [""; 0]);
    };
    too_large(Layer::new().file(&"d/".repeat(3000), 0o644, b"")).await;
    too_large(Layer::new().symlink("a", &"d/".repeat(3000))).await;
    let mut many = Layer::new();
    for number in 0..5000 {
        many = many.symlink(&format!("{number}"), &"x".repeat(4000));
    }
    too_large(many).await;
    let config = br#"{"rootfs":{"type":"layers"}}"#;
    let manifest = format!("[{}]", vec![r#"{"Config":"c"}"#; 1000].join(","));
    let images =
        Layer::new()
            .file("c", 0o644, config)
            .file("manifest.json", 0o644, manifest.as_bytes());
    too_large(images).await;
    let layers = vec![r#""c""#; 1000].join(",");
    let manifest = format!(r#"[{{"Config":"c","Layers":[{layers}]}}]"#);
    let layers =
        Layer::new()
            .file("c", 0o644, config)
            .file("manifest.json", 0o644, manifest.as_bytes());
    too_large(layers).await;
}

#[tokio::test]
async fn a_circle_of_links_in_an_archive_ends() {
    let archive = Layer::new()
        .symlink("manifest.json", "a")
        .symlink("a", "manifest.json");
    let err = Place::new().await.load(&archive.finish()).await;
    assert!(matches!(err, Err(Error::Malformed { .. })), "{err:?}");
}

#[tokio::test]
async fn an_archive_may_have_a_file_twice() {
    let image = support::image(vec![Layer::new().file("a", 0o644, b"a")]);
    let archive = image.docker_archive("test:1");
    // Two blocks of zeros, or more, end a tar: without them another can follow.
    let first = Layer::new()
        .file("manifest.json", 0o644, b"not this one")
        .file("manifest.json", 0o644, b"nor this one")
        .finish();
    let end = first.len() - 1024;
    let both = [&first[..end], &archive].concat();
    let loaded = Place::new().await.load(&both).await.unwrap();
    assert_eq!(loaded[0].id.to_string(), image.id());
}
