//! What there is only so much of.

use super::world::IMAGE;
use crate::state::*;

fn numbered(n: u32) -> ContainerId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    ContainerId::from_random(bytes)
}

fn create(n: u32, tenant: &str, spec: ContainerSpec) -> Command {
    Command::Create {
        container: Box::new(NewContainer {
            id: numbered(n),
            tenant: tenant.parse().unwrap(),
            name: format!("c{n}").parse().unwrap(),
            image: IMAGE.to_owned(),
            image_name: "image".to_owned(),
            spec,
        }),
        at_ns: 0,
        node: Some(NodeId(1)),
        pending: String::new(),
    }
}

fn with_image_of(tenants: &[&str]) -> State {
    let mut state = State::default();
    for tenant in tenants {
        state.apply(&Command::AddImage {
            tenant: tenant.parse().unwrap(),
            at_ns: 0,
            image: IMAGE.to_owned(),
            names: vec![],
            repo_digest: None,
            telling: Telling::Load,
            stored: Stored::default(),
        });
    }
    state
}

fn remove(id: ContainerId) -> Command {
    Command::Remove {
        id,
        at_ns: 0,
        force: false,
    }
}

#[test]
fn addresses_run_out_with_a_refusal_and_come_back() {
    let mut state = with_image_of(&["owner"]);
    // More than there are of a /16.
    assert!(state.pods.leave_addresses(2) > 1 << 16);
    let new = |n| create(n, "owner", ContainerSpec::default());
    let mut given = Vec::new();
    for n in [1, 2] {
        assert_eq!(state.apply(&new(n)).result, Ok(Outcome::Done));
        given.push(state.placed(&numbered(n)).unwrap().pod.address);
    }
    assert_eq!(state.apply(&new(3)).result, Err(Refusal::NoFreeAddress));
    state.apply(&remove(numbered(1))).result.unwrap();
    assert_eq!(state.apply(&new(3)).result, Ok(Outcome::Done));
    assert_eq!(state.placed(&numbered(3)).unwrap().pod.address, given[0]);
}

#[test]
fn a_tenants_containers_are_bounded_in_number_and_bytes_and_another_tenants_are_not() {
    let mut state = with_image_of(&["one", "other"]);
    let mut next = 0u32;
    let mut make = |state: &mut State, tenant: &str, label_bytes: usize| {
        next += 1;
        let spec = ContainerSpec {
            network_mode: NetworkMode::None,
            labels: [("label".to_owned(), "x".repeat(label_bytes))].into(),
            ..ContainerSpec::default()
        };
        let applied = state.apply(&create(next, tenant, spec));
        (applied.result, numbered(next))
    };
    for label_bytes in [0, 4 << 20] {
        let mut made = Vec::new();
        let refused = loop {
            match make(&mut state, "one", label_bytes) {
                (Ok(_), id) => made.push(id),
                (Err(refused), _) => break refused,
            }
        };
        assert!(matches!(refused, Refusal::TooMany { .. }), "{refused}");
        // 64 MiB, the other fields of the specs included.
        let expected = if label_bytes == 0 { 4096 } else { 15 };
        assert_eq!(made.len(), expected);
        assert_eq!(make(&mut state, "other", label_bytes).0, Ok(Outcome::Done));
        state.apply(&remove(made.pop().unwrap()));
        let (again, id) = make(&mut state, "one", label_bytes);
        assert_eq!(again, Ok(Outcome::Done));
        for id in made.into_iter().chain([id]) {
            state.apply(&remove(id));
        }
        state.containers.assert_indexed();
    }
}
