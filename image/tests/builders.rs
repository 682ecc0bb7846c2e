//! Layers and archives as real builders write them, which all load.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::Write;

use hearth_tests::{
    archive::{Encoding, digest},
    layer::Layer,
};
use support::{Place, What, content};

#[tokio::test]
async fn paths_are_inside_the_image_however_builders_write_them() {
    let place = Place::new().await;
    let link = tar::EntryType::Link;
    let lower = Layer::new()
        .raw_named_file("/etc/leading", b"1")
        .raw_named_file("./etc//dotted", b"2")
        .raw_named_file("etc/x/../cleaned", b"3")
        .raw_named_file("/parents/without/an/entry", b"4")
        .raw_link(link, "/hard/absolute", "/etc/leading")
        .raw_link(link, "hard/dotted", "./etc/leading")
        .raw_link(link, "hard/cleaned", "hard/../etc/leading");
    // Of a lower layer, and through its directories.
    let upper = Layer::new()
        .raw_link(link, "/late", "/etc/leading")
        .raw_named_file("/etc/.wh.dotted", b"");
    let paths = place.look(vec![lower, upper]).await.unwrap();
    assert_eq!(content(&paths, "/etc/leading"), b"1");
    assert_eq!(content(&paths, "/etc/cleaned"), b"3");
    assert_eq!(content(&paths, "/parents/without/an/entry"), b"4");
    assert!(!paths.contains_key("/etc/dotted") && !paths.contains_key("/etc/x"));
    for name in ["/hard/absolute", "/hard/dotted", "/hard/cleaned", "/late"] {
        assert_eq!(paths[name].inode, paths["/etc/leading"].inode, "{name}");
    }
    assert_eq!(paths["/late"].links, 5);
}

#[tokio::test]
async fn an_absolute_symlink_of_the_same_layer_means_the_images_root() {
    let place = Place::new().await;
    let layer = Layer::new()
        .symlink("lib", "/usr/lib")
        .raw_named_file("lib/libc.so", b"c")
        .symlink("usr/lib64", "/lib")
        .raw_named_file("/usr/lib64/ld.so", b"ld")
        .symlink("all", "/")
        .raw_named_file("all/at-the-root", b"")
        .raw_link(tar::EntryType::Link, "linked", "/lib/libc.so");
    let paths = place.look(vec![layer]).await.unwrap();
    assert_eq!(content(&paths, "/usr/lib/libc.so"), b"c");
    assert_eq!(content(&paths, "/usr/lib/ld.so"), b"ld");
    assert!(paths.contains_key("/at-the-root"));
    assert_eq!(paths["/linked"].inode, paths["/usr/lib/libc.so"].inode);
    assert_eq!(paths["/lib"].what, What::Symlink("/usr/lib".to_owned()));
}

#[tokio::test]
async fn of_an_entry_that_is_there_twice_the_last_counts() {
    let place = Place::new().await;
    let layer = Layer::new()
        .file("a", 0o644, b"first")
        .hard_link("b", "a")
        .file("a", 0o600, b"second")
        .dir("d", 0o700)
        .file("d/kept", 0o644, b"")
        .dir("d", 0o755)
        .file("e", 0o644, b"")
        .symlink("e", "a")
        .file("f", 0o644, b"")
        .dir("f", 0o755);
    let paths = place.look(vec![layer]).await.unwrap();
    assert_eq!(content(&paths, "/a"), b"second");
    assert_eq!(content(&paths, "/b"), b"first");
    assert_eq!((paths["/a"].mode, paths["/a"].links), (0o600, 1));
    assert_eq!(paths["/d"].mode, 0o755);
    assert!(paths.contains_key("/d/kept"));
    assert_eq!(paths["/e"].what, What::Symlink("a".to_owned()));
    assert_eq!(paths["/f"].what, What::Directory);
}

#[tokio::test]
async fn odd_times_and_owners_are_kept() {
    let place = Place::new().await;
    let layer = Layer::new()
        .file_with_pax("before", b"", &[("mtime", "-1.25")])
        .file_with_pax("late", b"", &[("mtime", "9000000000.000000001")])
        .file_with_pax("fine", b"", &[("mtime", "1.12345678987654321")])
        .file_with_pax(
            "owned",
            b"",
            &[("uid", "4294967294"), ("gid", "2147483648")],
        )
        .file_with_pax(
            "unknown",
            b"",
            &[("LIBARCHIVE.creationtime", "x"), ("comment", "y")],
        )
        .fifo("pipe");
    let paths = place.look(vec![layer]).await.unwrap();
    assert_eq!(paths["/before"].mtime, (-2, 750_000_000));
    assert_eq!(paths["/late"].mtime, (9_000_000_000, 1));
    assert_eq!(paths["/fine"].mtime, (1, 123_456_789));
    assert_eq!(paths["/owned"].owner, (4_294_967_294, 2_147_483_648));
    assert!(paths.contains_key("/unknown"));
    assert_eq!(paths["/pipe"].what, What::Other);
}

#[tokio::test]
async fn every_compression_that_dockerd_takes_is_taken() {
    let layer = Layer::new().file("a", 0o644, &[7; 100_000]).finish();
    let (front, back) = layer.split_at(50_000);
    let two = |encoding: Encoding| [encoding.encode(front), encoding.encode(back)].concat();
    // A skippable frame of three bytes, as seekable zstd and padding have.
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    let gzip = two(Encoding::Gzip);
    let zstd = two(Encoding::Zstd);
    let skipped = [&skippable[..], &zstd, &skippable].concat();
    let bzip2 = [front, back].map(|half| {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(half).unwrap();
        encoder.finish().unwrap()
    });
    for packed in [gzip, zstd, skipped, bzip2.concat()] {
        let config = support::image(vec![]).config_file();
        let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        config["rootfs"]["diff_ids"] = serde_json::json!([digest(&layer)]);
        config["x-unknown"] = serde_json::json!([{ "a": null }]);
        let archive = Layer::new()
            .file("c.json.txt", 0o644, config.to_string().as_bytes())
            .file("layer", 0o644, &packed)
            .file(
                "manifest.json",
                0o644,
                br#"[{"Config":"c.json.txt","RepoTags":["a:1"],"Layers":["layer"]}]"#,
            )
            .finish();
        let place = Place::new().await;
        let loaded = place.load(&archive).await.unwrap();
        let paths = support::paths(&place.store.root_file(&loaded[0].id));
        assert_eq!(content(&paths, "/a").len(), 100_000);
    }
}

#[tokio::test]
async fn a_root_directory_of_any_size_is_found() {
    // Around a block's size, where what is inline just fits behind the inode or doesn't.
    for length in 80..92 {
        let mut layer = Layer::new();
        for number in 0..40 {
            layer = layer.file(&format!("{number:0length$}"), 0o644, b"");
        }
        let paths = Place::new().await.look(vec![layer]).await.unwrap();
        assert_eq!(paths.len(), 40, "names of {length} bytes");
    }
}
