//! The data disk: full, absent, or somebody else's.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use hearth_tests::docker::Docker;
use hearth_tests::images;
use hearth_tests::node::{Disk, Node, Setup};
use sha2::{Digest, Sha256};

const BUSYBOX: &str = "hearth-test/busybox:latest";

#[track_caller]
fn load_busybox(docker: &Docker) {
    docker
        .run_with_input(&["load"], &images::busybox().docker_archive(BUSYBOX))
        .exits(0);
}

fn digest_of(path: &Path) -> String {
    let mut file = File::open(path).expect("the disk's file is there");
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).expect("the disk's file can be read");
        if count == 0 {
            return hex::encode(hash.finalize());
        }
        hash.update(&buffer[..count]);
    }
}

/// A node that keeps its data in memory says so where its owner looks.
#[track_caller]
fn says_that_it_forgets(node: &Node) {
    let info = node.docker().ok(&["info"]).to_lowercase();
    assert!(
        info.contains("ram") || info.contains("memory only"),
        "info doesn't say that data is in RAM:\n{info}"
    );
    let console = node.console().to_lowercase();
    assert!(
        console.contains("ram"),
        "the console doesn't say that data is in RAM:\n{console}"
    );
}

#[test]
fn without_a_disk_a_node_works_in_memory_and_says_so() {
    let node = Node::boot(&Setup {
        disk: Disk::None,
        ..Setup::default()
    });
    let docker = node.docker();
    load_busybox(&docker);
    assert_eq!(
        docker.ok(&["run", "--rm", BUSYBOX, "echo", "works"]),
        "works"
    );
    says_that_it_forgets(&node);
}

#[test]
fn a_disk_with_somebodys_data_is_never_touched() {
    let folder =
        tempfile::tempdir_in(hearth_tests::work_folder()).expect("the work folder is writable");
    let disk = folder.path().join("precious");
    let file = File::create(&disk).expect("the work folder is writable");
    file.set_len(256 << 20).expect("a sparse file is cheap");
    // An ext4 superblock's magic where it belongs, and something to lose further on.
    file.write_all_at(&[0x53, 0xef], 1024 + 56)
        .expect("it takes bytes");
    file.write_all_at(b"precious", 200 << 20)
        .expect("it takes bytes");
    drop(file);
    let before = digest_of(&disk);
    let node = Node::boot(&Setup {
        disk: Disk::File(disk.clone()),
        ..Setup::default()
    });
    load_busybox(&node.docker());
    assert_eq!(
        node.docker().ok(&["run", "--rm", BUSYBOX, "echo", "works"]),
        "works"
    );
    says_that_it_forgets(&node);
    node.cut_power();
    assert_eq!(digest_of(&disk), before, "the disk was written to");
}

#[test]
fn a_disk_that_is_blank_but_for_its_end_is_somebodys() {
    let folder =
        tempfile::tempdir_in(hearth_tests::work_folder()).expect("the work folder is writable");
    let disk = folder.path().join("late");
    let file = File::create(&disk).expect("the work folder is writable");
    file.set_len(256 << 20).expect("a sparse file is cheap");
    // Where GPT keeps its backup header, and RAID its metadata 1.0.
    file.write_all_at(b"EFI PART", (256 << 20) - 512)
        .expect("it takes bytes");
    drop(file);
    let before = digest_of(&disk);
    let node = Node::boot(&Setup {
        disk: Disk::File(disk.clone()),
        ..Setup::default()
    });
    says_that_it_forgets(&node);
    node.cut_power();
    assert_eq!(digest_of(&disk), before, "the disk was written to");
}

#[test]
fn a_full_disk_is_an_error_and_not_the_end() {
    let node = Node::boot(&Setup {
        disk: Disk::Blank(1024),
        ..Setup::default()
    });
    let docker = node.docker();
    load_busybox(&docker);
    let keeper = docker.container("keeper");
    docker.ok(&[
        "run",
        "--name",
        &keeper.name,
        BUSYBOX,
        "sh",
        "-c",
        "echo kept > /kept",
    ]);
    let hog = docker.container("hog");
    // What a store that compresses can't shrink, repeated so far apart that none sees it.
    let done = docker.run(&[
        "run",
        "--name",
        &hog.name,
        BUSYBOX,
        "sh",
        "-c",
        "dd if=/dev/urandom of=/some bs=1M count=4; for i in $(seq 500); do cat /some || exit 1; done >/hog && sync",
    ]);
    assert_ne!(
        done.code,
        Some(0),
        "2000 MiB fit on a disk of 1024: {done:?}"
    );
    // The API answers, and what there was is there.
    assert!(
        docker
            .ok(&["ps", "-a", "--format", "{{.Names}}"])
            .contains(&keeper.name)
    );
    // Room was kept for the node's own commits.
    let renamed = docker.container("renamed");
    docker.ok(&["rename", &keeper.name, &renamed.name]);
    docker.ok(&["tag", BUSYBOX, "hearth-test/full:latest"]);
    docker.ok(&["rmi", "hearth-test/full:latest"]);
    docker.ok(&["rename", &renamed.name, &keeper.name]);
    docker.run(&["rm", "-f", &hog.name]).exits(0);
    // With the hog gone there is room again.
    hearth_tests::process::eventually("nothing runs after the disk was full", || {
        (docker
            .run(&[
                "run",
                "--rm",
                BUSYBOX,
                "sh",
                "-c",
                "echo again > /again && sync",
            ])
            .code
            == Some(0))
        .then_some(())
    });
    docker.ok(&["start", "-a", &keeper.name]);
}

#[test]
fn a_layer_has_the_size_that_is_asked_for_and_full_is_full() {
    let target = hearth_tests::target::shared();
    if !target.is_hearth() {
        // Debian's dockerd has sizes on some file systems only.
        return;
    }
    let (docker, busybox) = (target.docker(), target.busybox());
    let sized = |size: &str, script: &str| {
        let option = format!("size={size}");
        docker.ok(&[
            "run",
            "--rm",
            "--storage-opt",
            &option,
            &busybox,
            "sh",
            "-c",
            script,
        ])
    };
    for (size, mib) in [
        ("64M", 64),
        ("1500m", 1500),
        ("9g", 9 << 10),
        ("12G", 12 << 10),
    ] {
        let has: u64 = sized(size, "df -m / | tail -1 | awk '{print $2}'")
            .parse()
            .expect("df counts in MiB");
        assert!((mib * 85 / 100..=mib).contains(&has), "{has} MiB of {size}");
    }
    let text = sized(
        "64M",
        "dd if=/dev/zero of=/full bs=1M 2>&1; rm /full && echo again >/again && cat /again",
    );
    assert!(text.contains("No space left on device"), "{text}");
    assert!(text.ends_with("again"), "{text}");
    // What was grown is a whole file system still, after a second mount too.
    let grown = docker.container("grown");
    let script = "cat /kept; dd if=/dev/zero of=/more bs=1M count=100 2>/dev/null && echo kept >/kept && sync";
    let (name, size) = (grown.name.as_str(), "size=1G");
    docker.ok(&[
        "run",
        "--name",
        name,
        "--storage-opt",
        size,
        &busybox,
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(docker.ok(&["start", "-a", name]), "kept");
    docker
        .run(&["create", "--storage-opt", "size=63m", &busybox])
        .fails_saying(&["64 MiB is the least"]);
}

#[test]
fn a_usb_stick_boots_a_node_and_tells_it_whom_to_trust() {
    let node = Node::boot(&Setup {
        stick: true,
        ..Setup::default()
    });
    // The stick is a disk too, and somebody's.
    node.wait_for_console("data on /dev/vda");
    let docker = node.docker();
    load_busybox(&docker);
    docker.run(&["run", "--rm", BUSYBOX, "true"]).exits(0);
}
