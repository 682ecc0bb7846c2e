//! `docker exec`.

use crate::{detached, idle, plain, setup};
use hearth_tests::target;

#[test]
fn an_exec_shares_files_and_processes_with_its_container() {
    let (docker, busybox) = setup();
    let container = detached(
        docker,
        "exec",
        &[],
        &[&busybox, "sh", "-c", "echo hi > /left; sleep 100000; true"],
    );
    // It is there before it is written.
    let text = hearth_tests::process::eventually("the container's file isn't written", || {
        let done = docker.run(&["exec", &container.name, "cat", "/left"]);
        (done.code == Some(0) && !done.text().is_empty()).then(|| done.text())
    });
    assert_eq!(text, "hi\n");
    assert_eq!(
        docker.ok(&["exec", &container.name, "cat", "/proc/1/comm"]),
        "sh"
    );
}

#[test]
fn an_exec_takes_user_environment_and_directory() {
    let (docker, busybox) = setup();
    let container = detached(
        docker,
        "exec-flags",
        &["-e", "OUTER=1"],
        &[&busybox, "sleep", "100000"],
    );
    let script = "id -un; id -gn; echo $OUTER$INNER; pwd";
    let text = docker.ok(&[
        "exec",
        "-u",
        "app:wheel",
        "-e",
        "INNER=2",
        "-w",
        "/tmp",
        &container.name,
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(text, "app\nwheel\n12\n/tmp");
}

#[test]
fn an_execs_streams_are_apart_and_whole() {
    let (docker, busybox) = setup();
    let container = idle(docker, &busybox, "exec-streams");
    let script = "cat; echo error >&2; exit 4";
    let input = "line\n".repeat(50_000);
    let done = docker
        .run_with_input(
            &["exec", "-i", &container.name, "sh", "-c", script],
            input.as_bytes(),
        )
        .exits(4);
    assert!(
        done.text() == input,
        "{} bytes of {}",
        done.stdout.len(),
        input.len()
    );
    assert_eq!(done.stderr, "error\n");
}

#[test]
fn an_exec_of_what_is_not_there_is_127_and_named() {
    let (docker, busybox) = setup();
    let container = idle(docker, &busybox, "exec-missing");
    // Engines before 23 say 126; 127 is what a shell would say.
    let code = if target::shared().is_hearth() {
        127
    } else {
        126
    };
    let done = docker
        .run(&["exec", &container.name, "no-such-program"])
        .exits(code);
    assert!(
        (done.text() + &done.stderr).contains("no-such-program"),
        "{done:?}"
    );
    assert_eq!(container.field("/State/Running"), true);
}

#[test]
fn an_exec_in_the_background_goes_on_alone() {
    let (docker, busybox) = setup();
    let container = idle(docker, &busybox, "exec-d");
    docker
        .run(&[
            "exec",
            "-d",
            &container.name,
            "sh",
            "-c",
            "echo done > /done",
        ])
        .exits(0);
    hearth_tests::process::eventually("a detached exec leaves no trace", || {
        (docker
            .run(&["exec", &container.name, "cat", "/done"])
            .text()
            == "done\n")
            .then_some(())
    });
}

#[test]
fn an_exec_needs_a_running_container() {
    let (docker, busybox) = plain();
    let container = detached(docker, "exec-ended", &[], &[&busybox, "true"]);
    container.wait_for_status("exited");
    docker
        .run(&["exec", &container.name, "true"])
        .exits(1)
        .fails_saying(&["is not running"]);
    docker
        .run(&["exec", "no-such-container", "true"])
        .exits(1)
        .fails_saying(&["no such container"]);
}

#[test]
fn an_exec_ends_with_its_container() {
    let (docker, busybox) = setup();
    let container = idle(docker, &busybox, "exec-killed");
    let running = docker.start(&["exec", &container.name, "sh", "-c", "echo up; sleep 100000"]);
    running.stdout.wait_for("up");
    docker.ok(&["kill", &container.name]);
    assert_eq!(running.finish().code, Some(137));
}
