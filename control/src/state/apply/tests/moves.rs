//! Pods that go from one node to another, and nodes that go.

use super::world::{ONE, OTHER, World, id, owner};
use crate::state::*;

fn always() -> World {
    let mut world = World::with(ContainerSpec {
        restart: RestartPolicy::Always,
        ..Default::default()
    });
    world.start();
    world.begins();
    world
}

#[test]
fn a_pod_runs_elsewhere_once_the_node_that_had_it_has_let_go() {
    let mut world = always();
    assert_eq!(world.assign(Some(OTHER), vec![id(9)]), "created, (moved)");
    let pod = world.it().pod;
    assert_eq!(
        (pod.node, pod.previous, pod.epoch),
        (Some(OTHER), Some(ONE), 2)
    );
    assert_eq!(pod.held(), None);
    let early = Report::Started {
        id: id(1),
        run: world.next(),
        pid: 5,
    };
    assert_eq!(world.told(OTHER, early), "", "it isn't its turn yet");
    // What runs there is the former node's to tell of, and nothing else.
    assert_eq!(world.ends(143), "died 143");
    assert!(world.it().awaits_restart());
    assert_eq!(world.released(OTHER), "");
    assert_eq!(world.released(ONE), "(wanted)");
    assert_eq!(world.begins(), "started");
    assert_eq!(world.it().status.run.epoch, 2);
    assert_eq!(world.it().status.restarts, 1);
    let old = Report::Exited {
        id: id(1),
        run: Run {
            epoch: 1,
            number: 1,
            start: 1,
        },
        exit: Exit::default(),
    };
    assert_eq!(world.told(ONE, old), "");
    let kept = world.state.placed(&id(9)).unwrap();
    assert_eq!(kept.name.to_string(), "name-1.one");
    assert_eq!(kept.pod.node, Some(ONE));
    assert_eq!((kept.phase(), kept.wanted.up), (Phase::Exited, false));
    assert_eq!(kept.spec.restart, RestartPolicy::No);
}

#[test]
fn what_a_node_has_not_told_when_it_lets_go_has_ended() {
    let mut world = always();
    world.assign(Some(OTHER), vec![]);
    assert_eq!(world.released(ONE), "died 137, (wanted)");
    // Nor does a stop meanwhile wait for what is over.
    let mut world = always();
    world.assign(Some(OTHER), vec![]);
    assert_eq!(world.stop(), "signalled 15");
    assert!(world.it().is_up());
    assert_eq!(world.released(ONE), "died 137, stopped, (wanted)");
    assert!(!world.it().is_up() && !world.it().wanted.up);
}

#[test]
fn a_node_that_is_down_is_not_waited_for() {
    // It goes down before, or while its pod is on the way.
    let mut before = always();
    before.down(ONE);
    assert!(before.it().is_up(), "what runs there may still run");
    assert_eq!(before.assign(Some(OTHER), vec![]), "died 137, (moved)");
    let mut meanwhile = always();
    meanwhile.assign(Some(OTHER), vec![]);
    assert!(meanwhile.down(ONE).starts_with("died 137, (wanted)"));
    for mut world in [before, meanwhile] {
        assert_eq!(world.it().pod.held(), Some(OTHER));
        assert_eq!(world.begins(), "started");
    }
}

#[test]
fn a_pod_that_comes_back_before_it_was_let_go_of_is_let_go_of_all_the_same() {
    let mut world = always();
    world.assign(Some(OTHER), vec![]);
    world.assign(Some(ONE), vec![]);
    let pod = world.it().pod;
    assert_eq!(
        (pod.node, pod.previous, pod.epoch),
        (Some(ONE), Some(ONE), 3)
    );
    world.ends(143);
    world.released(ONE);
    assert_eq!(world.begins(), "started");
}

#[test]
fn what_goes_with_its_end_goes_with_its_node_and_the_move_is_no_refusal() {
    let mut world = World::with(ContainerSpec {
        auto_remove: true,
        ..Default::default()
    });
    world.start();
    world.begins();
    world.down(ONE);
    assert_eq!(world.assign(Some(OTHER), vec![]), "died 137, removed");
    assert!(world.state.pods.iter().next().is_none());
}

#[test]
fn a_start_that_is_to_be_stopped_is_called_off_with_its_node() {
    for leaves in [false, true] {
        let mut world = World::with(ContainerSpec::default());
        world.start();
        world.stop();
        let told = match leaves {
            true => {
                world.assign(Some(OTHER), vec![]);
                world.released(ONE)
            }
            false => {
                world.down(ONE);
                world.assign(Some(OTHER), vec![])
            }
        };
        assert!(told.starts_with("stopped, "), "{told}");
        assert_eq!(world.it().phase(), Phase::Created);
    }
}

#[test]
fn what_is_kept_is_kept_again_where_it_moves_and_names_tell_from_where() {
    let mut world = always();
    world.down(ONE);
    world.assign(Some(OTHER), vec![id(9)]);
    let kept = world.state.placed(&id(9)).unwrap();
    let layer = Layer {
        container: id(1),
        epoch: 1,
    };
    assert_eq!(kept.layer, Some(layer));
    // Back and away again: another layer, another name.
    world.up(ONE);
    world.assign(Some(ONE), vec![]);
    world.released(OTHER);
    world.begins();
    world.assign(Some(OTHER), vec![id(10)]);
    let second = world.state.placed(&id(10)).unwrap();
    assert_eq!(second.name.to_string(), "name-1.one.2");
    assert_eq!(
        second.layer,
        Some(Layer {
            container: id(1),
            epoch: 3
        })
    );
    // The first is given to another node itself.
    world.ok(Command::Assign {
        pod: id(9).into(),
        at_ns: 0,
        epoch: 1,
        node: Some(OTHER),
        pending: String::new(),
        kept: vec![id(11)],
    });
    let moved = world.state.placed(&id(9)).unwrap();
    let left = world.state.placed(&id(11)).unwrap();
    assert_eq!(
        (moved.layer, left.layer, left.pod.node),
        (None, Some(layer), Some(ONE))
    );
}

#[test]
fn a_name_that_has_no_room_for_more_is_another_where_it_is_kept() {
    let mut world = always();
    world.ok(Command::Rename {
        id: id(1),
        at_ns: 0,
        name: "x".repeat(255).parse().unwrap(),
    });
    // Somebody has even the name that comes next.
    let taken = format!("{}.{}", id(1), world.state.revision + 2);
    world.ok(Command::Create {
        container: Box::new(NewContainer {
            name: taken.parse().unwrap(),
            ..super::world::new(2, ContainerSpec::default())
        }),
        at_ns: 0,
        node: Some(ONE),
        pending: String::new(),
    });
    world.assign(Some(OTHER), vec![id(9)]);
    let kept = world.state.placed(&id(9)).unwrap();
    assert!(kept.name.to_string().starts_with(&id(1).to_string()));
    assert!(world.state.named(&owner(), &kept.name).is_some());
}

#[test]
fn a_node_that_is_removed_leaves_nothing_and_is_there_no_more() {
    let mut world = always();
    let remove = |force| Command::RemoveNode {
        empty: false,
        node: ONE,
        at_ns: 0,
        force,
    };
    let refused = world.apply(remove(false)).result;
    assert!(matches!(refused, Err(Refusal::NodeIsUp(_))));
    world.down(ONE);
    let told = world.ok(remove(false));
    assert_eq!(told, "died 137, (moved), removed");
    let pod = world.it().pod;
    assert_eq!((pod.node, pod.previous), (None, None));
    assert!(!pod.pending.is_empty());
    assert!(world.it().awaits_restart(), "it goes on elsewhere");
    world.assign(Some(OTHER), vec![]);
    world.begins();
}

#[test]
fn a_move_by_somebody_who_looked_too_early_is_refused() {
    let mut world = always();
    let assign = |epoch, node| Command::Assign {
        pod: id(1).into(),
        at_ns: 0,
        epoch,
        node,
        pending: String::new(),
        kept: vec![],
    };
    for (epoch, node) in [
        (0, Some(OTHER)),
        (2, Some(OTHER)),
        (2, None),
        (1, Some(NodeId(77))),
    ] {
        let refused = world.apply(assign(epoch, node)).result;
        assert_eq!(refused, Err(Refusal::OutOfSequence));
    }
    assert_eq!(
        world.apply(assign(1, Some(ONE))).result,
        Ok(Outcome::Unchanged)
    );
}
