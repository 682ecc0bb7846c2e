//! Images: pulled from a real registry, loaded from archives, listed, tagged, removed.

use std::os::unix::fs::FileExt;

use hearth_tests::archive::{Encoding, Image};
use hearth_tests::docker::Docker;
use hearth_tests::layer::Layer;
use hearth_tests::registry::CREDENTIALS;
use hearth_tests::target::{self, Target};
use hearth_tests::{archive, images};
use serde_json::json;

fn setup() -> (&'static Target, &'static Docker) {
    let target = target::shared();
    (target, target.docker())
}

/// The same, where nothing is booted: for cases about what is known of an image, and not about what is in it.
fn plain() -> (&'static Target, &'static Docker) {
    let target = target::plain();
    (target, target.docker())
}

/// The image's id, as `docker image inspect` has it.
#[track_caller]
fn id_of(docker: &Docker, name: &str) -> String {
    docker.ok(&["image", "inspect", "-f", "{{.Id}}", name])
}

/// busybox with a file that only `name`'s case has, so that each case has an image of its own.
fn marked(name: &str) -> Image {
    images::busybox().with_layer(Layer::new().file("mark", 0o644, name.as_bytes()))
}

/// Pulls `repository` and checks that it runs and has its mark.
#[track_caller]
fn pull_and_run(target: &Target, docker: &Docker, repository: &str) -> String {
    let reference = target.image_at(target.registry().port(), repository);
    docker.run(&["pull", &reference]).exits(0);
    assert_eq!(
        docker.ok(&["run", "--rm", &reference, "cat", "/mark"]),
        repository
    );
    reference
}

#[test]
fn gzip_zstd_and_plain_layers_are_pulled() {
    let (target, docker) = setup();
    for (name, encoding) in [
        ("gzip", Encoding::Gzip),
        ("plain", Encoding::Plain),
        ("zstd", Encoding::Zstd),
    ] {
        if encoding == Encoding::Zstd && !target.is_hearth() {
            continue; // Engines before 23 don't know it.
        }
        target
            .registry()
            .push(name, "latest", &marked(name), encoding);
        pull_and_run(target, docker, name);
    }
}

#[test]
fn a_pull_says_what_it_does_and_the_digest() {
    let (target, docker) = plain();
    // A layer that the node can't have from anywhere else.
    let name = format!("progress {:?}", std::time::SystemTime::now());
    let digest = target
        .registry()
        .push("progress", "v1", &marked(&name), Encoding::Gzip);
    let reference = target.image_at(target.registry().port(), "progress:v1");
    let text = docker.run(&["pull", &reference]).exits(0).text();
    for words in [
        "v1: Pulling from progress",
        "Pull complete",
        &format!("Digest: {digest}"),
        "Status: Downloaded newer image for",
    ] {
        assert!(text.contains(words), "{words:?} isn't in:\n{text}");
    }
    assert!(text.trim_end().ends_with(&reference), "{text}");
    let again = docker.run(&["pull", &reference]).exits(0).text();
    assert!(again.contains("Status: Image is up to date for"), "{again}");
    assert_eq!(docker.ok(&["pull", "-q", &reference]), reference);
}

#[test]
fn of_a_list_this_platforms_image_is_taken() {
    let (target, docker) = setup();
    let other =
        images::busybox().with_layer(Layer::new().file("mark", 0o644, b"the wrong platform"));
    target
        .registry()
        .push_list("listed", "latest", &marked("listed"), &other);
    let reference = pull_and_run(target, docker, "listed");
    assert_eq!(id_of(docker, &reference), marked("listed").id());
}

#[test]
fn an_image_is_pulled_by_digest() {
    let (target, docker) = plain();
    let digest =
        target
            .registry()
            .push("by-digest", "latest", &marked("by-digest"), Encoding::Gzip);
    let reference = target.image_at(target.registry().port(), &format!("by-digest@{digest}"));
    docker.run(&["pull", &reference]).exits(0);
    assert_eq!(id_of(docker, &reference), marked("by-digest").id());
    let digests = docker.ok(&[
        "image",
        "inspect",
        "-f",
        "{{json .RepoDigests}}",
        &reference,
    ]);
    assert!(digests.contains(&digest), "{digests}");
}

#[test]
fn a_digest_beside_a_tag_is_what_is_meant() {
    let (target, docker) = plain();
    let (registry, old, new) = (target.registry(), marked("moved-old"), marked("moved-new"));
    let digest = registry.push("moved", "1", &old, Encoding::Gzip);
    let tagged = target.image_at(registry.port(), "moved:1");
    docker.run(&["pull", &tagged]).exits(0);
    let newer = registry.push("moved", "1", &new, Encoding::Gzip);
    docker.run(&["pull", &tagged]).exits(0);
    let both = format!("{tagged}@{digest}");
    assert_eq!(id_of(docker, &tagged), new.id());
    assert_eq!(id_of(docker, &both), old.id());
    let container = docker.container("moved");
    docker.ok(&["create", "--name", &container.name, &both, "true"]);
    assert_eq!(container.field("/Image"), old.id());
    docker.ok(&["rm", &container.name]);
    // The digest goes, and the tag, which names another image by now, stays.
    let text = docker.ok(&["rmi", &both]);
    let untagged = format!("Untagged: {}@{digest}", tagged.trim_end_matches(":1"));
    assert!(text.starts_with(&untagged), "{text}");
    assert!(text.contains(&format!("Deleted: {}", old.id())), "{text}");
    assert_eq!(id_of(docker, &tagged), new.id());
    // And where both name one image.
    let text = docker.ok(&["rmi", &format!("{tagged}@{newer}")]);
    assert!(!text.contains("Deleted"), "{text}");
    assert_eq!(id_of(docker, &tagged), new.id());
}

#[test]
fn every_tag_of_a_repository_is_pulled() {
    let (target, docker) = plain();
    let registry = target.registry();
    for tag in ["one", "two"] {
        registry.push("all-tags", tag, &marked(tag), Encoding::Gzip);
    }
    let repository = target.image_at(registry.port(), "all-tags");
    let text = docker.run(&["pull", "-a", &repository]).exits(0).text();
    assert!(
        text.contains("Status: Downloaded newer image for"),
        "{text}"
    );
    for tag in ["one", "two"] {
        let name = format!("{repository}:{tag}");
        assert_eq!(id_of(docker, &name), marked(tag).id());
    }
}

#[test]
fn run_pulls_what_is_missing() {
    let (target, docker) = setup();
    target
        .registry()
        .push("run-pulls", "latest", &marked("run-pulls"), Encoding::Gzip);
    let reference = target.image_at(target.registry().port(), "run-pulls");
    let done = docker
        .run(&["run", "--rm", &reference, "cat", "/mark"])
        .exits(0);
    assert_eq!(done.text(), "run-pulls");
    assert!(done.stderr.contains("Unable to find image"), "{done:?}");
}

#[test]
fn a_private_registry_wants_the_right_password() {
    let (target, docker) = plain();
    let registry = target.private_registry();
    registry.push("private", "latest", &marked("private"), Encoding::Gzip);
    let reference = target.image_at(registry.port(), "private");
    docker
        .run(&["pull", &reference])
        .exits(1)
        .fails_saying(&["auth"]);
    let known = docker.with_program("docker".as_ref());
    let address = format!("{}:{}", target.host_address(), registry.port());
    known.give_credentials(&address, "hearth:wrong");
    known
        .run(&["pull", &reference])
        .exits(1)
        .fails_saying(&["auth"]);
    known.give_credentials(&address, CREDENTIALS);
    known.run(&["pull", &reference]).exits(0);
    assert_eq!(id_of(docker, &reference), marked("private").id());
}

#[test]
fn old_and_new_archives_are_loaded() {
    let (target, docker) = setup();
    let archive = marked("old-archive").docker_archive("hearth-test/old-archive:1");
    let text = docker.run_with_input(&["load"], &archive).exits(0).text();
    assert!(
        text.contains("Loaded image: hearth-test/old-archive:1"),
        "{text}"
    );
    assert_eq!(
        docker.ok(&["run", "--rm", "hearth-test/old-archive:1", "cat", "/mark"]),
        "old-archive"
    );

    let archive = marked("new-archive").oci_archive("hearth-test/new-archive:1");
    let file = tempfile::NamedTempFile::new().expect("the temporary folder is writable");
    std::fs::write(file.path(), archive).expect("the temporary folder is writable");
    let path = file.path().to_str().expect("its name is text");
    docker.run(&["load", "-q", "-i", path]).exits(0);
    assert_eq!(
        docker.ok(&["run", "--rm", "hearth-test/new-archive:1", "cat", "/mark"]),
        "new-archive"
    );
    assert_eq!(
        id_of(docker, "hearth-test/new-archive:1"),
        marked("new-archive").id()
    );
    let _ = target;
}

#[test]
fn a_compressed_archive_is_loaded() {
    let (_, docker) = plain();
    let archive =
        Encoding::Gzip.encode(&marked("gz-archive").docker_archive("hearth-test/gz-archive:1"));
    docker.run_with_input(&["load"], &archive).exits(0);
    assert_eq!(
        id_of(docker, "hearth-test/gz-archive:1"),
        marked("gz-archive").id()
    );
}

#[test]
fn images_lists_tags_ids_and_sizes() {
    let (target, docker) = plain();
    let tag = target.loaded("hearth-test/list:v7", || marked("list"));
    let row = docker.ok(&[
        "images",
        "--no-trunc",
        "--format",
        "{{.Repository}} {{.Tag}} {{.ID}}",
        "hearth-test/list",
    ]);
    assert_eq!(row, format!("hearth-test/list v7 {}", marked("list").id()));
    assert_eq!(
        docker.ok(&["images", "-q", "--no-trunc", &tag]),
        marked("list").id()
    );
    let table = docker.ok(&["images"]);
    assert!(
        table.contains("hearth-test/list") && table.contains("MB"),
        "{table}"
    );
    let filtered = docker.ok(&[
        "images",
        "--filter",
        "reference=hearth-test/li*",
        "--format",
        "{{.Repository}}",
    ]);
    assert_eq!(filtered, "hearth-test/list");
}

#[test]
fn image_inspect_tells_the_images_configuration() {
    let (target, docker) = setup();
    let tag = target.loaded("hearth-test/configured:latest", || {
        images::busybox().with_config(json!({
            "Env": ["PATH=/bin", "COLOUR=green"],
            "Cmd": ["-c", "echo $COLOUR $(pwd) $(id -un)"],
            "Entrypoint": ["/bin/sh"],
            "WorkingDir": "/tmp",
            "User": "app",
            "Labels": { "org.example": "yes" },
            "ExposedPorts": { "8080/tcp": {} },
            "StopSignal": "SIGINT",
        }))
    });
    let image = docker.inspect(&tag);
    let at = |pointer: &str| {
        image
            .pointer(pointer)
            .unwrap_or_else(|| panic!("no {pointer} in {image:#}"))
    };
    assert_eq!(*at("/RepoTags/0"), tag);
    assert_eq!(*at("/Config/Env"), json!(["PATH=/bin", "COLOUR=green"]));
    assert_eq!(*at("/Config/Entrypoint"), json!(["/bin/sh"]));
    assert_eq!(*at("/Config/Labels/org.example"), "yes");
    assert_eq!(*at("/Architecture"), "amd64");
    assert_eq!(*at("/Os"), "linux");
    assert_eq!(
        *at("/RootFS/Layers/0"),
        archive::digest(&images::busybox().layers()[0])
    );
    assert!(at("/Size").as_u64() > Some(1 << 20), "{image:#}");
    // And a container has all of it.
    assert_eq!(docker.ok(&["run", "--rm", &tag]), "green /tmp app");
}

#[test]
fn a_tag_is_another_name_for_the_same_image() {
    let (target, docker) = plain();
    let tag = target.loaded("hearth-test/tagged:one", || marked("tagged"));
    docker
        .run(&["tag", &tag, "hearth-test/tagged:two"])
        .exits(0);
    let id = id_of(docker, &tag);
    assert_eq!(id_of(docker, "hearth-test/tagged:two"), id);
    // Removing one name leaves the image with the other.
    let text = docker.ok(&["rmi", "hearth-test/tagged:two"]);
    assert_eq!(text, "Untagged: hearth-test/tagged:two");
    assert_eq!(id_of(docker, &tag), id);
    docker
        .run(&["tag", "no-such-image", "hearth-test/x"])
        .exits(1)
        .fails_saying(&["no such image"]);
    docker
        .run(&["tag", &tag, "Not/A/Name"])
        .exits(1)
        .fails_saying(&["invalid reference format"]);
}

#[test]
fn a_removed_image_is_gone() {
    let (_, docker) = plain();
    let archive = marked("removed").docker_archive("hearth-test/removed:1");
    docker.run_with_input(&["load"], &archive).exits(0);
    let text = docker.ok(&["rmi", "hearth-test/removed:1"]);
    assert!(text.contains("Untagged: hearth-test/removed:1"), "{text}");
    assert!(
        text.contains(&format!("Deleted: {}", marked("removed").id())),
        "{text}"
    );
    docker
        .run(&["image", "inspect", "hearth-test/removed:1"])
        .exits(1)
        .fails_saying(&["no such image"]);
    docker
        .run(&["rmi", "hearth-test/removed:1"])
        .exits(1)
        .fails_saying(&["no such image"]);
}

#[test]
fn an_image_in_use_stays() {
    let (target, docker) = plain();
    let tag = target.loaded("hearth-test/in-use:1", || marked("in-use"));
    let container = docker.container("in-use");
    docker.ok(&[
        "run",
        "-d",
        "--name",
        &container.name,
        &tag,
        "sleep",
        "100000",
    ]);
    docker
        .run(&["rmi", &tag])
        .exits(1)
        .fails_saying(&["conflict", "container"]);
    assert_eq!(id_of(docker, &tag), marked("in-use").id());
    assert_eq!(container.field("/State/Running"), true);
}

#[test]
fn whiteouts_links_modes_and_attributes_are_as_the_layers_say() {
    let (target, docker) = setup();
    let long = format!("deep/{}/{}", "l".repeat(120), "n".repeat(200));
    // VFS_CAP_REVISION_2, effective; permitted: CAP_NET_BIND_SERVICE (linux/capability.h).
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let lower = Layer::new()
        .dir("kept", 0o755)
        .file("kept/gone", 0o644, b"x")
        .file("kept/stays", 0o644, b"x")
        .dir("emptied", 0o755)
        .file("emptied/old", 0o644, b"x")
        .dir("replaced", 0o755)
        .file("replaced/inside", 0o644, b"x")
        .file("linked", 0o644, b"two names")
        .hard_link("linked-too", "linked")
        .file("setuid", 0o4755, b"x")
        .dir("sticky", 0o1777)
        .owned_file("large-ids", 0o640, 3_000_000_000, 2_999_999_999, b"x")
        .file_with_xattrs(
            "capable/busybox",
            0o755,
            b"x",
            &[("security.capability", capability)],
        )
        .file(&long, 0o644, b"long");
    let upper = Layer::new()
        .file("kept/.wh.gone", 0o644, b"")
        .dir("emptied", 0o755)
        .file("emptied/.wh..wh..opq", 0o644, b"")
        .file("emptied/new", 0o644, b"x")
        .file("replaced", 0o600, b"a file now");
    let tag = target.loaded("hearth-test/layers:1", || {
        images::busybox().with_layer(lower).with_layer(upper)
    });
    let look = |script: &str| docker.ok(&["run", "--rm", &tag, "sh", "-c", script]);
    let text = look(&format!(
        "ls -A /kept /emptied; cat /replaced; echo; stat -c '%h %i' /linked /linked-too | uniq | wc -l; \
         stat -c %a /setuid /sticky; stat -c '%u:%g' /large-ids; cat /{long}"
    ));
    assert_eq!(
        text,
        "/emptied:\nnew\n\n/kept:\nstays\na file now\n1\n4755\n1777\n3000000000:2999999999\nlong"
    );
}

#[test]
fn a_file_capability_survives_the_way_into_the_container() {
    let (target, docker) = setup();
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let program = xtask::prerequisites::busybox().expect("apt has busybox-static");
    let program = std::fs::read(program).expect("it was found");
    let tag = target.loaded("hearth-test/capable:1", || {
        images::busybox().with_layer(Layer::new().file_with_xattrs(
            "capable/busybox",
            0o755,
            &program,
            &[("security.capability", capability)],
        ))
    });
    // The file's capabilities are permitted to whoever executes it, an ordinary user too.
    let text = docker.ok(&[
        "run",
        "--rm",
        "-u",
        "app",
        &tag,
        "/capable/busybox",
        "grep",
        "CapEff",
        "/proc/self/status",
    ]);
    assert_eq!(
        text.split_whitespace().last(),
        Some("0000000000000400"),
        "{text}"
    );
}

#[test]
fn a_sparse_file_is_as_long_as_it_says() {
    let (target, docker) = setup();
    // 64 MiB, of which the last byte is written.
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let file = std::fs::File::create(folder.path().join("sparse")).expect("it takes a file");
    file.write_all_at(b"!", (64 << 20) - 1)
        .expect("it takes a sparse file");
    // dockerd doesn't know GNU's older form.
    let formats = if target.is_hearth() {
        &["pax", "gnu"][..]
    } else {
        &["pax"]
    };
    for format in formats {
        let output = std::process::Command::new("tar")
            .args([
                &format!("--format={format}"),
                "--sparse",
                "--owner=0",
                "--group=0",
                "-C",
            ])
            .arg(folder.path())
            .args(["-c", "sparse"])
            .output()
            .expect("tar is there");
        let busybox = images::busybox();
        let layers = [busybox.layers(), &[output.stdout]].concat();
        let tag = target.loaded(&format!("hearth-test/sparse:{format}"), || {
            Image::new(json!({ "Cmd": ["sh"] }), layers)
        });
        let script =
            "stat -c %s /sparse; tail -c 1 /sparse; head -c 4096 /sparse | tr -d '\\0' | wc -c";
        let text = docker.ok(&["run", "--rm", &tag, "sh", "-c", script]);
        assert_eq!(text, "67108864\n!0", "{format}");
    }
}
