//! Names, options and programs that ask for what they can't have, and clients that go away.

use std::time::Instant;

use hearth_tests::process::{HUNG, eventually};
use rustix::process::Signal;

use super::{plain, setup};

#[test]
fn a_name_is_given_once() {
    let (target, docker) = plain();
    let busybox = target.busybox();
    let first = docker.container("once");
    docker.ok(&["create", "--name", &first.name, &busybox, "true"]);
    docker
        .run(&["run", "--name", &first.name, &busybox, "true"])
        .exits(125)
        .fails_saying(&["conflict", "already in use", &first.name]);
    // Two at the same moment: one of them gets it.
    let contested = docker.container("contested");
    let codes: Vec<_> = std::thread::scope(|scope| {
        let create = || {
            docker
                .run(&["create", "--name", &contested.name, &busybox, "true"])
                .code
        };
        let attempts: Vec<_> = (0..4).map(|_| scope.spawn(create)).collect();
        attempts
            .into_iter()
            .map(|attempt| attempt.join().expect("it doesn't panic"))
            .collect()
    });
    assert_eq!(
        codes.iter().filter(|code| **code == Some(0)).count(),
        1,
        "{codes:?}"
    );
}

#[test]
fn a_name_must_be_one() {
    let (target, docker) = plain();
    let busybox = target.busybox();
    for name in ["/", "-dash", "with space", "a", "ünïcode", "../../etc"] {
        docker
            .run(&["create", "--name", name, &busybox, "true"])
            .exits(1)
            .fails_saying(&["name"]);
    }
}

#[test]
fn options_that_make_no_sense_are_refused_at_creation() {
    let (target, docker) = plain();
    let busybox = target.busybox();
    let mut refused = vec![
        (
            ["--cap-drop", "NET_RWA"],
            "invalid CapDrop: unknown capability",
        ),
        (["--tmpfs", "/"], "destination can't be '/'"),
        (["--tmpfs", "."], "mount path must be absolute"),
        (["--tmpfs", "rel"], "mount path must be absolute"),
        (["--restart", "always:3"], "maximum retry count"),
        (["--restart", "sometimes"], "invalid restart policy"),
        (["--log-driver", "nosuch"], "nosuch"),
        (["--log-opt", "foo=bar"], "unknown log opt 'foo'"),
        (
            ["--cpu-period", "10"],
            "CPU cfs period can not be less than",
        ),
        (["--oom-score-adj", "2000"], "range for oom score adj"),
        (
            ["--cpuset-cpus", "0-999"],
            "Requested CPUs are not available",
        ),
        (["-w", "rel"], "needs to be an absolute path"),
        (["--stop-signal", "SIGNOTHING"], "SIGNOTHING"),
        (["--runtime", "nosuch"], "nosuch"),
    ];
    if target.is_hearth() {
        // dockerd takes these, and fails at the start or not at all.
        refused.extend([
            (["--storage-opt", "foo=1"], "unknown option foo"),
            (["--network", "nosuch"], "network nosuch not found"),
            (["--pid", "host"], "not supported"),
            (["-v", "/a:/b"], "not supported"),
        ]);
    }
    for (option, words) in refused {
        let container = docker.container("senseless");
        let [name, value] = option;
        docker
            .run(&["create", "--name", &container.name, name, value, &busybox])
            .exits(1)
            .fails_saying(&[words]);
        docker.run(&["inspect", &container.name]).exits(1);
    }
}

#[test]
fn more_memory_than_the_node_has_is_refused() {
    let (target, docker) = plain();
    let busybox = target.busybox();
    docker
        .run(&["run", "--rm", "-m", "1m", &busybox, "true"])
        .exits(125)
        .fails_saying(&["memory"]);
    if target.is_hearth() {
        let container = docker.container("greedy");
        docker
            .run(&[
                "run",
                "--name",
                &container.name,
                "-m",
                "1t",
                &busybox,
                "true",
            ])
            .exits(125)
            .fails_saying(&["memory"]);
    }
}

#[test]
fn more_processors_than_the_node_has_are_refused() {
    let (target, docker) = plain();
    let busybox = target.busybox();
    docker
        .run(&["run", "--rm", "--cpus", "1000", &busybox, "true"])
        .exits(125)
        .fails_saying(&["cpu"]);
}

#[test]
fn a_program_that_takes_too_much_memory_is_killed_and_it_shows() {
    let (target, docker) = setup();
    let busybox = target.busybox();
    let container = docker.container("oom");
    // tail keeps everything since the last line break, and zeros have none.
    let done = docker.run(&[
        "run",
        "--name",
        &container.name,
        "-m",
        "48m",
        &busybox,
        "tail",
        "/dev/zero",
    ]);
    assert_eq!(done.code, Some(137), "{done:?}");
    assert_eq!(container.field("/State/OOMKilled"), true);
    assert_eq!(container.field("/State/ExitCode"), 137);
    docker.run(&["run", "--rm", &busybox, "true"]).exits(0);
}

#[test]
fn each_child_that_takes_too_much_memory_is_an_event_and_the_container_lives_on() {
    let (target, docker) = setup();
    let busybox = target.busybox();
    let container = docker.container("oom-child");
    let hog = "tail /dev/zero; echo ended with $?; ";
    let script = format!("{hog} exec sleep 100000");
    let limited = [
        "run",
        "-d",
        "-m",
        "48m",
        "--name",
        &container.name,
        &busybox,
    ];
    docker.ok(&[&limited[..], &["sh", "-c", &script]].concat());
    container.wait_for_log("ended with 137");
    let ooms = |count: usize| {
        let mut seen = String::new();
        let start = Instant::now();
        while seen.lines().count() != count {
            assert!(
                start.elapsed() < HUNG,
                "hung: there are no {count} events but {seen:?}, and the log is {:?}",
                docker.run(&["logs", &container.name])
            );
            // By the node's clock: the client's may be another.
            let now = docker.ok(&["info", "--format", "{{.SystemTime}}"]);
            let by = format!("container={}", container.name);
            let filters = ["events", "--since", "0", "--until", &now, "--filter", &by];
            seen = docker.ok(&[&filters[..], &["--filter", "event=oom"]].concat());
        }
        assert_eq!(container.field("/State/OOMKilled"), true);
        assert_eq!(container.field("/State/Running"), true);
    };
    ooms(1);
    docker
        .run(&["exec", &container.name, "tail", "/dev/zero"])
        .exits(137);
    ooms(2);
    docker.ok(&["kill", &container.name]);
    container.wait_for_status("exited");
    assert_eq!(container.field("/State/OOMKilled"), true);
}

#[test]
fn a_client_that_goes_away_leaves_a_working_node() {
    let (target, docker) = setup();
    let busybox = target.busybox();
    let container = docker.container("abandoned");
    let running = docker.start(&[
        "run",
        "-i",
        "--name",
        &container.name,
        &busybox,
        "sh",
        "-c",
        "echo up; cat; echo input ended",
    ]);
    running.stdout.wait_for("up");
    running.signal(Signal::KILL);
    drop(running);
    // The client's input has ended with it, so the program goes on to its end.
    eventually("the abandoned container doesn't end", || {
        (container.field("/State/Status") == "exited").then_some(())
    });
    assert_eq!(container.field("/State/ExitCode"), 0);
    docker.run(&["run", "--rm", &busybox, "true"]).exits(0);
}

#[test]
fn many_clients_at_once_get_their_own_answers() {
    let (target, docker) = setup();
    let busybox = target.busybox();
    let outputs: Vec<String> = std::thread::scope(|scope| {
        let busybox = &busybox;
        let runs: Vec<_> = (0..6)
            .map(|n| {
                scope.spawn(move || {
                    docker.ok(&["run", "--rm", busybox, "echo", &format!("number {n}")])
                })
            })
            .collect();
        runs.into_iter()
            .map(|run| run.join().expect("it doesn't panic"))
            .collect()
    });
    let expected: Vec<String> = (0..6).map(|n| format!("number {n}")).collect();
    assert_eq!(outputs, expected);
}
