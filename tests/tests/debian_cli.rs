//! The same node, driven by the distribution's own docker CLI: one case for each way of talking to it.

use hearth_tests::archive::Encoding;
use hearth_tests::docker::Docker;
use hearth_tests::{debian, images, target};

fn setup() -> (Docker, String) {
    let target = target::shared();
    (
        target.docker().with_program(debian::docker_cli()),
        target.busybox(),
    )
}

#[test]
fn it_is_another_client_and_negotiates() {
    let (docker, _) = setup();
    let versions = docker.ok(&[
        "version",
        "--format",
        "{{.Client.Version}} {{.Client.APIVersion}} {{.Server.APIVersion}}",
    ]);
    assert!(!versions.is_empty());
    docker.run(&["info"]).exits(0);
    if debian::docker_cli().to_string_lossy().contains("/20.10") {
        assert!(versions.contains(" 1.41 "), "{versions}");
    }
}

#[test]
fn run_has_streams_and_exit_codes() {
    let (docker, busybox) = setup();
    let input = "line\n".repeat(20_000);
    let done = docker
        .run_with_input(
            &[
                "run",
                "--rm",
                "-i",
                &busybox,
                "sh",
                "-c",
                "cat; echo error >&2; exit 33",
            ],
            input.as_bytes(),
        )
        .exits(33);
    assert!(
        done.text() == input,
        "{} bytes of {}",
        done.stdout.len(),
        input.len()
    );
    assert_eq!(done.stderr, "error\n");
    docker
        .run(&["run", "--rm", &busybox, "no-such-program"])
        .exits(127);
    docker.run(&["run", "--rm", &busybox, "/etc"]).exits(126);
}

#[test]
fn a_terminal_works() {
    let (docker, busybox) = setup();
    let mut terminal = docker.start_on_terminal(29, 91, &["run", "--rm", "-it", &busybox, "sh"]);
    terminal.wait_for_size(29, 91);
    terminal.type_in("exit 8\n");
    let (code, shown) = terminal.finish();
    assert_eq!(code, Some(8), "{shown}");
}

#[test]
fn a_detached_container_is_listed_entered_logged_and_removed() {
    let (docker, busybox) = setup();
    let container = docker.container("debian");
    docker.ok(&[
        "run",
        "-d",
        "--name",
        &container.name,
        "-l",
        "a=b",
        &busybox,
        "sh",
        "-c",
        "echo up; sleep 100000; true",
    ]);
    container.wait_for_log("up");
    let row = docker.ok(&[
        "ps",
        "--filter",
        "label=a=b",
        "--filter",
        &format!("name={}", container.name),
        "--format",
        "{{.Names}} {{.Image}} {{.Status}}",
    ]);
    assert!(
        row.starts_with(&format!("{} {busybox} Up", container.name)),
        "{row}"
    );
    let done = docker
        .run_with_input(
            &[
                "exec",
                "-i",
                "-u",
                "app",
                &container.name,
                "sh",
                "-c",
                "id -un; cat",
            ],
            b"in",
        )
        .exits(0);
    assert_eq!(done.text(), "app\nin");
    docker.run(&["top", &container.name]).exits(0);
    let waiting = docker.start(&["wait", &container.name]);
    let following = docker.start(&["logs", "-f", &container.name]);
    following.stdout.wait_for("up\n");
    docker.ok(&["kill", &container.name]);
    assert_eq!(waiting.finish().exits(0).text(), "137\n");
    assert_eq!(following.finish().exits(0).text(), "up\n");
    docker.ok(&["restart", &container.name]);
    docker.ok(&["stop", "-t", "1", &container.name]);
    docker.ok(&["rm", &container.name]);
}

#[test]
fn images_are_pulled_loaded_tagged_and_removed() {
    let (docker, _) = setup();
    let target = target::shared();
    target
        .registry()
        .push("debian-pull", "latest", images::busybox(), Encoding::Gzip);
    let reference = target.image_at(target.registry().port(), "debian-pull");
    let text = docker.run(&["pull", &reference]).exits(0).text();
    assert!(text.contains("Status:"), "{text}");
    docker.ok(&["tag", &reference, "hearth-test/debian:1"]);
    assert!(docker.ok(&["images"]).contains("hearth-test/debian"));
    let archive = images::busybox().docker_archive("hearth-test/debian:2");
    docker.run_with_input(&["load"], &archive).exits(0);
    docker.ok(&["rmi", "hearth-test/debian:1", "hearth-test/debian:2"]);
}
