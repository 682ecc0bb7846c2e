//! What layers say is what the root file system has.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use hearth_tests::layer::Layer;
use support::{Place, What, content, names};

#[tokio::test]
async fn a_loaded_image_is_listed_and_its_root_has_its_files() {
    let place = Place::new().await;
    let layer = Layer::new()
        .dir("bin", 0o755)
        .file("bin/sh", 0o4755, b"#!shell");
    let image = support::image(vec![layer]);
    let loaded = place.load(&image.docker_archive("test:1")).await.unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].id.to_string(), image.id());
    assert_eq!(loaded[0].tags[0].familiar(), "test:1");

    let listed = place.store.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].id, loaded[0].id);
    assert_eq!(listed[0].config.config.cmd, ["/bin/sh"]);
    assert_eq!(listed[0].size_bytes, 7);
    assert_eq!(
        place.store.image(&loaded[0].id).await.unwrap().as_ref(),
        listed.first()
    );

    let paths = support::paths(&place.store.root_file(&loaded[0].id));
    assert_eq!(names(&paths), ["/bin", "/bin/sh"]);
    assert_eq!(content(&paths, "/bin/sh"), b"#!shell");
    assert_eq!(paths["/bin/sh"].mode, 0o4755);
    assert_eq!(paths["/bin"].mode, 0o755);
    assert_eq!(paths["/bin"].what, What::Directory);
}

#[tokio::test]
async fn the_same_image_gives_the_same_bytes_however_it_comes() {
    let layers = || {
        vec![
            Layer::new()
                .dir("a", 0o755)
                .file("a/big", 0o644, &[7; 20_000])
                .file("b", 0o600, b"b"),
            Layer::new()
                .file("a/big", 0o644, &[8; 5000])
                .symlink("c", "a/big"),
        ]
    };
    let (one, two) = (Place::new().await, Place::new().await);
    let image = support::image(layers());
    let first = one.load(&image.docker_archive("x:1")).await.unwrap();
    let second = two.load(&image.oci_archive("y:2")).await.unwrap();
    assert_eq!(first[0].id, second[0].id);
    assert!(
        support::root_bytes(&one.store, &first[0].id)
            == support::root_bytes(&two.store, &second[0].id)
    );
}

#[tokio::test]
async fn whiteouts_hide_what_is_below_and_only_that() {
    let place = Place::new().await;
    let lower = Layer::new()
        .file("gone", 0o644, b"")
        .file("kept", 0o644, b"")
        .dir("emptied", 0o755)
        .file("emptied/old", 0o644, b"")
        .dir("emptied/sub", 0o755)
        .file("emptied/sub/old", 0o644, b"")
        .dir("dropped", 0o755)
        .file("dropped/file", 0o644, b"");
    let upper = Layer::new()
        .file("emptied/new", 0o644, b"")
        .file("emptied/sub/new", 0o644, b"")
        // After the names that it must not hide.
        .file("emptied/.wh..wh..opq", 0o644, b"")
        .file(".wh.gone", 0o644, b"")
        .file(".wh.never-was", 0o644, b"")
        .file("again", 0o644, b"")
        .file(".wh.again", 0o644, b"")
        .file(".wh.dropped", 0o644, b"")
        .file("not/there/.wh.x", 0o644, b"")
        .file("kept/.wh.below-a-file", 0o644, b"")
        .file("kept/.wh..wh..opq", 0o644, b"");
    let paths = place.look(vec![lower, upper]).await.unwrap();
    assert_eq!(
        names(&paths),
        [
            "/again",
            "/emptied",
            "/emptied/new",
            "/emptied/sub",
            "/emptied/sub/new",
            "/kept"
        ]
    );
}

#[tokio::test]
async fn a_later_layer_replaces_files_by_directories_and_back_and_merges_directories() {
    let place = Place::new().await;
    let lower = Layer::new()
        .file("file-to-dir", 0o644, b"")
        .dir("dir-to-file", 0o755)
        .file("dir-to-file/x", 0o644, b"")
        .symlink("link-to-dir", "file-to-dir")
        .dir("merged", 0o700)
        .file("merged/a", 0o644, b"old");
    let upper = Layer::new()
        .dir("file-to-dir", 0o755)
        .file("file-to-dir/y", 0o644, b"")
        .file("dir-to-file", 0o644, b"file")
        .dir("link-to-dir", 0o755)
        .dir("merged", 0o751)
        .file("merged/b", 0o644, b"new");
    let paths = place.look(vec![lower, upper]).await.unwrap();
    assert_eq!(
        names(&paths),
        [
            "/dir-to-file",
            "/file-to-dir",
            "/file-to-dir/y",
            "/link-to-dir",
            "/merged",
            "/merged/a",
            "/merged/b"
        ]
    );
    assert_eq!(content(&paths, "/dir-to-file"), b"file");
    assert_eq!(paths["/link-to-dir"].what, What::Directory);
    assert_eq!(paths["/merged"].mode, 0o751);
}

#[tokio::test]
async fn hard_links_share_an_inode_across_layers_too() {
    let place = Place::new().await;
    let lower = Layer::new().file("a", 0o644, b"shared").hard_link("b", "a");
    let upper = Layer::new().hard_link("d/c", "b").file("a", 0o644, b"own");
    let paths = place.look(vec![lower, upper]).await.unwrap();
    assert_eq!(paths["/b"].inode, paths["/d/c"].inode);
    assert_eq!(paths["/b"].links, 2);
    assert_eq!(content(&paths, "/d/c"), b"shared");
    assert_eq!(content(&paths, "/a"), b"own");
    assert_eq!(paths["/a"].links, 1);
}

#[tokio::test]
async fn attributes_owners_and_long_names_survive() {
    let place = Place::new().await;
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(255));
    let layer = Layer::new()
        .file_with_xattrs(
            "ping",
            0o755,
            b"elf",
            &[
                ("security.capability", capability),
                ("user.empty", b""),
                ("user.n\u{e4}me", b"v\n="),
            ],
        )
        .file_with_xattrs("mac", 0o644, b"", &[("com.apple.provenance", b"x")])
        .owned_file("big-owner", 0o6640, 4_000_000_000, 3_999_999_999, b"")
        .file(&long, 0o644, b"long")
        .symlink("s", &"t".repeat(3000))
        .owned_dir("tmp", 0o1777, 5, 6);
    let paths = place.look(vec![layer]).await.unwrap();
    assert_eq!(
        paths["/ping"].xattrs[b"security.capability".as_slice()],
        capability
    );
    assert_eq!(paths["/ping"].xattrs[b"user.empty".as_slice()], b"");
    assert_eq!(paths["/ping"].xattrs["user.n\u{e4}me".as_bytes()], b"v\n=");
    assert!(
        paths["/mac"].xattrs.is_empty(),
        "no Linux file system takes this one"
    );
    assert_eq!(paths["/big-owner"].owner, (4_000_000_000, 3_999_999_999));
    assert_eq!(paths["/big-owner"].mode, 0o6640);
    assert_eq!(content(&paths, &format!("/{long}")), b"long");
    assert_eq!(paths["/s"].what, What::Symlink("t".repeat(3000)));
    assert_eq!((paths["/tmp"].mode, paths["/tmp"].owner), (0o1777, (5, 6)));
    assert_eq!(paths["/ping"].mtime, (1_704_067_200, 0));
}

#[tokio::test]
async fn a_directory_of_many_names_is_found_by_each_of_them() {
    let place = Place::new().await;
    let mut layer = Layer::new();
    let mut expected = vec!["/d".to_owned()];
    for number in 0..3000 {
        // Names around `.` and `..` in the order of bytes, and of many lengths.
        let name = match number % 3 {
            0 => format!("-{number}{}", "x".repeat(number % 97)),
            1 => format!(".{number}"),
            _ => format!("n{number}{}", "y".repeat(number % 211)),
        };
        layer = layer.file(&format!("d/{name}"), 0o644, name.as_bytes());
        expected.push(format!("/d/{name}"));
    }
    expected.sort();
    let paths = place.look(vec![layer]).await.unwrap();
    assert_eq!(names(&paths), expected);
    for name in &expected[1..] {
        assert_eq!(
            content(&paths, name),
            name.strip_prefix("/d/").unwrap().as_bytes()
        );
    }
}

#[tokio::test]
async fn entries_through_an_inner_symlink_land_where_it_leads() {
    let place = Place::new().await;
    let lower = Layer::new()
        .dir("usr/lib", 0o755)
        .symlink("lib", "usr/lib")
        .symlink("run", "/var/run");
    let upper = Layer::new()
        .file("lib/new", 0o644, b"1")
        .file("run/pid", 0o644, b"2");
    let paths = place.look(vec![lower, upper]).await.unwrap();
    assert_eq!(content(&paths, "/usr/lib/new"), b"1");
    assert_eq!(content(&paths, "/var/run/pid"), b"2");
    assert_eq!(paths["/lib"].what, What::Symlink("usr/lib".to_owned()));
}
