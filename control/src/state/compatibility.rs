//! What was written once is read by every later version: bytes that were kept, and what they say.
//!
//! `HEARTH_WRITE_KEPT_BYTES=1 cargo test -p hearth-control --lib state::compatibility` writes the files anew. That is for a variant or a
//! field that is new, and after the test has passed with the old ones: what is in them is on somebody's disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::*;

/// Bytes of a container for which little was asked, and of its pod: as many go to every node, and into each snapshot, as there are
/// containers. Measured: 241 and 132, of which 199 are ids and
/// the image's digest.
const PLAIN_BYTES_MAX: (usize, usize) = (280, 160);

fn kept(name: &str) -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.join("src/state/testdata").join(name)
}

/// Each of these values by its name, as its bytes say.
fn assert_kept<T>(file: &str, expected: &[(&str, T)])
where
    T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let path = kept(file);
    if std::env::var_os("HEARTH_WRITE_KEPT_BYTES").is_some() {
        let line = |(name, value): &(&str, T)| {
            format!("{name} {}\n", hex::encode(encoding::encode(value).unwrap()))
        };
        let lines: String = expected.iter().map(line).collect();
        std::fs::write(&path, lines).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let (name, bytes) = line.split_once(' ').unwrap();
        found.insert(name, hex::decode(bytes).unwrap());
    }
    for (name, value) in expected {
        let bytes = found
            .remove(name)
            .unwrap_or_else(|| panic!("{}: nothing is kept of {name}", path.display()));
        let read: T = encoding::decode(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(read, *value, "{name}");
    }
    assert!(found.is_empty(), "{:?} are not looked at", found.keys());
}

fn id(n: u8) -> ContainerId {
    ContainerId::from_random([n; 32])
}

fn owner() -> Tenant {
    "owner".parse().unwrap()
}

const IMAGE: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000aa";

/// With something in every field.
fn whole_spec() -> ContainerSpec {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let pair = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
    ContainerSpec {
        entrypoint: words(&["sh"]),
        command: words(&["-c", "true"]),
        env: words(&["A=b"]),
        working_dir: "/srv".into(),
        user: "1:2".into(),
        groups: words(&["3"]),
        labels: pair("label", "value"),
        hostname: "host".into(),
        domainname: "example".into(),
        tty: true,
        open_stdin: true,
        stdin_once: true,
        attach: [true, false, true],
        exposed_ports: ["80/tcp".to_owned()].into(),
        ports: vec![PortRequest {
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: Some("127.0.0.1".parse().unwrap()),
            host_port: 8080,
            host_port_last: Some(8090),
        }],
        publish_all: true,
        stop_signal: "SIGQUIT".into(),
        stop_timeout_s: Some(-1),
        memory_bytes: 1 << 30,
        nano_cpus: 500_000_000,
        pids_limit: 64,
        storage_bytes: Some(1 << 31),
        auto_remove: true,
        restart: RestartPolicy::OnFailure { maximum_retries: 3 },
        read_only: true,
        privileged: true,
        cap_add: words(&["NET_ADMIN"]),
        cap_drop: words(&["ALL"]),
        tmpfs: pair("/tmp", "size=1m"),
        extra_hosts: words(&["peer:10.0.0.1"]),
        dns: words(&["10.0.0.2"]),
        dns_search: words(&["example"]),
        dns_options: words(&["ndots:1"]),
        network_mode: NetworkMode::None,
        ulimits: vec![Ulimit {
            name: "nofile".into(),
            soft: 1024,
            hard: -1,
        }],
        masked_paths: Some(words(&["/proc/kcore"])),
        readonly_paths: Some(Vec::new()),
        console_size: Some((24, 80)),
        shm_bytes: 1 << 20,
        init: true,
        sysctls: pair("net.core.somaxconn", "1024"),
        oom_score_adj: -500,
        log_driver: LogDriver::None,
        as_asked: AsAsked {
            host_config: "{}".into(),
            config: "{\"a\":1}".into(),
        },
    }
}

fn new(n: u8, spec: ContainerSpec) -> NewContainer {
    NewContainer {
        id: id(n),
        tenant: owner(),
        name: format!("name-{n}").parse().unwrap(),
        image: IMAGE.into(),
        image_name: "busybox:latest".into(),
        spec,
    }
}

fn node_is() -> NodeIs {
    NodeIs {
        hostname: "one".into(),
        version: "0.1.0".into(),
        features: 1,
        address: Some("192.0.2.1:2377".parse().unwrap()),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        cpus: 8,
        memory_bytes: 1 << 34,
        disk_bytes: 1 << 40,
        wireguard: Some([7; 32]),
    }
}

fn node_wanted() -> NodeWanted {
    NodeWanted {
        name: "first".into(),
        labels: [("disk".to_owned(), "ssd".to_owned())].into(),
        availability: Availability::Drain,
        role: Role::Worker,
    }
}

fn cluster() -> Cluster {
    Cluster {
        id: [3; 16],
        created_ns: 5,
        issuer: vec![1, 2, 3],
        tokens: [vec![4, 5], vec![6]],
        features: 1,
        revoked: [[9; 32]].into(),
        removed: [NodeId(8)].into(),
        leaving: BTreeSet::new(),
        crls: Vec::new(),
        lock: None,
    }
}

/// The name under which a command is kept. Whoever adds a command keeps its bytes as well.
fn name(command: &Command) -> &'static str {
    match command {
        Command::Create { .. } => "Create",
        Command::Start { .. } => "Start",
        Command::Stop { .. } => "Stop",
        Command::Restart { .. } => "Restart",
        Command::Signalled { .. } => "Signalled",
        Command::Pause { .. } => "Pause",
        Command::Rename { .. } => "Rename",
        Command::Remove { .. } => "Remove",
        Command::Assign { .. } => "Assign",
        Command::Report { report, .. } => match report {
            Report::Started { .. } => "Report/Started",
            Report::StartFailed { .. } => "Report/StartFailed",
            Report::NotStarted { .. } => "Report/NotStarted",
            Report::Exited { .. } => "Report/Exited",
            Report::OutOfMemory { .. } => "Report/OutOfMemory",
            Report::Paused { .. } => "Report/Paused",
            Report::Released { .. } => "Report/Released",
            Report::Image { .. } => "Report/Image",
        },
        Command::AddImage { .. } => "AddImage",
        Command::Untag { .. } => "Untag",
        Command::RemoveImage { .. } => "RemoveImage",
        Command::Join { .. } => "Join",
        Command::UpdateNode { .. } => "UpdateNode",
        Command::NodeHealth { .. } => "NodeHealth",
        Command::Lead { .. } => "Lead",
        Command::RemoveNode { .. } => "RemoveNode",
        Command::SetCluster { .. } => "SetCluster",
    }
}

fn commands() -> Vec<Command> {
    let (id, tenant, node) = (id(1), owner(), NodeId(0xfeed_0000_0000_0001));
    let run = Run {
        epoch: 3,
        number: 2,
        start: 1,
    };
    let report = |report| Command::Report {
        node,
        at_ns: 9,
        report,
    };
    vec![
        Command::Create {
            container: Box::new(new(1, whole_spec())),
            at_ns: 1,
            node: Some(node),
            pending: "no room".into(),
        },
        Command::Start { id, at_ns: 2 },
        Command::Stop {
            id,
            at_ns: 3,
            signal: Signal::TERM,
            timeout_s: Some(10),
            tell: true,
        },
        Command::Restart {
            id,
            at_ns: 4,
            signal: Signal::KILL,
            timeout_s: None,
        },
        Command::Signalled {
            id,
            at_ns: 5,
            signal: Signal::TERM,
            end: true,
        },
        Command::Pause {
            id,
            at_ns: 5,
            paused: true,
        },
        Command::Rename {
            id,
            at_ns: 6,
            name: "other".parse().unwrap(),
        },
        Command::Remove {
            id,
            at_ns: 7,
            force: true,
        },
        Command::Assign {
            pod: id.into(),
            at_ns: 8,
            epoch: 2,
            node: Some(node),
            pending: "why".into(),
            kept: vec![self::id(2)],
        },
        report(Report::Started { id, run, pid: 77 }),
        report(Report::StartFailed {
            id,
            run,
            failure: Failure {
                kind: FailureKind::DiskFull,
                message: "full".into(),
            },
            code: 128,
        }),
        report(Report::NotStarted { id, start: 4 }),
        report(Report::Exited {
            id,
            run,
            exit: Exit {
                code: 137,
                oom_killed: true,
            },
        }),
        report(Report::OutOfMemory { id, run, kills: 2 }),
        report(Report::Paused {
            id,
            run,
            paused: true,
        }),
        report(Report::Released {
            pod: id.into(),
            epoch: 4,
        }),
        report(Report::Image {
            image: IMAGE.into(),
            contents: vec![1, 2],
            bytes: 4096,
            present: true,
        }),
        Command::AddImage {
            tenant: tenant.clone(),
            at_ns: 10,
            image: IMAGE.into(),
            names: vec!["busybox:latest".into()],
            repo_digest: Some(format!("busybox@{IMAGE}")),
            telling: Telling::Pull,
            stored: Stored {
                contents: vec![1, 2],
                bytes: 4096,
                nodes: [node].into(),
            },
        },
        Command::Untag {
            tenant: tenant.clone(),
            at_ns: 11,
            name: "busybox:latest".into(),
        },
        Command::RemoveImage {
            tenant,
            at_ns: 12,
            image: IMAGE.into(),
            force: true,
        },
        Command::Join {
            node,
            at_ns: 13,
            is: Box::new(node_is()),
            wanted: node_wanted(),
        },
        Command::UpdateNode {
            at_ns: 0,
            node,
            version: 14,
            wanted: node_wanted(),
        },
        Command::NodeHealth {
            at_ns: 0,
            node,
            health: Health::Down {
                reason: "silent".into(),
            },
            tenure: 16,
            term: Some(17),
        },
        Command::Lead { term: 18 },
        Command::RemoveNode {
            node,
            at_ns: 15,
            force: false,
            empty: false,
        },
        Command::SetCluster {
            from: Box::default(),
            to: Box::new(cluster()),
        },
    ]
}

/// Something of everything.
fn state() -> State {
    let mut state = State {
        cluster: cluster(),
        term: 92,
        revision: 99,
        ..State::default()
    };
    let container = Container {
        wanted: Wanted {
            up: true,
            start: 2,
            restart: true,
            stop: Some(Stop {
                signal: Signal::TERM,
                timeout_s: Some(10),
                revision: 98,
                tell: true,
            }),
            removed: true,
            paused: true,
        },
        status: Status {
            run: Run {
                epoch: 2,
                number: 3,
                start: 1,
            },
            phase: Phase::Running,
            pid: 77,
            started_ns: 8,
            finished_ns: 7,
            exit: Exit {
                code: 1,
                oom_killed: true,
            },
            failure: Some(Failure {
                kind: FailureKind::Program,
                message: "why".into(),
            }),
            restarts: 4,
            short_runs: 5,
            oom_kills: 6,
            paused: true,
        },
        layer: Some(Layer {
            container: id(7),
            epoch: 1,
        }),
        ..new(1, whole_spec()).made(5, 97)
    };
    state.pods.insert(Pod {
        ports: vec![container.spec.ports[0].at(8081)],
        epoch: 2,
        previous: Some(NodeId(2)),
        pending: "why".into(),
        version: 96,
        tenant: owner(),
        ..Pod::sample(1)
    });
    state.containers.insert(container);
    state
        .containers
        .insert(new(2, ContainerSpec::default()).made(6, 95));
    state.pods.insert(Pod {
        address: None,
        node: None,
        tenant: owner(),
        ..Pod::sample(2)
    });
    let tag = TagRecord {
        image: IMAGE.into(),
    };
    state
        .tags
        .insert_mut((owner(), "busybox:latest".into()), tag);
    let record = ImageRecord {
        repo_digests: vec![format!("busybox@{IMAGE}")],
        arrived_ns: 3,
    };
    state.images.insert_mut((owner(), IMAGE.into()), record);
    let stored = Stored {
        contents: vec![1, 2],
        bytes: 4096,
        nodes: [NodeId(1), NodeId(2)].into(),
    };
    state.stored.insert_mut(IMAGE.into(), stored);
    for (node, health) in [
        (1, Health::Ready),
        (
            2,
            Health::Down {
                reason: "silent".into(),
            },
        ),
    ] {
        let node = Node {
            id: NodeId(node),
            joined_ns: 2,
            wanted: node_wanted(),
            is: node_is(),
            health,
            tenure: 93,
            version: 94,
        };
        state.nodes.insert_mut(node.id, node);
    }
    state
}

#[test]
fn commands_that_were_written_once_are_still_read() {
    let commands = commands();
    let named: Vec<_> = commands.into_iter().map(|it| (name(&it), it)).collect();
    assert_kept("commands", &named);
}

#[test]
fn a_state_that_was_written_once_is_still_read() {
    assert_kept("state", &[("State", state())]);
}

#[test]
fn a_record_with_fields_of_a_later_version_is_still_read() {
    #[derive(Serialize)]
    struct Later {
        image: String,
        digest_of_the_future: Vec<u32>,
    }
    let bytes = encoding::encode(&Later {
        image: "sha256:0".into(),
        digest_of_the_future: vec![1],
    });
    assert_eq!(
        encoding::decode::<TagRecord>(&bytes.unwrap()).unwrap(),
        TagRecord {
            image: "sha256:0".into()
        }
    );
}

#[test]
fn what_was_not_asked_for_takes_no_room() {
    let placed = Placed::sample(1);
    let container = encoding::size(&*placed.container).unwrap();
    let pod = encoding::size(&*placed.pod).unwrap();
    let (container_max, pod_max) = PLAIN_BYTES_MAX;
    assert!(
        container <= container_max && pod <= pod_max,
        "{container} and {pod}"
    );
}
