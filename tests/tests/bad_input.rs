//! Bad input and bad luck with registries, archives and commands: a clear error, and nothing lost.

use std::time::Instant;

use hearth_tests::archive::{Encoding, Image};
use hearth_tests::docker::Docker;
use hearth_tests::images;
use hearth_tests::layer::Layer;
use hearth_tests::process::{HUNG, eventually};
use hearth_tests::target::{self, Target};
use rustix::process::Signal;
use serde_json::json;

fn setup() -> (&'static Target, &'static Docker) {
    let target = target::shared();
    (target, target.docker())
}

/// The same, where nothing is booted: for cases in which no container runs.
fn plain() -> (&'static Target, &'static Docker) {
    let target = target::plain();
    (target, target.docker())
}

/// An image with a layer of 512 KiB that no compression makes small, and that no other has.
fn large(name: &str) -> Image {
    let mut state: u64 = name.bytes().fold(88_172_645_463_325_252, |state, byte| {
        state.wrapping_mul(31) + u64::from(byte)
    });
    // A run of the tests must not find what an earlier one left.
    state ^= u64::from(std::process::id()) << 20;
    let noise: Vec<u8> = (0..512 << 10)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[7]
        })
        .collect();
    images::busybox().with_layer(Layer::new().file("noise", 0o644, &noise))
}

/// Images on the node, for "nothing changed".
#[track_caller]
fn listed(docker: &Docker, reference: &str) -> String {
    docker.ok(&["images", "-q", reference])
}

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

#[test]
fn a_layer_that_climbs_out_stays_inside_or_is_refused() {
    let (target, docker) = setup();
    let base = || images::busybox().clone();
    let cases = [
        (
            "parent",
            Layer::new().raw_named_file("../../../climbed-out", b"evil"),
        ),
        (
            "deep",
            Layer::new()
                .dir("etc", 0o755)
                .raw_named_file("etc/../../../climbed-out", b"evil"),
        ),
        (
            "absolute",
            Layer::new().raw_named_file("/climbed-out", b"evil"),
        ),
        (
            "symlink",
            Layer::new()
                .symlink("link", "../../../../..")
                .raw_named_file("link/climbed-out", b"evil"),
        ),
        (
            "absolute-symlink",
            Layer::new()
                .symlink("link", "/")
                .raw_named_file("link/climbed-out", b"evil"),
        ),
    ];
    for (name, layer) in cases {
        let tag = format!("hearth-test/climb-{name}:latest");
        let done = docker.run_with_input(&["load"], &base().with_layer(layer).docker_archive(&tag));
        if done.code == Some(0) {
            // Taken as inside: then the image works, and the file is in it, if it's anywhere.
            docker
                .run(&[
                    "run",
                    "--rm",
                    &tag,
                    "sh",
                    "-c",
                    "ls -l /climbed-out /link/climbed-out || true",
                ])
                .exits(0);
        } else {
            assert!(!done.stderr.trim().is_empty(), "{name}: {done:?}");
            assert_eq!(listed(docker, &tag), "", "{name}");
        }
        // dockerd unpacks in a change of root, where the way out leads back in.
        if target.is_hearth() && (name == "parent" || name == "deep") {
            assert_ne!(
                done.code,
                Some(0),
                "a path that leads out isn't taken: {done:?}"
            );
        }
    }
}

#[test]
fn an_archive_that_points_out_of_itself_is_refused() {
    let (target, docker) = plain();
    // Nobody has it: layers that are here may be left out.
    let image = Image::new(
        json!({}),
        vec![Layer::new().file("pointing", 0o644, b"").finish()],
    );
    for (config, layer) in [
        ("/etc/passwd", "layer.tar"),
        ("../../etc/passwd", "layer.tar"),
        ("config.json", "../../../etc/passwd"),
        ("config.json", "/proc/self/environ"),
    ] {
        let manifest = json!([{ "Config": config, "RepoTags": ["hearth-test/pointing:1"], "Layers": [layer] }]);
        let archive = Layer::new()
            .file("manifest.json", 0o644, manifest.to_string().as_bytes())
            .file("config.json", 0o644, &image.config_file())
            .file("layer.tar", 0o644, &image.layers()[0])
            .finish();
        let done = docker.run_with_input(&["load"], &archive);
        if done.code == Some(0) && !target.is_hearth() {
            continue; // dockerd takes the way out as one that leads back in.
        }
        assert_eq!(done.code, Some(1), "{config} {layer}: {done:?}");
        assert!(
            !(done.text() + &done.stderr).contains("root:x:0"),
            "{done:?}"
        );
        assert_eq!(listed(docker, "hearth-test/pointing:1"), "");
    }
}

#[test]
fn garbage_to_load_is_an_error_that_says_so() {
    let (_, docker) = setup();
    let whole = large("cut").docker_archive("hearth-test/cut:1");
    let cut = &whole[..whole.len() / 2];
    let gzip = Encoding::Gzip.encode(&whole);
    let noise: Vec<u8> = (0..100_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let inputs: [(&str, &[u8]); 5] = [
        ("nothing", b""),
        ("text", b"this is no archive\n"),
        ("noise", &noise),
        ("a tar cut short", cut),
        ("a gzip cut short", &gzip[..gzip.len() / 2]),
    ];
    for (what, input) in inputs {
        let done = docker.run_with_input(&["load"], input);
        if what == "nothing" && done.code == Some(0) {
            continue; // dockerd takes nothing for an archive of no images.
        }
        assert_eq!(done.code, Some(1), "{what}: {done:?}");
        assert!(!done.stderr.trim().is_empty(), "{what}: {done:?}");
    }
    assert_eq!(listed(docker, "hearth-test/cut:1"), "");
    // And the whole one is taken after that.
    docker.run_with_input(&["load"], &whole).exits(0);
    docker
        .run(&["run", "--rm", "hearth-test/cut:1", "true"])
        .exits(0);
}

#[test]
fn an_archive_that_contradicts_itself_is_refused() {
    let (target, docker) = plain();
    let manifest = |config: &str| {
        json!([{ "Config": config, "RepoTags": ["hearth-test/odd:1"], "Layers": ["layer.tar"] }])
            .to_string()
    };
    let layer = &images::busybox().layers()[0];
    // Of an image that no node has: what is there already isn't read again.
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", "0f".repeat(32))] },
    })
    .to_string();
    let cases: [(&str, Vec<u8>); 5] = [
        (
            "no manifest",
            Layer::new().file("layer.tar", 0o644, layer).finish(),
        ),
        (
            "the manifest isn't JSON",
            Layer::new().file("manifest.json", 0o644, b"{").finish(),
        ),
        (
            "no configuration",
            Layer::new()
                .file("manifest.json", 0o644, manifest("absent.json").as_bytes())
                .file("layer.tar", 0o644, layer)
                .finish(),
        ),
        (
            "the configuration isn't JSON",
            Layer::new()
                .file("manifest.json", 0o644, manifest("config.json").as_bytes())
                .file("config.json", 0o644, b"nul")
                .file("layer.tar", 0o644, layer)
                .finish(),
        ),
        (
            "another layer than the configuration says",
            Layer::new()
                .file("manifest.json", 0o644, manifest("config.json").as_bytes())
                .file("config.json", 0o644, config.as_bytes())
                .file(
                    "layer.tar",
                    0o644,
                    &Layer::new().file("x", 0o644, b"y").finish(),
                )
                .finish(),
        ),
    ];
    for (what, archive) in cases {
        let done = docker.run_with_input(&["load"], &archive);
        if !target.is_hearth() && done.code == Some(0) {
            eprintln!("dockerd takes {what}");
            continue;
        }
        assert_eq!(done.code, Some(1), "{what}: {done:?}");
        assert!(!done.stderr.trim().is_empty(), "{what}: {done:?}");
        assert_eq!(listed(docker, "hearth-test/odd:1"), "", "{what}");
    }
}

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
