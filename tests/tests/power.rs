//! Power cuts and crashes: what was acknowledged is there afterwards, and what ran runs on.

use std::sync::atomic::{AtomicBool, Ordering};

use hearth_tests::docker::Docker;
use hearth_tests::images;
use hearth_tests::node::{Node, Setup};
use hearth_tests::process::eventually;

const BUSYBOX: &str = "hearth-test/busybox:latest";

#[track_caller]
fn load_busybox(docker: &Docker) {
    docker
        .run_with_input(&["load"], &images::busybox().docker_archive(BUSYBOX))
        .exits(0);
}

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    let node = Node::boot(&Setup::default());
    let docker = node.docker();
    load_busybox(&docker);
    docker.ok(&["tag", BUSYBOX, "hearth-test/other-name:1"]);
    docker
        .run(&[
            "run",
            "--name",
            "exited",
            BUSYBOX,
            "sh",
            "-c",
            "echo said; exit 7",
        ])
        .exits(7);
    docker.ok(&[
        "create",
        "--name",
        "created",
        "-l",
        "keep=this",
        "-e",
        "A=b",
        BUSYBOX,
        "true",
    ]);
    docker.ok(&["run", "--name", "renamed-from", BUSYBOX, "true"]);
    docker.ok(&["rename", "renamed-from", "renamed-to"]);
    docker.ok(&["run", "--name", "removed", BUSYBOX, "true"]);
    docker.ok(&["rm", "removed"]);
    // Written once: what is read after the power cut is what was on the disk, not what a second run has written, or is about to.
    let script = "test -e /file || { echo precious > /file; sync; }; echo synced; sleep 100000";
    docker.ok(&[
        "run", "-d", "--name", "running", "-p", "18080:80", BUSYBOX, "sh", "-c", script,
    ]);
    eventually("the container doesn't write", || {
        docker
            .ok(&["logs", "running"])
            .contains("synced")
            .then_some(())
    });
    let ids = docker.ok(&["ps", "-aq", "--no-trunc"]);
    // Everything above was answered: so it's true now, whatever the caches of the node's kernel hold.
    node.cut_power();
    node.restore_power();

    let names = docker.ok(&["ps", "-a", "--format", "{{.Names}}"]);
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["created", "exited", "renamed-to", "running"]);
    assert_eq!(docker.ok(&["ps", "-aq", "--no-trunc"]), ids);
    let exited = docker.inspect("exited");
    assert_eq!(exited["State"]["ExitCode"], 7, "{exited:#}");
    assert_eq!(exited["State"]["Status"], "exited");
    assert_eq!(docker.ok(&["logs", "exited"]), "said");
    let created = docker.inspect("created");
    assert_eq!(created["Config"]["Labels"]["keep"], "this", "{created:#}");
    // Nothing restarts it unless it was asked to; but it isn't said to run.
    let running = docker.inspect("running");
    assert_eq!(running["State"]["Status"], "exited", "{running:#}");
    assert_ne!(running["State"]["ExitCode"], 0, "{running:#}");
    docker
        .run(&["image", "inspect", "hearth-test/other-name:1"])
        .exits(0);
    // And all of it still works.
    docker.ok(&["start", "running"]);
    assert_eq!(docker.ok(&["exec", "running", "cat", "/file"]), "precious");
    docker.run(&["start", "-a", "created"]).exits(0);
    docker.run(&["run", "--rm", BUSYBOX, "true"]).exits(0);
    docker.ok(&["rm", "-f", "running"]);
}

#[test]
fn power_cuts_in_the_middle_of_everything_lose_nothing_acknowledged() {
    let node = Node::boot(&Setup::default());
    let docker = node.docker();
    load_busybox(&docker);
    // (name, whether its removal was acknowledged)
    let mut acknowledged: Vec<(String, bool)> = Vec::new();
    for round in 0..3 {
        let cut = AtomicBool::new(false);
        let (made, cut) = std::thread::scope(|scope| {
            let (docker, cut) = (&docker, &cut);
            let maker = scope.spawn(move || {
                let mut made = Vec::new();
                for n in 0.. {
                    let name = format!("round-{round}-{n}");
                    if docker
                        .run(&["create", "--name", &name, BUSYBOX, "true"])
                        .code
                        != Some(0)
                    {
                        break;
                    }
                    let remove = n % 3 == 2;
                    if remove && docker.run(&["rm", &name]).code != Some(0) {
                        // Whether it was removed nobody knows.
                        break;
                    }
                    made.push((name, remove));
                    if cut.load(Ordering::Relaxed) {
                        break;
                    }
                }
                made
            });
            let runner = scope.spawn(move || {
                while !cut.load(Ordering::Relaxed)
                    && docker.run(&["run", "--rm", BUSYBOX, "true"]).code == Some(0)
                {
                }
            });
            // Enough to be in the middle of it; where exactly is chance, and any place must do.
            eventually("the node creates nothing", || {
                (docker
                    .run(&["ps", "-aq", "--filter", &format!("name=round-{round}-4")])
                    .text()
                    .len()
                    > 1)
                .then_some(())
            });
            node.cut_power();
            cut.store(true, Ordering::Relaxed);
            let made = maker.join().expect("it doesn't panic");
            runner.join().expect("it doesn't panic");
            (made, true)
        });
        assert!(cut);
        acknowledged.extend(made);
        node.restore_power();
        let names = docker.ok(&["ps", "-a", "--format", "{{.Names}}"]);
        for (name, removed) in &acknowledged {
            assert_eq!(
                names.lines().any(|line| line == name),
                !removed,
                "{name} after cut {round}:\n{names}"
            );
        }
        // Nothing that was running claims to run, and there's nothing that can't be removed.
        assert_eq!(docker.ok(&["ps", "-q"]), "");
        docker.run(&["run", "--rm", BUSYBOX, "true"]).exits(0);
    }
    let all = docker.ok(&["ps", "-aq"]);
    let mut arguments = vec!["rm", "-f"];
    arguments.extend(all.lines());
    docker.run(&arguments).exits(0);
    assert_eq!(docker.ok(&["ps", "-aq"]), "");
}

#[test]
fn an_image_half_pulled_at_a_power_cut_is_pulled_again() {
    use hearth_tests::archive::Encoding;
    use hearth_tests::faults::{Fault, Proxy};
    use hearth_tests::layer::Layer;
    use hearth_tests::registry::Registry;
    let registry = Registry::start();
    let slow = Proxy::start(registry.port(), Fault::Slow);
    let insecure = vec![format!("10.0.2.2:{}", slow.port())];
    let node = Node::boot(&Setup {
        insecure,
        ..Setup::default()
    });
    let docker = node.docker();
    let noise: Vec<u8> = (0..400_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let image = images::busybox().with_layer(Layer::new().file("noise", 0o644, &noise));
    registry.push("half", "latest", &image, Encoding::Plain);
    let reference = format!("10.0.2.2:{}/half", slow.port());
    let pulling = docker.start(&["pull", &reference]);
    pulling.stdout.wait_for("Pulling");
    node.cut_power();
    drop(pulling);
    node.restore_power();
    assert_eq!(docker.ok(&["images", "-q", &reference]), "");
    docker.run(&["pull", &reference]).exits(0);
    docker
        .run(&["run", "--rm", &reference, "test", "-s", "/noise"])
        .exits(0);
}

#[test]
fn a_node_whose_init_hangs_is_restarted_by_its_watchdog() {
    let node = Node::boot(&Setup {
        side: true,
        ..Setup::default()
    });
    node.side().ask("freeze 1");
    node.wait_for_reset();
}

#[test]
fn a_node_ends_in_order_when_it_is_told_to_and_comes_back() {
    let node = Node::boot(&Setup::default());
    let docker = node.docker();
    load_busybox(&docker);
    let script = "trap 'echo told; exit 0' TERM; echo ready; while :; do sleep 1; done";
    docker.ok(&[
        "run", "-d", "--name", "listener", BUSYBOX, "sh", "-c", script,
    ]);
    eventually("the container isn't ready", || {
        docker
            .ok(&["logs", "listener"])
            .contains("ready")
            .then_some(())
    });
    // In order: its containers are asked to stop, and answer.
    for (press, starts) in [
        (Node::press_power_button as fn(&Node), 1),
        (Node::press_ctrl_alt_del, 2),
    ] {
        press(&node);
        node.restore_power();
        let state = docker.inspect("listener")["State"].clone();
        assert_eq!(state["Running"], false, "{state:#}");
        assert_eq!(state["ExitCode"], 0, "{state:#}");
        let log = docker.ok(&["logs", "listener"]);
        assert_eq!(log.matches("told").count(), starts, "{log}");
        docker.run(&["start", "listener"]).exits(0);
        eventually("the container isn't ready again", || {
            let log = docker.ok(&["logs", "listener"]);
            (log.matches("ready").count() > starts).then_some(())
        });
    }
    docker.ok(&["rm", "-f", "listener"]);
}

#[test]
fn containers_do_not_notice_that_control_is_killed() {
    let node = Node::boot(&Setup {
        side: true,
        ..Setup::default()
    });
    let docker = node.docker();
    load_busybox(&docker);
    let script = "n=0; while :; do n=$((n+1)); echo tick $n; sleep 1; test -e /go && exit 19; done";
    docker.ok(&["run", "-d", "--name", "clock", BUSYBOX, "sh", "-c", script]);
    eventually("the clock doesn't tick", || {
        docker
            .ok(&["logs", "clock"])
            .contains("tick 2")
            .then_some(())
    });
    let before = docker.inspect("clock");
    let monitors = node.side().pids("vmm");
    node.side().kill("control");
    node.wait_for_api();
    assert_eq!(
        node.side().pids("vmm"),
        monitors,
        "the monitors aren't the same any more"
    );
    let after = docker.inspect("clock");
    assert_eq!(after["State"]["Running"], true, "{after:#}");
    assert_eq!(after["State"]["StartedAt"], before["State"]["StartedAt"]);
    // A new `logs -f` has what was, and goes on.
    let following = docker.start(&["logs", "-f", "clock"]);
    let text = following.stdout.wait_for("tick 2\n");
    let ticks = text.matches("tick").count();
    following
        .stdout
        .wait_until("another tick", |text| text.matches("tick").count() > ticks);
    // One that stands still is taken up as well, and does again.
    docker.ok(&["pause", "clock"]);
    node.side().kill("control");
    node.wait_for_api();
    assert_eq!(node.side().pids("vmm"), monitors);
    eventually("it doesn't stand still", || {
        let again = docker.run(&["pause", "clock"]);
        again.stderr.contains("is already paused").then_some(())
    });
    assert_eq!(docker.inspect("clock")["State"]["Status"], "paused");
    docker.ok(&["unpause", "clock"]);
    let following = docker.start(&["logs", "-f", "clock"]);
    let ticks = following
        .stdout
        .wait_for("tick 2\n")
        .matches("tick")
        .count();
    following
        .stdout
        .wait_until("another tick", |text| text.matches("tick").count() > ticks);
    let waiting = docker.start(&["wait", "clock"]);
    docker.ok(&["exec", "clock", "touch", "/go"]);
    assert_eq!(waiting.finish().exits(0).text(), "19\n");
    let text = following.finish().exits(0).text();
    // Every line once, in order: none lost in the crash, none twice.
    for (position, line) in text.lines().enumerate() {
        assert_eq!(line, format!("tick {}", position + 1), "{text}");
    }
    docker.run(&["run", "--rm", BUSYBOX, "true"]).exits(0);
}

#[test]
fn a_killed_monitor_is_an_exited_container_and_nothing_else() {
    let node = Node::boot(&Setup {
        side: true,
        ..Setup::default()
    });
    let docker = node.docker();
    load_busybox(&docker);
    docker.ok(&[
        "run", "-d", "--name", "victim", "-p", "18081:80", BUSYBOX, "sleep", "100000",
    ]);
    let waiting = docker.start(&["wait", "victim"]);
    node.side().kill("vmm");
    assert_eq!(waiting.finish().exits(0).text(), "137\n");
    let victim = docker.inspect("victim");
    assert_eq!(victim["State"]["Status"], "exited", "{victim:#}");
    assert_eq!(victim["State"]["ExitCode"], 137);
    assert_eq!(victim["State"]["OOMKilled"], false);
    eventually("something of the container is left behind", || {
        let left = [
            node.side().ask("list /run/hearth/pods"),
            node.side().ask("list /sys/fs/cgroup/pods"),
        ];
        let pods = left[0].trim().is_empty();
        // A cgroup's own files are always there; a pod's group has a name of hexadecimal digits.
        let groups = !left[1]
            .lines()
            .any(|name| name.len() > 8 && name.bytes().all(|b| b.is_ascii_hexdigit()));
        (pods && groups && node.side().pids("vmm").is_empty()).then_some(())
    });
    docker.ok(&["start", "victim"]);
    assert_eq!(docker.ok(&["exec", "victim", "echo", "alive"]), "alive");
    docker.ok(&["rm", "-f", "victim"]);
}

#[test]
fn a_node_whose_containers_want_more_memory_than_there_is_ends_containers_and_nothing_else() {
    let node = Node::boot(&Setup {
        side: true,
        memory_mib: 1024,
        ..Setup::default()
    });
    let docker = node.docker();
    load_busybox(&docker);
    let control = node.side().pids("control");
    let fill = "dd if=/dev/zero of=/hog/file bs=1M count=380 && echo filled && sleep 100000";
    for name in ["one", "two", "three"] {
        docker.ok(&[
            "run",
            "-d",
            "--name",
            name,
            "-m",
            "400m",
            "--tmpfs",
            "/hog:size=390m",
            BUSYBOX,
            "sh",
            "-c",
            fill,
        ]);
    }
    // Each of these is an answer of the node's API while its memory runs out.
    let ended = eventually("no container ends", || {
        let names = docker.ok(&[
            "ps",
            "-a",
            "--filter",
            "status=exited",
            "--format",
            "{{.Names}}",
        ]);
        names.lines().next().map(str::to_owned)
    });
    let state = docker.inspect(&ended)["State"].clone();
    assert_eq!(state["ExitCode"], 137, "{state:#}");
    assert_eq!(state["OOMKilled"], true, "{state:#}");
    assert_eq!(node.side().pids("control"), control, "control has ended");
    // One of them has room, and is left alone.
    let left = eventually("two don't end", || {
        let names = docker.ok(&["ps", "--format", "{{.Names}}"]);
        (names.lines().count() < 2).then_some(names)
    });
    assert_ne!(left, "", "nothing is left");
    eventually("what is left isn't done", || {
        docker.ok(&["logs", &left]).contains("filled").then_some(())
    });
    // Who would be next, of those that are left.
    let score = |name: &str| {
        let line = node.side().ask(&format!("cookies {name}"));
        // Of init's the first is PID 1, and the other the side's.
        let first = line.lines().next().unwrap_or_default();
        let last = first.split_whitespace().next_back().map(str::parse::<i32>);
        last.and_then(Result::ok)
            .unwrap_or_else(|| panic!("{line:?}"))
    };
    assert!(score("vmm") > 0 && score("control") < 0 && score("init") == -1000);
}
