//! What the flags of `docker run` say happens.

use std::io::Write;

use crate::{detached, plain, setup};

#[test]
fn environment_comes_from_flags_the_image_and_a_file() {
    let (docker, busybox) = setup();
    let mut file = tempfile::NamedTempFile::new().expect("the temporary folder is writable");
    file.write_all(b"# a comment\nFROM_FILE=a value = with spaces\nEMPTY=\n")
        .expect("it takes a line");
    let path = file
        .path()
        .to_str()
        .expect("the temporary folder's name is text");
    let text = docker.ok(&[
        "run",
        "--rm",
        "-e",
        "FLAG=one",
        "-e",
        "PATH_LIKE=$HOME",
        "--env-file",
        path,
        &busybox,
        "env",
    ]);
    for line in [
        "FLAG=one",
        "PATH_LIKE=$HOME",
        "FROM_FILE=a value = with spaces",
        "EMPTY=",
        "HOME=/root",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line:?} isn't in:\n{text}"
        );
    }
    assert!(
        text.lines()
            .any(|found| found.starts_with("PATH=/usr/local/sbin:")),
        "{text}"
    );
    assert!(!text.contains("TERM="), "{text}");
}

#[test]
fn a_container_is_called_by_its_short_id_unless_it_has_a_hostname() {
    let (docker, busybox) = setup();
    let container = docker.container("hostname");
    let own = docker.ok(&["run", "--name", &container.name, &busybox, "hostname"]);
    let id = container
        .field("/Id")
        .as_str()
        .expect("an id is text")
        .to_owned();
    assert_eq!(own, id[..12]);
    let named = docker.ok(&[
        "run",
        "--rm",
        "--hostname",
        "hearth-stone",
        &busybox,
        "sh",
        "-c",
        "hostname; grep -c hearth-stone /etc/hosts; echo $HOSTNAME",
    ]);
    assert_eq!(named, "hearth-stone\n1\nhearth-stone");
}

#[test]
fn the_working_directory_is_made_if_it_is_missing() {
    let (docker, busybox) = setup();
    assert_eq!(docker.ok(&["run", "--rm", &busybox, "pwd"]), "/");
    assert_eq!(
        docker.ok(&["run", "--rm", "-w", "/tmp", &busybox, "pwd"]),
        "/tmp"
    );
    assert_eq!(
        docker.ok(&["run", "--rm", "-w", "/made/for/this", &busybox, "pwd"]),
        "/made/for/this"
    );
}

#[test]
fn users_are_named_as_the_image_names_them() {
    let (docker, busybox) = setup();
    let id = |user: &str| {
        docker.ok(&[
            "run",
            "--rm",
            "-u",
            user,
            &busybox,
            "sh",
            "-c",
            "id -u; id -g; id -G; echo $HOME",
        ])
    };
    // By name with the groups that list it; a group given is the only one.
    assert_eq!(id("app"), "1000\n1000\n1000 10\n/home/app");
    assert_eq!(id("app:staff"), "1000\n50\n50\n/home/app");
    assert_eq!(id("1000:wheel"), "1000\n10\n10\n/home/app");
    // Numbers need no entry.
    assert_eq!(id("4242:4243"), "4242\n4243\n4243\n/");
}

#[test]
fn an_entrypoint_replaces_the_images() {
    let (docker, busybox) = setup();
    assert_eq!(
        docker.ok(&[
            "run",
            "--rm",
            "--entrypoint",
            "/bin/echo",
            &busybox,
            "a",
            "b"
        ]),
        "a b"
    );
    assert_eq!(
        docker.ok(&["run", "--rm", "--entrypoint", "pwd", &busybox]),
        "/"
    );
}

#[test]
fn the_images_command_is_the_default() {
    let (docker, busybox) = setup();
    let done = docker
        .run_with_input(&["run", "--rm", "-i", &busybox], b"echo from the shell\n")
        .exits(0);
    assert_eq!(done.text(), "from the shell\n");
}

#[test]
fn memory_and_cpus_are_kept_and_the_program_has_them() {
    let (docker, busybox) = setup();
    let container = detached(
        docker,
        "limits",
        &["-m", "96m", "--cpus", "0.5"],
        &[&busybox, "sleep", "1000"],
    );
    assert_eq!(container.field("/HostConfig/Memory"), 96 << 20);
    assert_eq!(container.field("/HostConfig/NanoCpus"), 500_000_000);
    // 48 of 96 MiB can be had.
    let script = "dd if=/dev/zero of=/dev/null bs=48M count=1";
    docker
        .run(&["exec", &container.name, "sh", "-c", script])
        .exits(0);
}

#[test]
fn as_many_files_can_be_open_as_with_docker() {
    let (docker, busybox) = setup();
    let script = "ulimit -Sn; ulimit -Hn";
    let text = docker.ok(&["run", "--rm", &busybox, "sh", "-c", script]);
    assert_eq!(text, "1048576\n1048576");
}

#[test]
fn a_read_only_container_has_read_only_files_in_etc() {
    let (docker, busybox) = setup();
    let script = "for f in hosts hostname resolv.conf; do echo x 2> /dev/null >> /etc/$f || echo refused; done; grep -c localhost /etc/hosts";
    let command = [&busybox, "sh", "-c", script];
    let text = docker.ok(&[&["run", "--rm"], &command[..]].concat());
    assert_eq!(text, "2");
    let text = docker.ok(&[&["run", "--rm", "--read-only"], &command[..]].concat());
    assert_eq!(text, "refused\nrefused\nrefused\n2");
}

#[test]
fn labels_are_kept() {
    let (docker, busybox) = plain();
    let container = detached(
        docker,
        "labels",
        &[
            "-l",
            "org.example.one=1",
            "--label",
            "empty",
            "-l",
            "with=an=equals sign",
        ],
        &[&busybox, "true"],
    );
    let labels = container.field("/Config/Labels");
    assert_eq!(labels["org.example.one"], "1");
    assert_eq!(labels["empty"], "");
    assert_eq!(labels["with"], "an=equals sign");
}

#[test]
fn rm_leaves_nothing_behind() {
    let (docker, busybox) = plain();
    let container = docker.container("rm");
    docker
        .run(&["run", "--rm", "--name", &container.name, &busybox, "true"])
        .exits(0);
    docker.run(&["inspect", &container.name]).exits(1);
    // The name is free again at once.
    docker
        .run(&["run", "--rm", "--name", &container.name, &busybox, "true"])
        .exits(0);
}

#[test]
fn detached_and_removed_at_its_end() {
    let (docker, busybox) = plain();
    let container = detached(docker, "d-rm", &["--rm"], &[&busybox, "true"]);
    hearth_tests::process::eventually("a container with --rm stays after its end", || {
        let left = docker.ok(&["ps", "-aq", "--filter", &format!("name={}", container.name)]);
        left.is_empty().then_some(())
    });
}

#[test]
fn the_program_is_process_1_with_a_root_of_its_own() {
    let (docker, busybox) = setup();
    let script = "echo $$; touch /written && ls /written; cat /proc/1/comm; ls -d /proc/self /sys/class /dev/null /dev/shm /dev/pts";
    let text = docker.ok(&["run", "--rm", &busybox, "sh", "-c", script]);
    assert_eq!(
        text,
        "1\n/written\nsh\n/dev/null\n/dev/pts\n/dev/shm\n/proc/self\n/sys/class"
    );
}

#[test]
fn two_containers_of_an_image_do_not_see_each_others_files() {
    let (docker, busybox) = setup();
    docker
        .run(&[
            "run",
            "--rm",
            &busybox,
            "sh",
            "-c",
            "echo mine > /etc/mine; rm /etc/group",
        ])
        .exits(0);
    let text = docker.ok(&[
        "run",
        "--rm",
        &busybox,
        "sh",
        "-c",
        "test -e /etc/mine || echo absent; test -e /etc/group && echo whole",
    ]);
    assert_eq!(text, "absent\nwhole");
}

#[test]
fn limits_and_settings_of_the_process_are_in_force() {
    let (docker, busybox) = setup();
    let script = "ulimit -Sn; ulimit -Hn; cat /proc/sys/net/core/somaxconn; cat /proc/self/oom_score_adj; \
        df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; test $$ != 1 && echo not process 1";
    let text = docker.ok(&[
        "run",
        "--rm",
        "--ulimit",
        "nofile=100:200",
        "--sysctl",
        "net.core.somaxconn=77",
        "--oom-score-adj",
        "500",
        "--shm-size",
        "1m",
        "--init",
        &busybox,
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(text, "100\n200\n77\n500\n1024\nnot process 1");
}
