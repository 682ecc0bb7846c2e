//! `version`, `info`, `ps` and `inspect`.

use crate::{detached, idle, plain, setup};
use hearth_tests::target;

#[test]
fn version_and_info_describe_the_server() {
    let (docker, busybox) = plain();
    let version = docker.ok(&[
        "version",
        "--format",
        "{{.Server.Version}} {{.Server.Os}}/{{.Server.Arch}}",
    ]);
    assert!(version.ends_with(" linux/amd64"), "{version}");
    assert!(
        docker.ok(&["version"]).contains("Server"),
        "version has a part of the server"
    );
    let container = idle(docker, &busybox, "info");
    let info: serde_json::Value =
        serde_json::from_str(&docker.ok(&["info", "--format", "{{json .}}"]))
            .expect("info is JSON");
    assert!(info["ContainersRunning"].as_u64() >= Some(1), "{info:#}");
    assert!(info["Images"].as_u64() >= Some(1), "{info:#}");
    assert!(info["MemTotal"].as_u64() > Some(64 << 20), "{info:#}");
    assert!(info["NCPU"].as_u64() >= Some(1), "{info:#}");
    assert_eq!(info["OSType"], "linux");
    if target::plain().is_hearth() {
        assert!(
            info["OperatingSystem"]
                .as_str()
                .is_some_and(|name| name.contains("Hearth")),
            "{info:#}"
        );
    }
    drop(container);
    docker.run(&["info"]).exits(0);
}

#[test]
fn a_node_without_a_cluster_is_in_no_swarm_and_says_what_would_make_one() {
    if !target::plain().is_hearth() {
        return;
    }
    let (docker, _) = plain();
    let state = docker.ok(&["info", "--format", "{{.Swarm.LocalNodeState}}"]);
    assert_eq!(state.trim(), "inactive");
    let refused = docker.run(&["swarm", "init"]).exits(1);
    refused.fails_saying(&["[cluster]", "issuer_certificate", "docs/hearth-toml.md"]);
    let refused = docker.run(&["swarm", "leave"]).exits(1);
    refused.fails_saying(&["This node is not part of a swarm"]);
    for command in [&["node", "ls"][..], &["swarm", "join-token", "worker"]] {
        let refused = docker.run(command).exits(1);
        refused.fails_saying(&["This node is not a swarm manager"]);
    }
}

#[test]
fn ps_shows_what_runs_and_all_on_demand() {
    let (docker, busybox) = plain();
    let up = idle(docker, &busybox, "ps-up");
    let down = detached(docker, "ps-down", &[], &[&busybox, "sh", "-c", "exit 3"]);
    down.wait_for_status("exited");
    let running = docker.ok(&["ps", "--format", "{{.Names}}"]);
    assert!(running.lines().any(|name| name == up.name), "{running}");
    assert!(!running.lines().any(|name| name == down.name), "{running}");
    let all = docker.ok(&["ps", "-a", "--format", "{{.Names}}"]);
    assert!(all.lines().any(|name| name == down.name), "{all}");
    let table = docker.ok(&["ps", "-a"]);
    assert!(table.starts_with("CONTAINER ID"), "{table}");
    let row = table
        .lines()
        .find(|line| line.ends_with(&down.name))
        .expect("the container has a row");
    assert!(
        row.contains("Exited (3)") && row.contains("\"sh -c 'exit 3'\"") && row.contains("busybox"),
        "{row}"
    );
    let row = table
        .lines()
        .find(|line| line.ends_with(&up.name))
        .expect("the container has a row");
    assert!(row.contains(" Up "), "{row}");
}

#[test]
fn ps_filters_as_docker_documents() {
    let (docker, busybox) = plain();
    let up = detached(
        docker,
        "filter-up",
        &["-l", "tier=web", "-l", "zone"],
        &[&busybox, "sleep", "100000"],
    );
    let down = detached(
        docker,
        "filter-down",
        &["-l", "tier=db"],
        &[&busybox, "sh", "-c", "exit 9"],
    );
    down.wait_for_status("exited");
    let names = |filters: &[&str]| -> Vec<String> {
        let mut arguments = vec!["ps", "-a", "--format", "{{.Names}}"];
        for filter in filters {
            arguments.extend(["--filter", filter]);
        }
        let mine = [up.name.as_str(), down.name.as_str()];
        let mut names: Vec<String> = docker
            .ok(&arguments)
            .lines()
            .filter(|name| mine.contains(name))
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    };
    let only_up = vec![up.name.clone()];
    let only_down = vec![down.name.clone()];
    assert_eq!(names(&["label=tier=web"]), only_up);
    assert_eq!(names(&["label=zone"]), only_up);
    assert_eq!(names(&["label=tier", "label=tier=db"]), only_down);
    assert_eq!(
        names(&["label=tier=web", "label=tier=db"]),
        Vec::<String>::new()
    );
    assert_eq!(names(&["status=running"]), only_up);
    assert_eq!(names(&["status=exited"]), only_down);
    assert_eq!(names(&["status=exited", "status=running"]).len(), 2);
    assert_eq!(names(&["exited=9"]), only_down);
    assert_eq!(names(&[&format!("name={}", up.name)]), only_up);
    assert_eq!(names(&["name=^/filter-down"]), only_down);
    assert_eq!(names(&[&format!("ancestor={busybox}")]).len(), 2);
    let id = up.field("/Id").as_str().expect("an id is text").to_owned();
    assert_eq!(names(&[&format!("id={}", &id[..10])]), only_up);
    assert_eq!(names(&[&format!("before={}", down.name)]), only_up);
    assert_eq!(names(&[&format!("since={}", up.name)]), only_down);
    docker
        .run(&["ps", "--filter", "nonsense=1"])
        .exits(1)
        .fails_saying(&["nonsense"]);
}

#[test]
fn ps_prints_ids_and_columns() {
    let (docker, busybox) = setup();
    let container = detached(
        docker,
        "columns",
        &["-l", "k=v", "-p", "127.0.0.1::80"],
        &[&busybox, "sleep", "100000"],
    );
    let id = container
        .field("/Id")
        .as_str()
        .expect("an id is text")
        .to_owned();
    let filter = format!("name={}", container.name);
    assert_eq!(docker.ok(&["ps", "-q", "--filter", &filter]), id[..12]);
    assert_eq!(
        docker.ok(&["ps", "-q", "--no-trunc", "--filter", &filter]),
        id
    );
    let row = docker.ok(&[
        "ps",
        "--filter",
        &filter,
        "--format",
        "{{.ID}}|{{.Image}}|{{.Command}}|{{.State}}|{{.Labels}}|{{.Ports}}",
    ]);
    let columns: Vec<&str> = row.split('|').collect();
    assert_eq!(
        columns[..5],
        [&id[..12], &busybox, "\"sleep 100000\"", "running", "k=v"],
        "{row}"
    );
    assert!(columns[5].contains("->80/tcp"), "{row}");
    let json = docker.ok(&["ps", "--filter", &filter, "--format", "{{json .}}"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("a row is JSON");
    assert_eq!(json["Names"], container.name);
}

#[test]
fn inspect_says_what_was_asked_for_and_what_is() {
    let (docker, busybox) = setup();
    let container = detached(
        docker,
        "inspect",
        &[
            "-e",
            "A=b",
            "-w",
            "/tmp",
            "-u",
            "app",
            "--hostname",
            "h",
            "-m",
            "64m",
            "--entrypoint",
            "sleep",
        ],
        &[&busybox, "100000"],
    );
    let object = docker.inspect(&container.name);
    let at = |pointer: &str| {
        object
            .pointer(pointer)
            .unwrap_or_else(|| panic!("no {pointer} in {object:#}"))
    };
    assert_eq!(*at("/Name"), format!("/{}", container.name));
    assert_eq!(*at("/Path"), "sleep");
    assert_eq!(*at("/Args"), serde_json::json!(["100000"]));
    assert_eq!(*at("/Config/Image"), busybox);
    assert_eq!(*at("/Config/User"), "app");
    assert_eq!(*at("/Config/WorkingDir"), "/tmp");
    assert_eq!(*at("/Config/Hostname"), "h");
    assert_eq!(*at("/Config/Entrypoint"), serde_json::json!(["sleep"]));
    assert_eq!(*at("/Config/Cmd"), serde_json::json!(["100000"]));
    assert!(
        at("/Config/Env")
            .as_array()
            .is_some_and(|env| env.contains(&"A=b".into())),
        "{object:#}"
    );
    assert_eq!(*at("/HostConfig/Memory"), 64 << 20);
    assert_eq!(*at("/State/Status"), "running");
    assert_eq!(*at("/State/Running"), true);
    assert_eq!(*at("/State/Paused"), false);
    assert!(at("/State/Pid").as_u64() > Some(0), "{object:#}");
    assert!(
        at("/Image")
            .as_str()
            .is_some_and(|id| id.starts_with("sha256:")),
        "{object:#}"
    );
    let address = at("/NetworkSettings/Networks/bridge/IPAddress")
        .as_str()
        .unwrap_or_default();
    assert!(address.parse::<std::net::Ipv4Addr>().is_ok(), "{address:?}");
    assert_eq!(
        docker.ok(&[
            "inspect",
            "-f",
            "{{.State.Status}} {{.NetworkSettings.IPAddress}}",
            &container.name
        ]),
        format!("running {address}")
    );
}

#[test]
fn sizes_are_what_a_container_has_written() {
    let (docker, busybox) = setup();
    let container = docker.container("size");
    let write = "dd if=/dev/urandom of=/noise bs=1M count=8 && sync";
    docker.ok(&[
        "run",
        "--name",
        &container.name,
        &busybox,
        "sh",
        "-c",
        write,
    ]);
    let sizes = docker.ok(&[
        "inspect",
        "-s",
        "-f",
        "{{.SizeRw}} {{.SizeRootFs}}",
        &container.name,
    ]);
    let (own, all) = sizes.split_once(' ').expect("two numbers");
    let number = |text: &str| -> u64 { text.parse().expect("a size is a number") };
    assert!((8 << 20..16 << 20).contains(&number(own)), "{sizes}");
    assert!(number(all) > number(own), "{sizes}");
    let filter = format!("name={}", container.name);
    let row = docker.ok(&[
        "ps",
        "-a",
        "-s",
        "--filter",
        &filter,
        "--format",
        "{{.Size}}",
    ]);
    assert!(row.contains("MB (virtual "), "{row}");
}

#[test]
fn any_unambiguous_beginning_of_an_id_will_do() {
    let (docker, busybox) = plain();
    let container = detached(docker, "prefix", &[], &[&busybox, "true"]);
    let id = container
        .field("/Id")
        .as_str()
        .expect("an id is text")
        .to_owned();
    assert_eq!(docker.ok(&["inspect", "-f", "{{.Id}}", &id[..8]]), id);
    assert_eq!(docker.ok(&["inspect", "-f", "{{.Id}}", &id]), id);
}

#[test]
fn what_is_not_there_is_named_in_the_error() {
    let (docker, _) = plain();
    docker
        .run(&["inspect", "no-such-thing"])
        .exits(1)
        .fails_saying(&["no such object", "no-such-thing"]);
    docker
        .run(&["rm", "no-such-thing"])
        .exits(1)
        .fails_saying(&["no such container", "no-such-thing"]);
    docker
        .run(&["stop", "no-such-thing"])
        .exits(1)
        .fails_saying(&["no such container"]);
    docker
        .run(&["start", "no-such-thing"])
        .exits(1)
        .fails_saying(&["no such container"]);
}

#[test]
fn finished_times_come_after_started_ones() {
    let (docker, busybox) = plain();
    let container = detached(docker, "times", &[], &[&busybox, "sleep", "1"]);
    assert_eq!(container.field("/State/FinishedAt"), "0001-01-01T00:00:00Z");
    container.wait_for_status("exited");
    let text = |pointer| {
        container
            .field(pointer)
            .as_str()
            .expect("a time is text")
            .to_owned()
    };
    let (created, started, finished) = (
        text("/Created"),
        text("/State/StartedAt"),
        text("/State/FinishedAt"),
    );
    assert!(
        created < started && started < finished,
        "{created} {started} {finished}"
    );
}
