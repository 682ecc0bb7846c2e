//! What is told beside containers.

use super::world::{ONE, World};
use crate::state::*;

#[test]
fn who_has_looked_at_a_node_before_it_changed_is_refused() {
    let mut world = World::new();
    let version = world.state.nodes.get(&ONE).unwrap().version;
    let update = |version| Command::UpdateNode {
        at_ns: 0,
        node: ONE,
        version,
        wanted: NodeWanted {
            availability: Availability::Drain,
            ..Default::default()
        },
    };
    assert_eq!(world.ok(update(version)), "updated");
    assert!(!world.state.nodes.get(&ONE).unwrap().takes_pods());
    let again = world.apply(update(version)).result;
    assert_eq!(again, Err(Refusal::OutOfSequence));
    let none = world.apply(Command::NodeHealth {
        at_ns: 0,
        node: NodeId(77),
        health: Health::Ready,
        tenure: 0,
        term: None,
    });
    assert!(matches!(none.result, Err(Refusal::NoSuchNode(_))));
}

#[test]
fn a_node_that_is_to_be_empty_stays_while_something_may_run_there() {
    let mut world = World::with(ContainerSpec::default());
    let remove = |empty| Command::RemoveNode {
        node: ONE,
        at_ns: 1,
        force: true,
        empty,
    };
    world.start();
    let refused = world.apply(remove(true)).result;
    assert_eq!(refused, Err(Refusal::NodeIsUp(ONE.to_string())));
    world.begins();
    assert!(world.apply(remove(true)).result.is_err());
    world.stop();
    assert!(world.apply(remove(true)).result.is_err());
    world.ends(143);
    assert!(world.apply(remove(true)).result.is_ok());
    assert!(world.state.cluster.removed.contains(&ONE));
}

#[test]
fn the_last_manager_stays_one() {
    let mut world = World::new();
    let nodes: Vec<NodeId> = world.state.nodes.keys().copied().collect();
    let demote = |world: &World, node: &NodeId| Command::UpdateNode {
        at_ns: 0,
        node: *node,
        version: world.state.nodes[node].version,
        wanted: NodeWanted {
            role: Role::Worker,
            ..world.state.nodes[node].wanted.clone()
        },
    };
    let (last, others) = nodes.split_last().unwrap();
    assert!(!others.is_empty());
    for node in others {
        let command = demote(&world, node);
        assert_eq!(world.ok(command), "updated");
    }
    let refused = world.apply(demote(&world, last)).result;
    assert_eq!(refused, Err(Refusal::LastManager));
    assert_eq!(world.state.nodes[last].wanted.role, Role::Manager);
}

#[test]
fn a_node_that_joins_again_keeps_what_is_wanted_of_it_and_the_cluster_what_all_understand() {
    let mut world = World::new();
    let joins = |node, features| Command::Join {
        node: NodeId(node),
        at_ns: 9,
        is: Box::new(NodeIs {
            features,
            ..Default::default()
        }),
        wanted: NodeWanted {
            name: "late".to_owned(),
            ..Default::default()
        },
    };
    world.ok(joins(1, 2));
    assert_eq!(world.ok(joins(1, 2)), "", "nothing new");
    let node = world.state.nodes.get(&ONE).unwrap();
    assert_eq!((node.joined_ns, node.wanted.name.as_str()), (0, ""));
    assert_eq!(world.state.cluster.features, 0, "the other is older");
    world.ok(joins(2, 3));
    assert_eq!(world.state.cluster.features, 2);
    assert!(world.state.understands(2) && !world.state.understands(3));
    // What was used stays, and who doesn't know it would misread the log.
    for node in [1, 3] {
        let refused = world.apply(joins(node, 1)).result.unwrap_err();
        assert!(
            matches!(
                refused,
                Refusal::TooOld {
                    cluster: 2,
                    node: 1
                }
            ),
            "{refused}"
        );
    }
    assert_eq!(world.state.cluster.features, 2);
}

#[test]
fn a_node_that_has_come_in_again_is_not_called_out_by_whoever_had_looked_before() {
    let mut world = World::new();
    let seen = world.tenure(ONE);
    let down = |tenure| Command::NodeHealth {
        at_ns: 0,
        node: ONE,
        health: Health::Down {
            reason: "silent".to_owned(),
        },
        tenure,
        term: None,
    };
    // It had heard that it is out, and nobody has called it out.
    assert_eq!(world.up(ONE), "updated");
    assert!(world.tenure(ONE) > seen);
    let late = world.apply(down(seen)).result;
    assert_eq!(late, Err(Refusal::OutOfSequence));
    assert!(world.state.is_ready(ONE));
    world.ok(down(world.tenure(ONE)));
    assert!(!world.state.is_ready(ONE));
    world.up(ONE);
    assert!(world.state.is_ready(ONE));
}

#[test]
fn a_node_that_was_removed_is_never_taken_in_again() {
    let mut world = World::new();
    world.ok(Command::RemoveNode {
        empty: false,
        node: ONE,
        at_ns: 0,
        force: true,
    });
    let join = Command::Join {
        node: ONE,
        at_ns: 0,
        is: Box::default(),
        wanted: NodeWanted::default(),
    };
    assert!(world.apply(join).result.is_err());
    assert!(!world.state.nodes.contains_key(&ONE));
}

#[test]
fn what_a_leader_has_decided_about_leases_is_refused_once_another_decides() {
    let mut world = World::new();
    let down = |world: &World, term| Command::NodeHealth {
        at_ns: 0,
        node: ONE,
        health: Health::Down {
            reason: "silent".to_owned(),
        },
        tenure: world.tenure(ONE),
        term: Some(term),
    };
    world.ok(Command::Lead { term: 3 });
    world.ok(Command::Lead { term: 5 });
    // One that was late says nothing new.
    world.ok(Command::Lead { term: 4 });
    for term in [3, 4, 6] {
        let late = world.apply(down(&world, term)).result;
        assert_eq!(late, Err(Refusal::OutOfSequence));
    }
    world.ok(down(&world, 5));
    assert!(!world.state.is_ready(ONE));
}
