//! `docker logs`.

use crate::{detached, plain, setup};

#[test]
fn logs_keep_output_and_error_apart() {
    let (docker, busybox) = setup();
    let container = detached(
        docker,
        "logs",
        &[],
        &[&busybox, "sh", "-c", "echo one; echo two >&2; printf three"],
    );
    container.wait_for_status("exited");
    let done = docker.run(&["logs", &container.name]).exits(0);
    assert_eq!(done.text(), "one\nthree");
    assert_eq!(done.stderr, "two\n");
}

#[test]
fn tail_shows_the_last_lines() {
    let (docker, busybox) = setup();
    let container = detached(docker, "logs-tail", &[], &[&busybox, "seq", "1", "5000"]);
    container.wait_for_status("exited");
    assert_eq!(
        docker.ok(&["logs", "--tail", "3", &container.name]),
        "4998\n4999\n5000"
    );
    assert_eq!(docker.ok(&["logs", "-n", "0", &container.name]), "");
    assert_eq!(
        docker
            .ok(&["logs", "--tail", "all", &container.name])
            .lines()
            .count(),
        5000
    );
}

#[test]
fn timestamps_are_rfc_3339_and_since_is_by_them() {
    let (docker, busybox) = setup();
    let script = "echo early; until test -e /go; do sleep 1; done; sleep 1; echo late";
    let container = detached(docker, "logs-since", &[], &[&busybox, "sh", "-c", script]);
    container.wait_for_log("early");
    docker.ok(&["exec", &container.name, "touch", "/go"]);
    container.wait_for_log("late");
    let text = docker.ok(&["logs", "-t", &container.name]);
    let stamps: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(stamps.len(), 2, "{text}");
    for stamp in &stamps {
        assert!(
            stamp.len() >= 20 && stamp.as_bytes()[10] == b'T' && stamp.ends_with('Z'),
            "not RFC 3339: {stamp:?}"
        );
    }
    assert!(stamps[0] < stamps[1], "{text}");
    assert_eq!(
        docker.ok(&["logs", "--since", stamps[1], &container.name]),
        "late"
    );
    assert_eq!(
        docker.ok(&["logs", "--since", "1h", &container.name]),
        "early\nlate"
    );
}

#[test]
fn following_shows_what_was_and_what_comes_until_the_end() {
    let (docker, busybox) = setup();
    let script = "echo before; until test -e /go; do sleep 1; done; echo after; exit 2";
    let container = detached(docker, "logs-f", &[], &[&busybox, "sh", "-c", script]);
    let following = docker.start(&["logs", "-f", &container.name]);
    following.stdout.wait_for("before\n");
    docker.ok(&["exec", &container.name, "touch", "/go"]);
    assert_eq!(following.finish().exits(0).text(), "before\nafter\n");
}

#[test]
fn following_an_ended_container_ends() {
    let (docker, busybox) = plain();
    let container = detached(docker, "logs-f-ended", &[], &[&busybox, "echo", "over"]);
    container.wait_for_status("exited");
    assert_eq!(docker.ok(&["logs", "-f", &container.name]), "over");
}

#[test]
fn logs_of_all_runs_are_kept() {
    let (docker, busybox) = plain();
    let container = docker.container("logs-runs");
    docker.ok(&["run", "--name", &container.name, &busybox, "echo", "line"]);
    docker.ok(&["start", "-a", &container.name]);
    assert_eq!(docker.ok(&["logs", &container.name]), "line\nline");
}

#[test]
fn a_terminals_log_is_one_stream() {
    let (docker, busybox) = setup();
    let container = detached(
        docker,
        "logs-t",
        &["-t"],
        &[&busybox, "sh", "-c", "echo one; echo two >&2"],
    );
    container.wait_for_status("exited");
    let done = docker.run(&["logs", &container.name]).exits(0);
    assert_eq!(done.text(), "one\r\ntwo\r\n");
}

#[test]
fn logs_of_nothing_is_an_error() {
    let (docker, _) = plain();
    docker
        .run(&["logs", "no-such-container"])
        .exits(1)
        .fails_saying(&["no such container"]);
}

#[test]
fn output_that_is_logged_nowhere_is_seen_by_whoever_is_attached_only() {
    let (docker, busybox) = plain();
    let container = docker.container("log-none");
    let seen = docker.ok(&[
        "run",
        "--name",
        &container.name,
        "--log-driver",
        "none",
        &busybox,
        "echo",
        "seen",
    ]);
    assert_eq!(seen, "seen");
    docker
        .run(&["logs", &container.name])
        .exits(1)
        .fails_saying(&["configured logging driver does not support reading"]);
}
