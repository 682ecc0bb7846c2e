//! From `create` to `rm`, and everything that may happen between.

use hearth_tests::process::eventually;

use crate::{detached, idle, plain, setup};

/// Exits with 3 when asked to stop, and says that it is there.
const STOPPABLE: &str = "trap 'echo stopping; exit 3' TERM; trap 'echo poked' USR1; echo ready; while :; do sleep 1; done";

#[test]
fn stop_asks_first() {
    let (docker, busybox) = setup();
    let container = detached(docker, "stop", &[], &[&busybox, "sh", "-c", STOPPABLE]);
    container.wait_for_log("ready");
    assert_eq!(docker.ok(&["stop", &container.name]), container.name);
    assert_eq!(container.field("/State/ExitCode"), 3);
    assert_eq!(container.field("/State/Status"), "exited");
    container.wait_for_log("stopping");
}

#[test]
fn stop_kills_what_does_not_listen() {
    let (docker, busybox) = setup();
    let container = idle(docker, &busybox, "stop-deaf");
    docker.ok(&["stop", "-t", "1", &container.name]);
    assert_eq!(container.field("/State/ExitCode"), 137);
    // Stopping what has stopped is no error.
    docker.ok(&["stop", &container.name]);
}

#[test]
fn kill_sends_the_signal_it_is_given() {
    let (docker, busybox) = setup();
    let container = detached(docker, "kill", &[], &[&busybox, "sh", "-c", STOPPABLE]);
    container.wait_for_log("ready");
    docker.ok(&["kill", "-s", "USR1", &container.name]);
    container.wait_for_log("poked");
    assert_eq!(container.field("/State/Running"), true);
    docker.ok(&["kill", "--signal", "SIGTERM", &container.name]);
    container.wait_for_status("exited");
    assert_eq!(container.field("/State/ExitCode"), 3);
}

#[test]
fn kill_alone_is_137_and_is_not_done_twice() {
    let (docker, busybox) = plain();
    let container = idle(docker, &busybox, "kill-9");
    docker.ok(&["kill", &container.name]);
    container.wait_for_status("exited");
    assert_eq!(container.field("/State/ExitCode"), 137);
    assert_eq!(container.field("/State/OOMKilled"), false);
    docker
        .run(&["kill", &container.name])
        .exits(1)
        .fails_saying(&["is not running"]);
}

#[test]
fn what_is_paused_does_nothing_until_it_goes_on() {
    let (docker, busybox) = setup();
    let counts = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done";
    let container = detached(docker, "pause", &[], &[&busybox, "sh", "-c", counts]);
    container.wait_for_log("3");
    docker.ok(&["pause", &container.name]);
    let said = || docker.ok(&["logs", &container.name]);
    // What it had said is on its way; then nothing is.
    let (mut before, mut same) = (said(), 0);
    eventually("it goes on", || {
        let now = said();
        same = if now == before { same + 1 } else { 0 };
        before = now;
        (same == 10).then_some(())
    });
    docker.ok(&["unpause", &container.name]);
    let next = before.lines().count() + 5;
    container.wait_for_log(&next.to_string());
    let lines: Vec<String> = (1..=next).map(|n| n.to_string()).collect();
    let now = said();
    assert!(now.lines().take(next).eq(lines.iter()), "{now}");
}

#[test]
fn a_paused_container_is_shown_so_and_refuses_what_it_can_not_do() {
    let (docker, busybox) = plain();
    let container = idle(docker, &busybox, "paused");
    let name = &container.name;
    docker
        .run(&["unpause", name])
        .exits(1)
        .fails_saying(&["is not paused"]);
    docker.ok(&["pause", name]);
    assert_eq!(container.field("/State/Status"), "paused");
    assert_eq!(container.field("/State/Paused"), true);
    assert_eq!(container.field("/State/Running"), true);
    let listed = |format: &str| {
        let by = format!("name={name}");
        docker.ok(&[
            "ps",
            "--filter",
            &by,
            "--filter",
            "status=paused",
            "--format",
            format,
        ])
    };
    assert!(listed("{{.Status}}").ends_with(" (Paused)"));
    assert_eq!(listed("{{.State}}"), "paused");
    let is = "is already paused";
    docker.run(&["pause", name]).exits(1).fails_saying(&[is]);
    let words = ["is paused, unpause the container before exec"];
    docker
        .run(&["exec", name, "true"])
        .exits(1)
        .fails_saying(&words);
    docker
        .run(&["attach", name])
        .exits(1)
        .fails_saying(&["paused"]);
    docker.run(&["rm", name]).exits(1).fails_saying(&["paused"]);
    let of_it = format!("container={name}");
    let events = |until: &str| {
        let asked = [
            "events", "--since", "1h", "--until", until, "--filter", &of_it, "--format",
        ];
        docker.ok(&[&asked[..], &["{{.Action}}"]].concat())
    };
    docker.ok(&["unpause", name]);
    assert_eq!(container.field("/State/Status"), "running");
    // The client's "now" is the second that has begun.
    eventually("it is not told", || {
        let told = events("0s");
        let told: Vec<&str> = told.lines().filter(|it| it.ends_with("pause")).collect();
        (told == ["pause", "unpause"]).then_some(())
    });
    // What it is stopped by it hears.
    docker.ok(&["pause", name]);
    docker.ok(&["stop", "-t", "1", name]);
    assert_eq!(container.field("/State/Status"), "exited");
    docker
        .run(&["pause", name])
        .exits(1)
        .fails_saying(&["is not running"]);
    docker.ok(&["start", name]);
    docker.ok(&["pause", name]);
    docker.ok(&["restart", "-t", "1", name]);
    assert_eq!(container.field("/State/Status"), "running");
    docker.ok(&["pause", name]);
    docker.ok(&["kill", name]);
    container.wait_for_status("exited");
    docker.ok(&["start", name]);
    docker.ok(&["pause", name]);
    docker.ok(&["rm", "-f", name]);
}

#[test]
fn a_signal_to_the_client_reaches_the_program() {
    let (docker, busybox) = setup();
    let running = docker.start(&["run", "--rm", &busybox, "sh", "-c", STOPPABLE]);
    running.stdout.wait_for("ready");
    running.signal(rustix::process::Signal::TERM);
    let done = running.finish();
    assert_eq!(done.code, Some(3), "{done:?}");
    assert!(done.text().contains("stopping"), "{done:?}");
}

#[test]
fn wait_prints_the_exit_code_whenever_it_is_called() {
    let (docker, busybox) = setup();
    let container = detached(
        docker,
        "wait",
        &["-i"],
        &[
            &busybox,
            "sh",
            "-c",
            "until test -e /go; do sleep 1; done; exit 17",
        ],
    );
    let waiting = docker.start(&["wait", &container.name]);
    docker.ok(&["exec", &container.name, "touch", "/go"]);
    assert_eq!(waiting.finish().exits(0).text(), "17\n");
    assert_eq!(docker.ok(&["wait", &container.name]), "17");
}

#[test]
fn a_container_starts_again_with_its_files() {
    let (docker, busybox) = setup();
    let container = docker.container("again");
    let script = "echo x >> /count; wc -l < /count";
    let first = docker.ok(&[
        "run",
        "--name",
        &container.name,
        &busybox,
        "sh",
        "-c",
        script,
    ]);
    let second = docker.ok(&["start", "-a", &container.name]);
    assert_eq!((first.trim(), second.trim()), ("1", "2"));
}

#[test]
fn restart_is_another_run_of_the_same_container() {
    let (docker, busybox) = setup();
    let script = "echo x >> /count; echo run $(wc -l < /count); trap 'exit 0' TERM; while :; do sleep 1; done";
    let container = detached(docker, "restart", &[], &[&busybox, "sh", "-c", script]);
    container.wait_for_log("run 1");
    let started = container.field("/State/StartedAt");
    docker.ok(&["restart", &container.name]);
    container.wait_for_log("run 2");
    assert_eq!(container.field("/State/Running"), true);
    assert_ne!(container.field("/State/StartedAt"), started);
}

#[test]
fn create_and_start_are_run_in_two_steps() {
    let (docker, busybox) = plain();
    let container = docker.container("create");
    let id = docker.ok(&[
        "create",
        "--name",
        &container.name,
        &busybox,
        "echo",
        "created",
    ]);
    assert_eq!(id.len(), 64);
    assert_eq!(container.field("/State/Status"), "created");
    assert_eq!(docker.ok(&["start", &container.name]), container.name);
    container.wait_for_status("exited");
    assert_eq!(docker.ok(&["logs", &container.name]), "created");
}

#[test]
fn a_running_container_is_removed_by_force_only() {
    let (docker, busybox) = plain();
    let container = idle(docker, &busybox, "rm-f");
    docker
        .run(&["rm", &container.name])
        .exits(1)
        .fails_saying(&["running"]);
    assert_eq!(docker.ok(&["rm", "-f", &container.name]), container.name);
    docker.run(&["inspect", &container.name]).exits(1);
}

#[test]
fn many_are_removed_by_one_command() {
    let (docker, busybox) = plain();
    let one = detached(docker, "many", &[], &[&busybox, "true"]);
    let two = idle(docker, &busybox, "many");
    docker.run(&["rm", "-f", &one.name, &two.name]).exits(0);
    assert_eq!(
        docker.ok(&["ps", "-aq", "--filter", &format!("name={}", one.name)]),
        ""
    );
}

#[test]
fn top_lists_the_containers_processes() {
    let (docker, busybox) = setup();
    let container = detached(
        docker,
        "top",
        &[],
        &[&busybox, "sh", "-c", "sleep 4711 & wait"],
    );
    let text = eventually("top doesn't list the child", || {
        let text = docker.ok(&["top", &container.name]);
        text.contains("sleep 4711").then_some(text)
    });
    assert!(
        text.lines()
            .next()
            .is_some_and(|title| title.contains("PID")),
        "{text}"
    );
}

#[test]
fn a_renamed_container_has_the_new_name_only() {
    let (docker, busybox) = plain();
    let old = detached(docker, "old", &[], &[&busybox, "true"]);
    let new = docker.container("new");
    docker.ok(&["rename", &old.name, &new.name]);
    assert_eq!(new.field("/Name"), format!("/{}", new.name));
    docker.run(&["inspect", &old.name]).exits(1);
    let other = detached(docker, "old", &[], &[&busybox, "true"]);
    docker
        .run(&["rename", &other.name, &new.name])
        .exits(1)
        .fails_saying(&["already in use"]);
}

#[test]
fn attach_shows_output_and_takes_input() {
    let (docker, busybox) = setup();
    let script = "read line; echo got $line; exit 6";
    let container = detached(docker, "attach", &["-i"], &[&busybox, "sh", "-c", script]);
    let mut running = docker.start(&["attach", &container.name]);
    // Attaching takes a moment, and input is kept until it's read: the answer shows that both work.
    running.write("one\n");
    running.stdout.wait_for("got one\n");
    assert_eq!(running.finish().code, Some(6));
}

#[test]
fn two_clients_attached_see_the_same() {
    let (docker, busybox) = setup();
    let script = "until test -e /go; do echo waiting; sleep 1; done; echo both; exit 0";
    let container = detached(docker, "attach-two", &[], &[&busybox, "sh", "-c", script]);
    let first = docker.start(&["attach", "--no-stdin", &container.name]);
    let second = docker.start(&["logs", "-f", &container.name]);
    first.stdout.wait_for("waiting\n");
    second.stdout.wait_for("waiting\n");
    docker.ok(&["exec", &container.name, "touch", "/go"]);
    for client in [first, second] {
        let text = client.finish().exits(0).text();
        assert!(text.ends_with("waiting\nboth\n"), "{text}");
    }
}
