//! Whatever commands come, in whatever order, what the state promises holds.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;

use super::Applied;
use crate::state::*;

/// Few of everything, so that commands meet.
fn id(n: u8) -> ContainerId {
    ContainerId::from_random([n; 32])
}
fn tenant() -> impl Strategy<Value = Tenant> {
    prop_oneof![Just("owner"), Just("other")].prop_map(|name| name.parse().unwrap())
}
fn ids() -> impl Strategy<Value = ContainerId> {
    (0u8..6).prop_map(id)
}
fn names() -> impl Strategy<Value = ContainerName> {
    (0u8..4).prop_map(|n| format!("name-{n}").parse().unwrap())
}
fn images() -> impl Strategy<Value = String> {
    (0u8..3).prop_map(|n| format!("sha256:{:064}", n))
}
fn tags() -> impl Strategy<Value = String> {
    (0u8..3).prop_map(|n| format!("image-{n}:latest"))
}
fn port_requests() -> impl Strategy<Value = Vec<PortRequest>> {
    let ip = prop_oneof![
        Just(None),
        Just(Some("0.0.0.0".parse::<IpAddr>().unwrap())),
        Just(Some("127.0.0.1".parse::<IpAddr>().unwrap())),
    ];
    let binding = (
        1u16..4,
        any::<bool>(),
        ip,
        prop_oneof![Just(0u16), 2375u16..2378, 32768u16..32771],
        proptest::option::of(2375u16..32771),
    )
        .prop_map(
            |(container_port, udp, host_ip, host_port, last)| PortRequest {
                container_port,
                protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                host_ip,
                host_port,
                host_port_last: last.filter(|&last| last > host_port && host_port != 0),
            },
        );
    proptest::collection::vec(binding, 0..3)
}

fn container() -> impl Strategy<Value = Container> {
    let network = prop_oneof![Just(NetworkMode::None), Just(NetworkMode::Default)];
    (
        ids(),
        tenant(),
        names(),
        images(),
        port_requests(),
        network,
        any::<bool>(),
    )
        .prop_map(
            |(id, tenant, name, image, ports, network, publish_all)| Container {
                id,
                tenant,
                name,
                node: NodeId(1),
                created_ns: 1,
                image_name: image.clone(),
                image,
                spec: ContainerSpec {
                    ports,
                    publish_all,
                    exposed_ports: ["1/tcp".into(), "9/udp".into()].into(),
                    network_mode: network,
                    ..Default::default()
                },
                status: Status::default(),
                address: None,
            },
        )
}

fn command() -> impl Strategy<Value = Command> {
    let at_ns = 0u64..1000;
    prop_oneof![
        4 => container().prop_map(|c| Command::Create(Box::new(c))),
        4 => (ids(), at_ns.clone(), any::<bool>()).prop_map(|(id, at_ns, by_policy)| Command::Start { id, at_ns, by_policy }),
        3 => (ids(), at_ns.clone(), 1u32..9).prop_map(|(id, at_ns, pid)| Command::Started { id, at_ns, pid }),
        1 => (ids(), at_ns.clone(), 125u8..128).prop_map(|(id, at_ns, code)| Command::StartFailed { id, at_ns, error: "why".into(), code }),
        2 => (ids(), at_ns.clone(), any::<u8>(), any::<bool>()).prop_map(|(id, at_ns, code, oom_killed)| Command::Exited { id, at_ns, exit: Exit { code, oom_killed } }),
        1 => (ids(), at_ns.clone(), 0u64..4).prop_map(|(id, at_ns, kills)| Command::OutOfMemory { id, at_ns, kills }),
        1 => (ids(), at_ns.clone(), 1i32..16, any::<bool>()).prop_map(|(id, at_ns, signal, stop)| Command::Signalled { id, at_ns, signal: signal.try_into().unwrap(), stop }),
        1 => (ids(), at_ns.clone()).prop_map(|(id, at_ns)| Command::Happened { id, at_ns, action: Action::ExecDie, attributes: Default::default() }),
        1 => (ids(), at_ns.clone(), names()).prop_map(|(id, at_ns, name)| Command::Rename { id, at_ns, name }),
        2 => (ids(), at_ns.clone()).prop_map(|(id, at_ns)| Command::Remove { id, at_ns }),
        4 => (tenant(), at_ns.clone(), images(), proptest::collection::vec(tags(), 0..2))
            .prop_map(|(tenant, at_ns, image, names)| Command::AddImage { tenant, at_ns, image, names, repo_digest: None, action: Action::Pull }),
        1 => (tenant(), at_ns.clone(), tags()).prop_map(|(tenant, at_ns, name)| Command::Untag { tenant, at_ns, name }),
        1 => (tenant(), at_ns, images(), any::<bool>()).prop_map(|(tenant, at_ns, image, force)| Command::RemoveImage { tenant, at_ns, image, force }),
    ]
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    proptest::collection::vec(command(), 0..60)
}

fn distinct<T: Ord>(things: impl IntoIterator<Item = T>) -> bool {
    let mut seen = BTreeSet::new();
    things.into_iter().all(|thing| seen.insert(thing))
}

fn promises_hold(state: &State) {
    state.containers.assert_indexed();
    let containers = || state.containers.iter();
    assert!(
        distinct(containers().map(|c| (&c.tenant, &c.name))),
        "a tenant has a name twice"
    );
    assert!(
        distinct(containers().filter_map(|c| c.address)),
        "two containers share an address"
    );
    assert!(
        containers().all(|c| c.address.is_none() == (c.spec.network_mode == NetworkMode::None))
    );
    assert!(
        containers()
            .filter_map(|c| c.address)
            .all(|a| a > address::GATEWAY)
    );
    let ports: Vec<_> = containers().flat_map(|c| &c.status.ports).collect();
    for (i, a) in ports.iter().enumerate() {
        assert_ne!(a.host_port, 0, "a run with a port that was never picked");
        assert!(
            a.protocol == Protocol::Udp || !(2376..=2377).contains(&a.host_port),
            "the node's own port"
        );
        for b in &ports[i + 1..] {
            let any = |ip: Option<IpAddr>| ip.is_none_or(|ip| ip.is_unspecified());
            let collide = a.protocol == b.protocol
                && a.host_port == b.host_port
                && (any(a.host_ip) || any(b.host_ip) || a.host_ip == b.host_ip);
            assert!(!collide, "{a:?} and {b:?} collide");
        }
    }
    for c in containers() {
        assert_eq!(c.id, state.containers.get(&c.id).unwrap().id);
        assert!(
            c.is_up() || c.status.ports.is_empty(),
            "ports held by a container that isn't up"
        );
        assert_eq!(c.status.pid != 0, c.status.phase == Phase::Running);
    }
    for ((tenant, _), tag) in &state.tags {
        assert!(
            state
                .images
                .contains_key(&(tenant.clone(), tag.image.clone())),
            "a tag of no image"
        );
    }
}

proptest! {
    #[test]
    fn promises_hold_after_any_commands(commands in commands()) {
        let mut state = State::default();
        for command in &commands {
            state.apply(command);
            promises_hold(&state);
        }
        prop_assert_eq!(state.revision, commands.len() as u64);
    }

    #[test]
    fn a_refusal_changes_nothing_and_tells_nobody(commands in commands()) {
        let mut state = State::default();
        for command in &commands {
            let before = state.clone();
            let Applied { result, events } = state.apply(command);
            if result.is_err() {
                prop_assert!(events.is_empty());
                prop_assert_eq!(&state, &State { revision: before.revision + 1, ..before });
            }
        }
    }

    #[test]
    fn the_same_commands_give_the_same_state_and_events(commands in commands()) {
        let (mut a, mut b) = (State::default(), State::default());
        for command in &commands {
            prop_assert_eq!(a.apply(command), b.apply(command));
        }
        prop_assert_eq!(a, b);
    }

    #[test]
    fn a_snapshot_in_the_middle_changes_nothing(before in commands(), after in commands()) {
        let mut straight = State::default();
        before.iter().for_each(|c| drop(straight.apply(c)));
        let bytes = encoding::encode(&straight).unwrap();
        let mut restored: State = encoding::decode(&bytes).unwrap();
        prop_assert_eq!(&straight, &restored);
        for command in &after {
            let command: Command = encoding::decode(&encoding::encode(command).unwrap()).unwrap();
            prop_assert_eq!(straight.apply(&command), restored.apply(&command));
        }
        prop_assert_eq!(straight, restored);
    }

    #[test]
    fn any_bytes_are_a_command_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = encoding::decode::<Command>(&bytes);
        let _ = encoding::decode::<State>(&bytes);
    }
}

#[test]
fn each_want_of_memory_is_an_event_once_and_is_known_until_the_next_run() {
    let mut state = State::default();
    let owner: Tenant = "owner".parse().unwrap();
    let image = "sha256:0".to_owned();
    let add = Command::AddImage {
        tenant: owner.clone(),
        at_ns: 0,
        image: image.clone(),
        names: vec![],
        repo_digest: None,
        action: Action::Load,
    };
    let container = Container {
        id: id(1),
        tenant: owner,
        name: "name-1".parse().unwrap(),
        node: NodeId(1),
        created_ns: 0,
        image,
        image_name: "image".into(),
        spec: ContainerSpec::default(),
        status: Status::default(),
        address: None,
    };
    let start = Command::Start {
        id: id(1),
        at_ns: 0,
        by_policy: false,
    };
    let out_of_memory = |kills| Command::OutOfMemory {
        id: id(1),
        at_ns: 0,
        kills,
    };
    let exited = Command::Exited {
        id: id(1),
        at_ns: 0,
        exit: Exit {
            code: 0,
            oom_killed: true,
        },
    };
    let mut ooms = |command: &Command| {
        let applied = state.apply(command);
        let killed = state
            .containers
            .get(&id(1))
            .is_some_and(|c| c.status.exit.oom_killed);
        let events = applied
            .events
            .iter()
            .filter(|e| e.action == Action::Oom)
            .count();
        (events, killed)
    };
    for command in [&add, &Command::Create(Box::new(container)), &start] {
        assert_eq!(ooms(command), (0, false));
    }
    assert_eq!(ooms(&out_of_memory(1)), (1, true));
    assert_eq!(ooms(&out_of_memory(1)), (0, true), "told again");
    assert_eq!(ooms(&out_of_memory(3)), (1, true));
    assert_eq!(ooms(&exited), (0, true), "it was all told before");
    assert_eq!(ooms(&start), (0, false), "the next run has enough so far");
    assert_eq!(ooms(&exited), (1, true), "nobody had told");
    assert_eq!(ooms(&out_of_memory(9)), (0, true), "it isn't up");
}

#[test]
fn addresses_run_out_with_a_refusal_and_come_back() {
    let mut state = State::default();
    let owner: Tenant = "owner".parse().unwrap();
    let image = "sha256:0".to_owned();
    state.apply(&Command::AddImage {
        tenant: owner.clone(),
        at_ns: 0,
        image: image.clone(),
        names: vec![],
        repo_digest: None,
        action: Action::Load,
    });
    let make = |n: u32| {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        let id = ContainerId::from_random(bytes);
        Container {
            name: format!("c{n}").parse().unwrap(),
            id,
            tenant: owner.clone(),
            node: NodeId(1),
            created_ns: 0,
            image: image.clone(),
            image_name: "image".into(),
            spec: ContainerSpec::default(),
            status: Status::default(),
            address: None,
        }
    };
    // Filled by hand: 65,533 `Create`s, each of which looks for a name and an address, take a minute unoptimised.
    let first = u32::from(std::net::Ipv4Addr::new(10, 88, 0, 2));
    for n in 0..65_533 {
        let container = Container {
            address: Some((first + n).into()),
            tenant: format!("tenant-{}", n % 64).parse().unwrap(),
            ..make(n)
        };
        state.containers.insert(container);
    }
    let create = Command::Create(Box::new(make(70_000)));
    assert_eq!(state.apply(&create).result, Err(Refusal::NoFreeAddress));
    let gone = make(1234).id;
    state.apply(&Command::Remove { id: gone, at_ns: 0 });
    assert_eq!(state.apply(&create).result, Ok(Outcome::Done));
    assert_eq!(
        state.containers.get(&make(70_000).id).unwrap().address,
        Some((first + 1234).into())
    );
}

#[test]
fn a_tenants_containers_are_bounded_in_number_and_bytes_and_another_tenants_are_not() {
    let mut state = State::default();
    for tenant in ["one", "other"] {
        state.apply(&Command::AddImage {
            tenant: tenant.parse().unwrap(),
            at_ns: 0,
            image: "sha256:0".into(),
            names: vec![],
            repo_digest: None,
            action: Action::Load,
        });
    }
    let mut next = 0u32;
    let mut create = |state: &mut State, tenant: &str, label_bytes: usize| {
        next += 1;
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&next.to_be_bytes());
        let id = ContainerId::from_random(bytes);
        let container = Container {
            name: format!("c{next}").parse().unwrap(),
            id: id.clone(),
            tenant: tenant.parse().unwrap(),
            node: NodeId(1),
            created_ns: 0,
            image: "sha256:0".into(),
            image_name: "image".into(),
            spec: ContainerSpec {
                network_mode: NetworkMode::None,
                labels: [("label".to_owned(), "x".repeat(label_bytes))].into(),
                ..ContainerSpec::default()
            },
            status: Status::default(),
            address: None,
        };
        let applied = state.apply(&Command::Create(Box::new(container)));
        (applied.result, id)
    };
    for label_bytes in [0, 4 << 20] {
        let mut made = Vec::new();
        let refused = loop {
            match create(&mut state, "one", label_bytes) {
                (Ok(_), id) => made.push(id),
                (Err(refused), _) => break refused,
            }
        };
        assert!(matches!(refused, Refusal::TooMany { .. }), "{refused}");
        // 64 MiB, the other fields of the specs included.
        let expected = if label_bytes == 0 { 4096 } else { 15 };
        assert_eq!(made.len(), expected);
        assert_eq!(
            create(&mut state, "other", label_bytes).0,
            Ok(Outcome::Done)
        );
        state.apply(&Command::Remove {
            id: made.pop().unwrap(),
            at_ns: 0,
        });
        let (again, id) = create(&mut state, "one", label_bytes);
        assert_eq!(again, Ok(Outcome::Done));
        for id in made.into_iter().chain([id]) {
            state.apply(&Command::Remove { id, at_ns: 0 });
        }
        state.containers.assert_indexed();
    }
}

#[test]
fn a_record_with_fields_of_a_later_version_is_still_read() {
    #[derive(serde::Serialize)]
    struct Later {
        image: String,
        digest_of_the_future: Vec<u32>,
    }
    let bytes = encoding::encode(&Later {
        image: "sha256:0".into(),
        digest_of_the_future: vec![1],
    })
    .unwrap();
    assert_eq!(
        encoding::decode::<TagRecord>(&bytes).unwrap(),
        TagRecord {
            image: "sha256:0".into()
        }
    );
}

fn add(
    tenant: &str,
    image: &str,
    names: &[String],
    digest: Option<String>,
    action: Action,
) -> Command {
    Command::AddImage {
        tenant: tenant.parse().unwrap(),
        at_ns: 1,
        image: image.to_owned(),
        names: names.to_vec(),
        repo_digest: digest,
        action,
    }
}

#[test]
fn a_tenants_images_names_and_digests_are_bounded_and_another_tenants_are_not() {
    let mut state = State::default();
    let names: Vec<String> = (0..10_000).map(|n| format!("a:{n}")).collect();
    let mut taken = |command| state.apply(&command).result.is_ok();
    assert!(taken(add("one", "sha256:a", &names, None, Action::Load)));
    assert!(!taken(add(
        "one",
        "sha256:a",
        &["b:1".into()],
        None,
        Action::Tag
    )));
    assert!(
        taken(add("one", "sha256:a", &["a:1".into()], None, Action::Tag)),
        "it moves"
    );
    assert!(taken(add(
        "other",
        "sha256:a",
        &["b:1".into()],
        None,
        Action::Load
    )));
    for n in 0..100 {
        assert!(taken(add(
            "one",
            "sha256:a",
            &[],
            Some(format!("{n}@x")),
            Action::Pull
        )));
    }
    assert!(!taken(add(
        "one",
        "sha256:a",
        &[],
        Some("more@x".into()),
        Action::Pull
    )));
    assert!(taken(add(
        "one",
        "sha256:a",
        &[],
        Some("1@x".into()),
        Action::Pull
    )));
    let record = state.images.values().next().unwrap().clone();
    for n in 1..10_000 {
        let key = ("one".parse().unwrap(), format!("sha256:{n}"));
        state.images.insert_mut(key, record.clone());
    }
    let mut taken = |command| state.apply(&command).result.is_ok();
    assert!(!taken(add("one", "sha256:more", &[], None, Action::Load)));
    assert!(taken(add("other", "sha256:more", &[], None, Action::Load)));
}

#[test]
fn an_image_that_is_gone_gets_no_name_and_a_digest_goes_alone() {
    let mut state = State::default();
    let mut apply = |command| state.apply(&command).result;
    let tag = || add("one", "sha256:a", &["a:2".into()], None, Action::Tag);
    assert!(matches!(apply(tag()), Err(Refusal::NoSuchImage(_))));
    let pull = add(
        "one",
        "sha256:a",
        &["a:1".into()],
        Some("a@x".into()),
        Action::Pull,
    );
    apply(pull).unwrap();
    apply(tag()).unwrap();
    let untag = |tenant: &str| Command::Untag {
        tenant: tenant.parse().unwrap(),
        at_ns: 1,
        name: "a@x".into(),
    };
    assert!(matches!(
        apply(untag("other")),
        Err(Refusal::NoSuchImage(_))
    ));
    apply(untag("one")).unwrap();
    assert!(matches!(apply(untag("one")), Err(Refusal::NoSuchImage(_))));
    assert_eq!(state.tags.size(), 2);
    assert!(
        state
            .images
            .values()
            .all(|record| record.repo_digests.is_empty())
    );
}
