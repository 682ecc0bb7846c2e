//! The exit code of `docker run` is the program's, and docker's own where the program didn't run.

use crate::{idle, plain, setup};

#[test]
fn the_programs_exit_code_is_the_clients() {
    let (docker, busybox) = setup();
    for code in [0, 1, 42, 125, 127, 128, 255] {
        docker
            .run(&["run", "--rm", &busybox, "sh", "-c", &format!("exit {code}")])
            .exits(code);
    }
}

#[test]
fn every_exit_code_of_an_exec_arrives() {
    let (docker, busybox) = setup();
    let container = idle(docker, &busybox, "codes");
    // One that fails would be one in a class (bits lost, signs, 125 and above taken as docker's own).
    for code in [
        0, 1, 2, 63, 64, 100, 124, 125, 126, 127, 128, 129, 130, 137, 143, 192, 254, 255,
    ] {
        docker
            .run(&["exec", &container.name, "sh", "-c", &format!("exit {code}")])
            .exits(code);
    }
}

#[test]
fn a_program_that_kills_itself_exits_with_128_and_the_signal() {
    let (docker, busybox) = setup();
    // The shell isn't process 1 here: the kernel ignores signals that process 1 doesn't handle.
    docker
        .run(&[
            "run",
            "--rm",
            &busybox,
            "sh",
            "-c",
            "sh -c 'kill -9 $$'; exit $?",
        ])
        .exits(137);
    docker
        .run(&[
            "run",
            "--rm",
            &busybox,
            "sh",
            "-c",
            "sh -c 'kill -15 $$'; exit $?",
        ])
        .exits(143);
}

#[test]
fn an_image_that_nobody_has_is_125() {
    let (docker, _) = plain();
    let target = hearth_tests::target::plain();
    let image = target.image_at(target.registry().port(), "no-such/image:latest");
    docker
        .run(&["run", "--rm", &image, "true"])
        .exits(125)
        .fails_saying(&["no-such/image"]);
}

#[test]
fn an_unknown_option_is_125() {
    let (docker, busybox) = plain();
    docker
        .run(&["run", "--rm", "--no-such-option", &busybox, "true"])
        .exits(125);
}

#[test]
fn a_missing_executable_is_127_and_named() {
    let (docker, busybox) = setup();
    docker
        .run(&["run", "--rm", &busybox, "no-such-program"])
        .exits(127)
        .fails_saying(&["no-such-program", "executable file not found in $PATH"]);
    docker
        .run(&["run", "--rm", &busybox, "/bin/no-such-program"])
        .exits(127)
        .fails_saying(&["/bin/no-such-program", "no such file or directory"]);
}

#[test]
fn what_may_not_be_executed_is_126_and_named() {
    let (docker, busybox) = setup();
    docker
        .run(&["run", "--rm", &busybox, "/etc/passwd"])
        .exits(126)
        .fails_saying(&["/etc/passwd", "permission denied"]);
    docker
        .run(&["run", "--rm", &busybox, "/etc"])
        .exits(126)
        .fails_saying(&["/etc"]);
}

#[test]
fn a_container_that_failed_to_start_is_left_to_be_looked_at() {
    let (docker, busybox) = plain();
    let container = docker.container("failed-start");
    docker
        .run(&[
            "run",
            "--name",
            &container.name,
            &busybox,
            "no-such-program",
        ])
        .exits(127);
    assert_eq!(container.field("/State/Status"), "created");
    assert_eq!(container.field("/State/ExitCode"), 127);
    assert_eq!(container.field("/State/Running"), false);
}

#[test]
fn a_user_that_the_image_lacks_is_named() {
    let (docker, busybox) = setup();
    docker
        .run(&["run", "--rm", "-u", "nosuchuser", &busybox, "true"])
        .exits(125)
        .fails_saying(&["unable to find user nosuchuser"]);
    docker
        .run(&["run", "--rm", "-u", "app:nosuchgroup", &busybox, "true"])
        .exits(125)
        .fails_saying(&["unable to find group nosuchgroup"]);
}
