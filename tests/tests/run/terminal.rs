//! A person at a terminal.

use crate::{idle, setup};

#[test]
fn the_terminal_has_the_clients_size_and_follows_it() {
    let (docker, busybox) = setup();
    let mut terminal = docker.start_on_terminal(31, 97, &["run", "--rm", "-it", &busybox, "sh"]);
    // The first resize comes after the start: the size is right soon, not at once.
    terminal.wait_for_size(31, 97);
    terminal.resize(40, 120);
    terminal.wait_for_size(40, 120);
    terminal.type_in("exit 7\n");
    let (code, shown) = terminal.finish();
    assert_eq!(code, Some(7), "{shown}");
}

#[test]
fn the_program_knows_that_it_has_a_terminal() {
    let (docker, busybox) = setup();
    let script = "test -t 0 && test -t 1 && test -t 2 && echo all three";
    let terminal = docker.start_on_terminal(
        24,
        80,
        &["run", "--rm", "-it", &busybox, "sh", "-c", script],
    );
    let (code, shown) = terminal.finish();
    assert_eq!(code, Some(0), "{shown}");
    // A terminal ends lines as terminals do.
    assert!(shown.contains("all three\r\n"), "{shown:?}");
}

#[test]
fn control_c_interrupts_the_program() {
    let (docker, busybox) = setup();
    let script = "trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 1; done";
    let mut terminal = docker.start_on_terminal(
        24,
        80,
        &["run", "--rm", "-it", &busybox, "sh", "-c", script],
    );
    terminal.screen.wait_for("ready");
    terminal.type_in("\x03");
    let (code, shown) = terminal.finish();
    assert_eq!(code, Some(9), "{shown}");
    assert!(shown.contains("interrupted"), "{shown}");
}

#[test]
fn detached_by_its_keys_a_container_runs_on_and_can_be_attached() {
    let (docker, busybox) = setup();
    let container = docker.container("detach");
    let arguments = ["run", "-it", "--name", &container.name, &busybox, "sh"];
    let mut terminal = docker.start_on_terminal(24, 80, &arguments);
    terminal.type_in("echo fir''st\n");
    terminal.screen.wait_for("first");
    terminal.type_in("\x10\x11");
    let (code, shown) = terminal.finish();
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(container.field("/State/Running"), true);

    let mut again = docker.start_on_terminal(24, 80, &["attach", &container.name]);
    again.type_in("echo sec''ond\n");
    again.screen.wait_for("second");
    again.type_in("exit 5\n");
    assert_eq!(again.finish().0, Some(5));
    container.wait_for_status("exited");
}

#[test]
fn an_exec_has_a_terminal_of_its_own() {
    let (docker, busybox) = setup();
    let container = idle(docker, &busybox, "exec-tty");
    let mut terminal = docker.start_on_terminal(33, 99, &["exec", "-it", &container.name, "sh"]);
    terminal.wait_for_size(33, 99);
    terminal.type_in("exit 11\n");
    let (code, shown) = terminal.finish();
    assert_eq!(code, Some(11), "{shown}");
    assert_eq!(container.field("/State/Running"), true);
}

#[test]
fn a_terminal_without_one_is_refused_by_the_client_only() {
    let (docker, busybox) = setup();
    docker
        .run(&["run", "--rm", "-it", &busybox, "true"])
        .fails_saying(&["not a "]);
    // -t alone needs none: output comes with a terminal's line ends.
    let done = docker
        .run(&["run", "--rm", "-t", &busybox, "echo", "hello"])
        .exits(0);
    assert_eq!(done.text(), "hello\r\n");
}
