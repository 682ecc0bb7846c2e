//! What a tenant's images are called, and how many there may be.

use super::world::{ONE, OTHER, World};
use crate::state::*;

fn add(
    tenant: &str,
    image: &str,
    names: &[String],
    digest: Option<String>,
    telling: Telling,
) -> Command {
    Command::AddImage {
        tenant: tenant.parse().unwrap(),
        at_ns: 1,
        image: image.to_owned(),
        names: names.to_vec(),
        repo_digest: digest,
        telling,
        stored: Stored::default(),
    }
}

#[test]
fn a_tenants_images_names_and_digests_are_bounded_and_another_tenants_are_not() {
    let mut state = State::default();
    let names: Vec<String> = (0..10_000).map(|n| format!("a:{n}")).collect();
    let mut taken = |command| state.apply(&command).result.is_ok();
    assert!(taken(add("one", "sha256:a", &names, None, Telling::Load)));
    assert!(!taken(add(
        "one",
        "sha256:a",
        &["b:1".into()],
        None,
        Telling::Tag
    )));
    assert!(
        taken(add("one", "sha256:a", &["a:1".into()], None, Telling::Tag)),
        "it moves"
    );
    assert!(taken(add(
        "other",
        "sha256:a",
        &["b:1".into()],
        None,
        Telling::Load
    )));
    for n in 0..100 {
        assert!(taken(add(
            "one",
            "sha256:a",
            &[],
            Some(format!("{n}@x")),
            Telling::Pull
        )));
    }
    assert!(!taken(add(
        "one",
        "sha256:a",
        &[],
        Some("more@x".into()),
        Telling::Pull
    )));
    assert!(taken(add(
        "one",
        "sha256:a",
        &[],
        Some("1@x".into()),
        Telling::Pull
    )));
    let record = state.images.values().next().unwrap().clone();
    for n in 1..10_000 {
        let key = ("one".parse().unwrap(), format!("sha256:{n}"));
        state.images.insert_mut(key, record.clone());
    }
    let mut taken = |command| state.apply(&command).result.is_ok();
    assert!(!taken(add("one", "sha256:more", &[], None, Telling::Load)));
    assert!(taken(add("other", "sha256:more", &[], None, Telling::Load)));
}

#[test]
fn an_image_that_is_gone_gets_no_name_and_a_digest_goes_alone() {
    let mut state = State::default();
    let mut apply = |command| state.apply(&command).result;
    let tag = || add("one", "sha256:a", &["a:2".into()], None, Telling::Tag);
    assert!(matches!(apply(tag()), Err(Refusal::NoSuchImage(_))));
    let pull = add(
        "one",
        "sha256:a",
        &["a:1".into()],
        Some("a@x".into()),
        Telling::Pull,
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

fn told(node: NodeId, contents: u8, present: bool) -> Command {
    Command::Report {
        node,
        at_ns: 1,
        report: Report::Image {
            image: super::world::IMAGE.to_owned(),
            contents: vec![contents],
            bytes: 9,
            present,
        },
    }
}

fn holders(world: &World) -> Vec<NodeId> {
    let stored = world.state.stored.get(super::world::IMAGE);
    stored.map_or_else(Vec::new, |it| it.nodes.iter().copied().collect())
}

#[test]
fn who_has_an_image_is_known_with_its_name_and_until_it_says_otherwise_or_is_no_member_any_more() {
    let mut world = World::new();
    let mut added = add(
        "owner",
        super::world::IMAGE,
        &["a:1".into()],
        None,
        Telling::Pull,
    );
    if let Command::AddImage { stored, .. } = &mut added {
        *stored = Stored {
            contents: vec![1],
            bytes: 9,
            nodes: [ONE].into(),
        };
    }
    world.ok(added);
    assert_eq!(holders(&world), [ONE]);
    world.ok(told(OTHER, 1, true));
    assert_eq!(holders(&world), [ONE, OTHER]);
    // A stranger's word counts nothing.
    world.ok(told(NodeId(77), 1, true));
    world.ok(told(OTHER, 1, false));
    assert_eq!(holders(&world), [ONE]);
    world.ok(told(OTHER, 1, true));
    world.ok(Command::RemoveNode {
        empty: false,
        node: ONE,
        at_ns: 1,
        force: true,
    });
    assert_eq!(holders(&world), [OTHER]);
}

#[test]
fn other_bytes_of_an_image_count_when_nobody_has_the_first_ones_any_more() {
    let mut world = World::new();
    world.ok(told(ONE, 1, true));
    world.ok(told(OTHER, 2, true));
    assert_eq!(holders(&world), [ONE]);
    world.ok(told(ONE, 1, false));
    world.ok(told(OTHER, 2, true));
    assert_eq!(holders(&world), [OTHER]);
    assert_eq!(world.state.stored.values().next().unwrap().contents, [2]);
}

#[test]
fn what_is_known_of_an_images_bytes_goes_with_the_last_who_has_or_needs_them() {
    let mut world = World::with(ContainerSpec::default());
    world.ok(told(ONE, 1, true));
    world.ok(Command::RemoveImage {
        tenant: super::world::owner(),
        at_ns: 1,
        image: super::world::IMAGE.to_owned(),
        force: true,
    });
    world.ok(told(ONE, 1, false));
    assert_eq!(world.state.stored.size(), 1, "a container was made of it");
    world.remove(false);
    assert_eq!(world.state.stored.size(), 0);
    let again = told(ONE, 1, true);
    world.ok(again);
    world.ok(told(ONE, 1, false));
    assert_eq!(world.state.stored.size(), 0);
}
