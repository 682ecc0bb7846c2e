//! Layers and archives as real builders write them, which all load.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::Write;

use hearth_image::Error;
use hearth_tests::{
    archive::{Encoding, digest},
    layer::Layer,
};
use support::{Place, What, content, noise};

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
async fn files_that_aufs_keeps_for_hard_links_are_found_by_them() {
    let link = tar::EntryType::Link;
    let layer = || {
        Layer::new()
            .dir(".wh..wh.orph", 0o700)
            .file(".wh..wh.orph/left", 0o600, &[1; 10_000])
            .file(".wh..wh.aufs", 0o444, b"")
            .dir(".wh..wh.plnk", 0o700)
            .file(".wh..wh.plnk/12.34", 0o4755, b"linked")
            .raw_link(link, "sudo", ".wh..wh.plnk/12.34")
            .raw_link(link, "sudoedit", "/.wh..wh.plnk/12.34")
    };
    let place = Place::new().await;
    let paths = place.look(vec![layer()]).await.unwrap();
    assert_eq!(support::names(&paths), ["/sudo", "/sudoedit"]);
    assert_eq!(content(&paths, "/sudo"), b"linked");
    assert_eq!((paths["/sudo"].mode, paths["/sudo"].links), (0o4755, 2));
    // They are each layer's own.
    let other = Layer::new().raw_link(link, "x", ".wh..wh.plnk/12.34");
    let err = place.look(vec![layer(), other]).await.unwrap_err();
    assert!(err.to_string().contains("does not exist"), "{err}");
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
    // Two blocks and a stream more, with the padding that may follow each stream.
    let xz = [xz(front, 1), vec![0; 8], xz(back, 9), vec![0; 4]].concat();
    for packed in [gzip, zstd, skipped, bzip2.concat(), xz] {
        let place = Place::new().await;
        let loaded = place.load(&packed_archive(&layer, &packed)).await.unwrap();
        let paths = support::paths(&place.store.root_file(&loaded[0].id));
        assert_eq!(content(&paths, "/a").len(), 100_000);
    }
}

#[tokio::test]
async fn an_xz_stream_gets_no_more_memory_than_xz_asks_for() {
    let layer = Layer::new().file("a", 0o644, &noise(5000)).finish();
    // xz-file-format, section 5.3.1: 28 is 64 MiB, 29 is 96 MiB, 40 is 4 GiB less one byte.
    for (size, taken) in [(28, true), (29, false), (40, false)] {
        let mut packed = xz(&layer, 6);
        // Behind the stream's header: size and flags of the block's header, the filter's id, 1, and this; its CRC32 last.
        assert_eq!(packed[14..16], [0x21, 1]);
        packed[16] = size;
        let end = 12 + usize::from(packed[12]) * 4;
        let mut crc = flate2::Crc::new();
        crc.update(&packed[12..end]);
        packed[end..end + 4].copy_from_slice(&crc.sum().to_le_bytes());
        let loaded = Place::new().await;
        let loaded = loaded.load(&packed_archive(&layer, &packed)).await;
        match loaded {
            Ok(_) => assert!(taken, "{size}"),
            Err(Error::TooLarge { what, .. }) => assert!(!taken && what.contains("xz"), "{what}"),
            Err(other) => panic!("{size}: {other}"),
        }
    }
}

#[tokio::test]
async fn a_damaged_layer_is_refused_wherever_the_damage_is() {
    let layer = Layer::new().file("a", 0o644, &noise(3000)).finish();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&layer).unwrap();
    let place = Place::new().await;
    for packed in [
        Encoding::Gzip.encode(&layer),
        Encoding::Zstd.encode(&layer),
        bzip2.finish().unwrap(),
        xz(&layer, 6),
    ] {
        for at in (6..packed.len()).step_by(61) {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x55;
            // A byte that says nothing (a time, a comment's flag) may differ; the digest of what comes out decides.
            for bytes in [damaged, packed[..at].to_vec()] {
                match place.load(&packed_archive(&layer, &bytes)).await {
                    Ok(_) => assert_eq!(bytes.len(), packed.len(), "cut short at {at}"),
                    Err(Error::Malformed { reason, .. }) => {
                        assert!(!reason.contains("log"), "a thread failed: {reason}");
                    }
                    Err(Error::DigestMismatch { .. } | Error::TooLarge { .. }) => {}
                    Err(other) => panic!("{at}: {other}"),
                }
            }
        }
    }
}

fn xz(plain: &[u8], level: u32) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(level);
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(plain).unwrap();
    writer.finish().unwrap()
}

/// An image of one layer, stored as these bytes under a name that says nothing.
fn packed_archive(layer: &[u8], packed: &[u8]) -> Vec<u8> {
    let config = support::image(vec![]).config_file();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    config["rootfs"]["diff_ids"] = serde_json::json!([digest(layer)]);
    config["x-unknown"] = serde_json::json!([{ "a": null }]);
    Layer::new()
        .file("c.json.txt", 0o644, config.to_string().as_bytes())
        .file("layer", 0o644, packed)
        .file(
            "manifest.json",
            0o644,
            br#"[{"Config":"c.json.txt","RepoTags":["a:1"],"Layers":["layer"]}]"#,
        )
        .finish()
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
