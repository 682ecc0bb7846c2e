//! Each rule by an example.

use super::super::{Decision, UnknownNode};
use super::*;

fn words(decision: Decision) -> String {
    match decision {
        Decision::Nowhere(reasons) => reasons.to_string(),
        other => panic!("it has a place: {other:?}"),
    }
}

#[test]
fn why_nothing_fits_is_said_in_numbers() {
    let mut small = node(1, "a");
    small.capacity.memory_bytes = 2 * GIB;
    let mut larger = node(2, "a");
    larger.capacity.memory_bytes = 3 * GIB + GIB / 6;
    let drained = Node {
        availability: Availability::Drain,
        ..node(3, "a")
    };
    let mut elsewhere = node(4, "b");
    elsewhere.name = String::new();
    let mut cluster = cluster([small, larger, drained, elsewhere]);
    let mut asked = wants("x", "web", "production", gib(8));
    asked
        .constraints
        .push("node.labels.zone==a".parse().unwrap());
    assert_eq!(
        words(cluster.place(&request(1, &asked))),
        "no suitable node (insufficient resources on 2 nodes; 1 node not available for new tasks; scheduling constraints not satisfied \
         on 1 node): 1 node is drained, 1 doesn't match node.labels.zone==a, 2 lack memory (it wants 8 GiB, the largest gap is 3.1 GiB \
         on hearth-2)"
    );
    let tied = Request {
        pinned: Some(NodeId(3)),
        ..request(1, &asked)
    };
    assert_eq!(
        words(cluster.place(&tied)),
        "no suitable node (1 node not available for new tasks): the container is tied to node hearth-3, which is drained"
    );
    let tied = Request {
        pinned: Some(NodeId(4)),
        ..request(1, &wants("x", "web", "production", gib(17)))
    };
    assert_eq!(
        words(cluster.place(&tied)),
        "no suitable node (insufficient resources on 1 node): the container is tied to node 0000000000000004, which lacks memory (it wants \
         17 GiB, the largest gap is 16 GiB)"
    );
    assert_eq!(
        words(Cluster::default().place(&request(1, &asked))),
        "no suitable node: the cluster has none"
    );
}

#[test]
fn a_pod_goes_back_to_where_its_layer_is() {
    let asked = wants("x", "web", "production", gib(1));
    let mut cluster = cluster((1..4).map(|id| node(id, "a")));
    for home in (1..4).map(NodeId) {
        // Another of its group is there already: staying is better all the same.
        cluster
            .assign(pod(100 + home.0), home, &Arc::new(asked.clone()))
            .unwrap();
        let returning = Request {
            home: Some(home),
            ..request(1, &asked)
        };
        assert_eq!(cluster.place(&returning), Decision::On(home));
        let failed_there = Request {
            avoid: vec![home],
            ..returning
        };
        assert_ne!(cluster.place(&failed_there), Decision::On(home));
    }
}

#[test]
fn where_it_failed_is_better_than_nowhere() {
    let asked = wants("x", "web", "production", gib(1));
    let mut cluster = cluster([node(1, "a")]);
    let failed = Request {
        avoid: vec![NodeId(1)],
        ..request(1, &asked)
    };
    assert_eq!(cluster.place(&failed), Decision::On(NodeId(1)));
}

#[test]
fn the_image_decides_between_equals() {
    let asked = wants("x", "web", "production", gib(1));
    let mut has = node(2, "a");
    has.images.insert("sha256:00".into(), GIB);
    let mut cluster = cluster([node(1, "a"), has, node(3, "a")]);
    for number in 0..20 {
        assert_eq!(
            cluster.place(&request(number, &asked)),
            Decision::On(NodeId(2))
        );
    }
}

#[test]
fn equals_are_chosen_by_the_pod() {
    let asked = wants("x", "web", "production", gib(1));
    let mut cluster = cluster((0..8).map(|id| node(id, "a")));
    let chosen: std::collections::BTreeSet<_> = (0..200)
        .map(|number| match cluster.place(&request(number, &asked)) {
            Decision::On(node) => node,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(chosen.len() > 4, "{chosen:?}");
}

#[test]
fn as_few_and_as_low_as_possible_are_evicted() {
    let mut cluster = cluster([node(1, "a"), node(2, "a")]);
    let mut on = |number: u64, node: u64, priority: &str, memory: u64| {
        let held = Arc::new(wants("y", "jobs", priority, gib(memory)));
        cluster.assign(pod(number), NodeId(node), &held).unwrap();
    };
    on(1, 1, "production", 8);
    on(2, 1, "batch", 8);
    on(3, 2, "best-effort", 2);
    on(4, 2, "best-effort", 6);
    on(5, 2, "batch", 8);
    let place = |cluster: &mut Cluster, priority: &str, memory: u64| {
        cluster.place(&request(9, &wants("x", "web", priority, gib(memory))))
    };
    let preempting = |node, victims: &[u64]| Decision::Preempting {
        node: NodeId(node),
        victims: victims.iter().map(|number| pod(*number)).collect(),
    };
    assert_eq!(place(&mut cluster, "production", 5), preempting(2, &[4]));
    assert_eq!(place(&mut cluster, "production", 8), preempting(2, &[4, 3]));
    assert_eq!(place(&mut cluster, "batch", 8), preempting(2, &[4, 3]));
    assert_eq!(place(&mut cluster, "production", 9), preempting(2, &[4, 5]));
    assert!(matches!(
        place(&mut cluster, "batch", 9),
        Decision::Nowhere(_)
    ));
    assert!(matches!(
        place(&mut cluster, "best-effort", 1),
        Decision::Nowhere(_)
    ));
    cluster.release(&pod(5));
    let held = Arc::new(wants("y", "jobs", "production", gib(16)));
    cluster.assign(pod(5), NodeId(2), &held).unwrap();
    assert_eq!(place(&mut cluster, "200", 8), preempting(1, &[2]));
    assert!(matches!(
        place(&mut cluster, "200", 9),
        Decision::Nowhere(_)
    ));
    assert_eq!(place(&mut cluster, "monitoring", 9), preempting(1, &[2, 1]));
}

#[test]
fn a_group_spreads_over_nodes_that_another_packs() {
    let mut cluster = cluster((0..4).map(|id| node(id, "a")));
    let mut placed = |service: &str, count: u64, from: u64| {
        let asked = wants("x", service, "production", gib(1));
        let queue = (0..count).map(|number| request(from + number, &asked));
        let nodes = cluster
            .pass(queue)
            .into_iter()
            .map(|(_, decision)| match decision {
                Decision::On(node) => node,
                other => panic!("{other:?}"),
            });
        nodes.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(placed("web", 4, 0).len(), 4);
    // Pods of different services have no reason to keep apart: what is begun is filled first, up to half.
    let packed: std::collections::BTreeSet<_> = (0..4)
        .flat_map(|number| placed(&format!("single{number}"), 1, 100 + number))
        .collect();
    assert_eq!(packed.len(), 1, "{packed:?}");
}

#[test]
fn only_known_nodes_are_accounted_for() {
    let mut cluster = cluster([node(1, "a")]);
    let held = Arc::new(wants("x", "web", "production", gib(1)));
    let error = cluster.assign(pod(1), NodeId(2), &held).unwrap_err();
    assert_eq!(error, UnknownNode(NodeId(2)));
    assert!(
        error
            .to_string()
            .starts_with("there is no node 0000000000000002")
    );
    cluster.assign(pod(1), NodeId(1), &held).unwrap();
    assert_eq!(cluster.node_of(&pod(1)), Some(NodeId(1)));
    assert_eq!(cluster.remove_node(NodeId(1)), [pod(1)]);
    assert_eq!(cluster.node_of(&pod(1)), None);
}

#[test]
fn plain_containers_of_one_image_are_a_group() {
    let wishes = |tenant: &str| {
        let wishes = Wishes::default();
        assert_eq!(wishes.spread, default_spread());
        Wants::new(tenant.parse().unwrap(), "sha256:00".into(), wishes, gib(1)).group
    };
    assert_eq!(wishes("x"), wishes("x"));
    assert_ne!(wishes("x"), wishes("y"));
    assert_eq!(Priority::default().band(), Band::Production);
}
