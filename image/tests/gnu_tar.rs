//! GNU tar's own archives, and GNU tar's own comparison with what the kernel shows of them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use hearth_tests::{archive::Image, layer::Layer};
use serde_json::json;
use support::{Place, content};
use tempfile::TempDir;

/// Runs a command; `None` if it isn't installed.
fn run(program: &str, arguments: &[&str]) -> Option<(bool, String)> {
    match Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .output()
    {
        Err(err) if err.kind() == ErrorKind::NotFound => {
            support::skipped(&format!("{program} is missing"));
            None
        }
        output => {
            let output = output.unwrap();
            let text = [output.stdout, output.stderr].concat();
            Some((
                output.status.success(),
                String::from_utf8_lossy(&text).into_owned(),
            ))
        }
    }
}

fn tar_of(tree: &Path, options: &[&str]) -> Option<Vec<u8>> {
    let archive = tree.with_extension("tar");
    let name = archive.to_str().unwrap().to_owned();
    let mut arguments = vec!["--sort=name", "-C", tree.to_str().unwrap(), "-cf", &name];
    arguments.extend(options);
    arguments.push(".");
    let (ok, said) = run("tar", &arguments)?;
    assert!(ok, "{said}");
    Some(fs::read(archive).unwrap())
}

#[tokio::test]
async fn all_forms_of_sparse_files_keep_their_data_and_their_holes() {
    let dir = TempDir::new().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let sparse = File::create(tree.join("sparse")).unwrap();
    for number in 0..40u64 {
        sparse
            .write_all_at(&[number as u8 + 1; 5000], number * 1_000_000 + 123)
            .unwrap();
    }
    sparse.set_len(64 << 20).unwrap();
    File::create(tree.join("hole"))
        .unwrap()
        .set_len(10_000_000)
        .unwrap();
    fs::write(tree.join("after"), b"after").unwrap();
    let expected = fs::read(tree.join("sparse")).unwrap();
    for options in [
        &["-S", "--format=gnu"][..],
        &["-S", "--format=posix", "--sparse-version=0.0"],
        &["-S", "--format=posix", "--sparse-version=0.1"],
        &["-S", "--format=posix", "--sparse-version=1.0"],
    ] {
        let Some(tar) = tar_of(&tree, options) else {
            return;
        };
        assert!(tar.len() < 2_000_000, "the archive isn't sparse");
        let place = Place::new().await;
        let image = Image::new(json!({}), vec![tar]);
        let loaded = place.load(&image.docker_archive("sparse:1")).await.unwrap();
        let held = place.store.image(&loaded[0].id).await.unwrap().unwrap();
        assert!(
            held.disk_bytes < 4_000_000,
            "{options:?}: {} bytes",
            held.disk_bytes
        );
        let paths = support::paths(&place.store.root_file(&loaded[0].id));
        assert!(content(&paths, "/sparse") == expected, "{options:?}");
        assert_eq!(content(&paths, "/hole").len(), 10_000_000);
        assert_eq!(content(&paths, "/after"), b"after");
    }
}

#[tokio::test]
async fn times_and_owners_are_those_that_gnu_tar_wrote() {
    let dir = TempDir::new().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("f"), b"").unwrap();
    let owner = ["--owner=x:4294967294", "--group=x:2147483648"];
    for (format, mtime, kept) in [
        ("posix", "@-1.25", (-2, 750_000_000)),
        ("posix", "@16725225600.000000001", (16_725_225_600, 1)),
        ("gnu", "@-1", (-1, 0)),
        ("gnu", "@16725225600", (16_725_225_600, 0)),
    ] {
        let (format, mtime) = (format!("--format={format}"), format!("--mtime={mtime}"));
        let Some(tar) = tar_of(&tree, &[&[&*format, &*mtime], &owner[..]].concat()) else {
            return;
        };
        let place = Place::new().await;
        let image = Image::new(json!({}), vec![tar]);
        let loaded = place.load(&image.oci_archive("tree:1")).await.unwrap();
        let paths = support::paths(&place.store.root_file(&loaded[0].id));
        assert_eq!(paths["/f"].mtime, kept, "{format}");
        assert_eq!(paths["/f"].owner, (4_294_967_294, 2_147_483_648));
    }
}

#[tokio::test]
async fn what_xz_has_packed_is_unpacked_at_every_level_and_with_every_check() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("archive");
    let image = support::image(vec![Layer::new().file(
        "a",
        0o644,
        &support::noise(300_000),
    )]);
    fs::write(&file, image.docker_archive("a:1")).unwrap();
    let name = file.to_str().unwrap();
    for options in [
        &["-0", "--check=none"][..],
        &["-9e", "--check=crc32"],
        // Several blocks, as several threads write them.
        &["--block-size=65536", "-T2", "--check=crc64"],
        &[
            "--x86",
            "--delta=dist=3",
            "--lzma2=dict=64MiB",
            "--check=sha256",
        ],
    ] {
        let arguments = [options, &["-k", "-f", name]].concat();
        let Some((packed, said)) = run("xz", &arguments) else {
            return;
        };
        assert!(packed, "{said}");
        let archive = fs::read(file.with_extension("xz")).unwrap();
        let loaded = Place::new().await.load(&archive).await.unwrap();
        assert_eq!(loaded[0].id.to_string(), image.id(), "{options:?}");
    }
}

#[tokio::test]
async fn the_kernel_shows_what_gnu_tar_has_packed() {
    let dir = TempDir::new().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("deep/er")).unwrap();
    for number in 0..500 {
        let name = format!("deep/{}{number}", "n".repeat(number % 120));
        fs::write(tree.join(name), vec![number as u8; number * 37]).unwrap();
    }
    fs::write(tree.join("deep/er/setuid"), b"x").unwrap();
    let setuid = fs::Permissions::from_mode(0o6751);
    fs::set_permissions(tree.join("deep/er/setuid"), setuid).unwrap();
    fs::hard_link(tree.join("deep/er/setuid"), tree.join("deep/linked")).unwrap();
    symlink("deep/er", tree.join("link")).unwrap();
    symlink("x".repeat(2000), tree.join("long-link")).unwrap();
    let root = rustix::process::geteuid().is_root();
    if root {
        for arguments in [["c", "1", "3"], ["b", "300", "70000"]] {
            let node = tree.join(arguments[0]);
            let (ok, said) = run(
                "mknod",
                &[&[node.to_str().unwrap()][..], &arguments].concat(),
            )
            .unwrap();
            assert!(ok, "{said}");
        }
        run("mkfifo", &[tree.join("fifo").to_str().unwrap()]).unwrap();
        std::os::unix::fs::lchown(tree.join("link"), Some(70_000), Some(80_000)).unwrap();
        rustix::fs::setxattr(
            tree.join("deep/er/setuid"),
            "user.colour",
            b"red",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
    }
    let options = ["--format=posix", "--xattrs", "--xattrs-include=*"];
    let Some(tar) = tar_of(&tree, &options) else {
        return;
    };
    let place = Place::new().await;
    let image = Image::new(json!({}), vec![tar]);
    let loaded = place.load(&image.oci_archive("tree:1")).await.unwrap();
    let root_file = place.store.root_file(&loaded[0].id);
    support::paths(&root_file);

    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !root || !filesystems.contains("erofs") {
        support::skipped("mounting needs root and a kernel with EROFS");
        return;
    }
    let mount_point = dir.path().join("mnt");
    fs::create_dir(&mount_point).unwrap();
    let at = mount_point.to_str().unwrap();
    let (ok, said) = run(
        "mount",
        &[
            "-t",
            "erofs",
            "-o",
            "loop,ro",
            root_file.to_str().unwrap(),
            at,
        ],
    )
    .unwrap();
    if !ok {
        support::skipped(&format!("no loop mounts here: {}", said.trim()));
        return;
    }
    let archive = tree.with_extension("tar");
    let compared = run(
        "tar",
        &["--xattrs", "-C", at, "-df", archive.to_str().unwrap()],
    );
    let linked = fs::metadata(mount_point.join("deep/linked"));
    let colour = Command::new("getfattr")
        .arg("-n")
        .arg("user.colour")
        .arg(mount_point.join("deep/linked"))
        .output();
    let (unmounted, said) = run("umount", &[at]).unwrap();
    assert!(unmounted, "{said}");
    let (same, said) = compared.unwrap();
    assert!(same, "{said}");
    assert_eq!(linked.unwrap().nlink(), 2);
    if let Ok(output) = colour {
        assert!(String::from_utf8_lossy(&output.stdout).contains("red"));
    }
}
