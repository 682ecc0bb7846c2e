//! Registries that are absent, slow, or lie.

use hearth_tests::archive::Encoding;
use hearth_tests::images;
use rustix::process::Signal;

use super::{large, listed, plain, setup};

#[test]
fn an_image_that_does_not_exist_is_named() {
    let (target, docker) = plain();
    let registry = target.registry();
    for name in ["no-such/thing", "no-such/thing:tag"] {
        let reference = target.image_at(registry.port(), name);
        docker
            .run(&["pull", &reference])
            .exits(1)
            .fails_saying(&["no-such/thing"]);
    }
    registry.push("exists", "one", images::busybox(), Encoding::Gzip);
    let reference = target.image_at(registry.port(), "exists:two");
    docker
        .run(&["pull", &reference])
        .exits(1)
        .fails_saying(&["exists", "not found"]);
    docker
        .run(&["pull", "Not A Reference"])
        .exits(1)
        .fails_saying(&["invalid reference format"]);
}

#[test]
fn a_registry_that_is_down_is_said_to_be() {
    let (target, docker) = plain();
    let reference = target.image_at(target.down_port(), "thing");
    docker
        .run(&["pull", &reference])
        .exits(1)
        .fails_saying(&["refused"]);
}

#[test]
fn plain_http_is_spoken_to_named_registries_only() {
    let (target, docker) = plain();
    if !target.is_hearth() {
        return; // dockerd takes all of loopback for safe.
    }
    target
        .registry()
        .push("plain-http", "latest", images::busybox(), Encoding::Gzip);
    let reference = target.image_at(target.unlisted().port(), "plain-http");
    let done = docker.run(&["pull", &reference]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(!done.stderr.trim().is_empty(), "{done:?}");
    assert_eq!(listed(docker, &reference), "");
}

#[test]
fn a_registry_that_fails_is_said_to() {
    let (target, docker) = plain();
    let reference = target.image_at(target.broken().port(), "thing");
    docker
        .run(&["pull", &reference])
        .exits(1)
        .fails_saying(&["500"]);
}

#[test]
fn a_slow_registry_is_waited_for() {
    let (target, docker) = plain();
    target
        .registry()
        .push("slow", "latest", &large("slow"), Encoding::Gzip);
    let reference = target.image_at(target.slow().port(), "slow");
    docker.run(&["pull", &reference]).exits(0);
    assert_ne!(listed(docker, &reference), "");
}

#[test]
fn a_layer_that_breaks_off_is_resumed_where_it_broke() {
    let (target, docker) = setup();
    target
        .registry()
        .push("dropped", "latest", &large("dropped"), Encoding::Gzip);
    let reference = target.image_at(target.dropping().port(), "dropped");
    docker.run(&["pull", &reference]).exits(0);
    docker
        .run(&["run", "--rm", &reference, "test", "-s", "/noise"])
        .exits(0);
    let ranges = target.dropping().ranges();
    assert!(
        ranges
            .iter()
            .any(|range| range.starts_with("bytes=") && !range.starts_with("bytes=0-")),
        "no transfer was resumed: {ranges:?}"
    );
}

#[test]
fn a_layer_that_always_breaks_off_fails_in_the_end() {
    let (target, docker) = plain();
    target.registry().push(
        "always-dropped",
        "latest",
        &large("always-dropped"),
        Encoding::Gzip,
    );
    let reference = target.image_at(target.always_dropping().port(), "always-dropped");
    if !target.is_hearth() {
        return; // dockerd goes on as long as a little more arrives each time.
    }
    let done = docker.run(&["pull", &reference]);
    // A resumed transfer gets a quarter of the rest each time: it may get there.
    if done.code == Some(0) {
        assert_ne!(listed(docker, &reference), "");
    } else {
        assert!(!done.stderr.trim().is_empty(), "{done:?}");
        assert_eq!(listed(docker, &reference), "");
    }
}

#[test]
fn bytes_that_do_not_match_their_digest_are_refused() {
    let (target, docker) = setup();
    target
        .registry()
        .push("corrupt", "latest", &large("corrupt"), Encoding::Plain);
    let reference = target.image_at(target.corrupting().port(), "corrupt");
    docker
        .run(&["pull", &reference])
        .exits(1)
        .fails_saying(&["verif"]);
    assert_eq!(listed(docker, &reference), "");
    // From where the bytes are right the same image comes.
    let good = target.image_at(target.registry().port(), "corrupt");
    docker.run(&["pull", &good]).exits(0);
    docker.run(&["run", "--rm", &good, "true"]).exits(0);
}

#[test]
fn a_silent_registry_holds_up_one_client_only() {
    let (target, docker) = plain();
    let reference = target.image_at(target.silent().port(), "thing");
    let waiting = docker.start(&["pull", &reference]);
    target
        .registry()
        .push("meanwhile", "latest", images::busybox(), Encoding::Gzip);
    docker
        .run(&[
            "pull",
            &target.image_at(target.registry().port(), "meanwhile"),
        ])
        .exits(0);
    waiting.signal(Signal::INT);
    let done = waiting.finish();
    assert_ne!(done.code, Some(0), "{done:?}");
}
