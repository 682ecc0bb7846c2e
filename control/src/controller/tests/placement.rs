//! Where new pods go, and what becomes of those that fit nowhere: a node of a cluster whose others only the state knows.

use super::super::*;
use super::node::{IMAGE, Node, node, owner, until};
use crate::cluster::steward::Steward;
use crate::state::{Availability, NodeId, NodeIs, NodeWanted, Phase, Report, RestartPolicy, Run};

const GIB: u64 = 1 << 30;

/// As large as this, in a zone.
fn sized(memory_bytes: u64, zone: &str) -> NodeIs {
    NodeIs {
        cpus: 8,
        memory_bytes,
        disk_bytes: 1 << 40,
        labels: [("zone".to_owned(), zone.to_owned())].into(),
        ..NodeIs::default()
    }
}

/// This node in zone `a`, and another in zone `b`, of so much memory each.
async fn two(dir: &std::path::Path, own: u64, other: u64) -> (Node, NodeId) {
    let node = node(dir).await;
    node.joins(node.own(), sized(own, "a")).await;
    node.joins(node.other(), sized(other, "b")).await;
    let other = node.other();
    (node, other)
}

/// Looks after the cluster, as the leader does.
fn steward(node: &Node) {
    let (steward, waker) = Steward::new(node.replica(), node.controller.placer());
    node.watch(waker);
    tokio::spawn(steward.run());
}

fn label(spec: &mut ContainerSpec, label: &str, value: &str) {
    spec.labels.insert(label.to_owned(), value.to_owned());
}

async fn update(node: &Node, of: NodeId, change: impl FnOnce(&mut NodeWanted)) {
    let known = node.controller.state().nodes[&of].clone();
    let mut wanted = known.wanted;
    change(&mut wanted);
    let command = Command::UpdateNode {
        at_ns: 0,
        node: of,
        version: known.version,
        wanted,
    };
    node.controller.propose(command).await.unwrap();
}

/// As if that node's keeper had started what it was given.
async fn runs_on(node: &Node, id: &ContainerId, on: NodeId) {
    until(|| node.find(id).pod.held() == Some(on)).await;
    let placed = node.find(id);
    let run = Run {
        epoch: placed.pod.epoch,
        number: 1,
        start: placed.wanted.start,
    };
    let command = Command::Report {
        node: on,
        at_ns: 0,
        report: Report::Started {
            id: *id,
            run,
            pid: 7,
        },
    };
    node.controller.propose(command).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_alone_takes_whatever_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    node.joins(node.own(), sized(2 * GIB, "a")).await;
    steward(&node);
    update(&node, node.own(), |wanted| {
        wanted.availability = Availability::Drain;
    })
    .await;
    for number in 0..60 {
        let id = node
            .create("run", |spec| match number % 4 {
                0 => spec.memory_bytes = 64 * GIB,
                1 => spec.nano_cpus = 64_000_000_000,
                2 => spec.storage_bytes = Some(1 << 50),
                _ => label(spec, "hearth.constraint.0", "node.labels.zone==b"),
            })
            .await;
        assert_eq!(node.find(&id).pod.node, Some(node.own()));
        assert!(node.controller.start(&id).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dozens_without_limits_fit_on_a_small_node_among_others() {
    let dir = tempfile::tempdir().unwrap();
    let (node, _) = two(dir.path(), 2 * GIB, 2 * GIB).await;
    for _ in 0..60 {
        let id = node.create("run", |_| {}).await;
        assert!(node.find(&id).pod.node.is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_constraint_is_kept_to_and_groups_are_spread_over_zones() {
    let dir = tempfile::tempdir().unwrap();
    let (node, other) = two(dir.path(), 8 * GIB, 64 * GIB).await;
    for number in 0..10 {
        let (zone, on) = [("a", node.own()), ("b", other)][number % 2];
        let id = node
            .create("run", |spec| {
                label(
                    spec,
                    "hearth.constraint.0",
                    &format!("node.labels.zone == {zone}"),
                )
            })
            .await;
        assert_eq!(node.find(&id).pod.node, Some(on));
    }
    let mut spread = std::collections::BTreeMap::<_, u32>::new();
    for _ in 0..10 {
        let id = node
            .create("run", |spec| {
                label(spec, "com.docker.compose.service", "web")
            })
            .await;
        *spread.entry(node.find(&id).pod.node).or_default() += 1;
    }
    assert_eq!(spread, [(Some(node.own()), 5), (Some(other), 5)].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_creations_at_the_same_time_take_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (node, _) = two(dir.path(), 8 * GIB, 8 * GIB).await;
    // Of a limit, half counts: sixteen are as much as there is.
    let create = || {
        node.create("run", |spec| {
            spec.memory_bytes = 2 * GIB;
        })
    };
    let ids = futures_util::future::join_all((0..20).map(|_| create())).await;
    let mut on = std::collections::BTreeMap::<_, u32>::new();
    for id in ids {
        *on.entry(node.find(&id).pod.node).or_default() += 1;
    }
    assert_eq!(
        on,
        [(None, 4), (Some(node.own()), 8), (Some(node.other()), 8)].into()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_fits_nowhere_says_why_and_comes_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (node, other) = two(dir.path(), 4 * GIB, 4 * GIB).await;
    steward(&node);
    let big = |spec: &mut ContainerSpec| spec.memory_bytes = 16 * GIB;
    let id = node.create("run", big).await;
    let pending = node.find(&id).pod;
    assert_eq!(pending.node, None);
    for _ in 0..2 {
        let error = node.controller.start(&id).await.unwrap_err();
        assert!(matches!(error, Error::Pending(_)), "{error:?}");
        let error = error.to_string();
        assert!(
            error.starts_with("no suitable node (insufficient resources on 2 nodes): "),
            "{error}"
        );
        assert!(node.find(&id).wanted.up, "it is still wanted");
    }
    let rm = node
        .create("run", |spec| {
            big(spec);
            spec.auto_remove = true;
        })
        .await;
    let gone = node.controller.wait(&rm, WaitCondition::Removed);
    let error = node.controller.start(&rm).await.unwrap_err();
    assert!(matches!(error, Error::Pending(_)), "{error:?}");
    gone.await.unwrap();
    // This node is given memory.
    node.joins(node.own(), sized(64 * GIB, "a")).await;
    until(|| node.find(&id).status.phase == Phase::Running).await;
    assert_eq!(node.find(&id).pod.node, Some(node.own()));
    assert_eq!(node.find(&id).pod.pending, "");
    assert_ne!(node.find(&id).pod.node, Some(other));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_a_pod_is_nowhere_is_kept_up() {
    let dir = tempfile::tempdir().unwrap();
    let (node, other) = two(dir.path(), 4 * GIB, 4 * GIB).await;
    steward(&node);
    let id = node
        .create("run", |spec| {
            label(spec, "hearth.constraint.0", "node.labels.disk==ssd")
        })
        .await;
    let why = || node.find(&id).pod.pending.clone();
    assert!(
        why().starts_with("no suitable node (scheduling constraints not satisfied on 2 nodes)")
    );
    update(&node, other, |wanted| {
        wanted.availability = Availability::Pause;
    })
    .await;
    until(|| why().contains("scheduling constraints not satisfied on 1 node")).await;
    update(&node, node.own(), |wanted| {
        wanted.labels.insert("disk".to_owned(), "ssd".to_owned());
    })
    .await;
    // Though nobody has started it: who starts it may attach to it before.
    until(|| node.find(&id).pod.node == Some(node.own())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_move_leaves_a_drained_node() {
    let dir = tempfile::tempdir().unwrap();
    let (node, other) = two(dir.path(), 8 * GIB, 8 * GIB).await;
    steward(&node);
    let on_own = |spec: &mut ContainerSpec| spec.restart = RestartPolicy::Always;
    let mut here = Vec::new();
    while here.len() < 3 {
        let id = node.create("run", on_own).await;
        if node.find(&id).pod.node == Some(node.own()) {
            node.controller.start(&id).await.unwrap();
            here.push(id);
        }
    }
    update(&node, node.own(), |wanted| {
        wanted.availability = Availability::Drain;
    })
    .await;
    for id in &here {
        until(|| node.find(id).pod.held() == Some(other)).await;
    }
    let id = node.create("run", on_own).await;
    assert_eq!(node.find(&id).pod.node, Some(other));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn production_evicts_what_said_that_it_may_be_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (node, other) = two(dir.path(), 4 * GIB, 4 * GIB).await;
    steward(&node);
    // What has no limits counts little; these count for four GiB in production, and for as much below it.
    let sized_as = |priority: &'static str| {
        move |spec: &mut ContainerSpec| {
            label(spec, "hearth.priority", priority);
            spec.memory_bytes = match priority {
                "production" => 8 * GIB,
                _ => 16 * GIB,
            };
        }
    };
    let mut batch = Vec::new();
    for _ in 0..2 {
        let id = node.create("run", sized_as("batch")).await;
        if node.find(&id).pod.node == Some(node.own()) {
            node.controller.start(&id).await.unwrap();
        } else {
            let start = node.controller.start(&id);
            let (started, ()) = tokio::join!(start, async {
                until(|| node.find(&id).wanted.up).await;
                runs_on(&node, &id, other).await;
            });
            started.unwrap();
        }
        batch.push(id);
    }
    let first = node.create("run", sized_as("production")).await;
    let on = node.find(&first).pod.node.unwrap();
    let evicted: Vec<_> = batch
        .iter()
        .filter(|id| node.find(id).pod.node.is_none())
        .collect();
    assert_eq!(evicted.len(), 1, "no more than need be");
    assert_ne!(node.find(evicted[0]).pod.pending, "");
    assert!(node.find(evicted[0]).wanted.up);
    // The other one too; then nobody is left who may be evicted.
    let second = node.create("run", sized_as("production")).await;
    assert_ne!(node.find(&second).pod.node.unwrap(), on);
    let third = node.create("run", sized_as("production")).await;
    assert_eq!(node.find(&third).pod.node, None);
    // When room comes, who has waited begins again.
    node.joins(NodeId(77), sized(64 * GIB, "c")).await;
    for id in batch.iter().chain([&third]) {
        until(|| node.find(id).pod.node == Some(NodeId(77))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_that_is_refused_takes_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let (node, _) = two(dir.path(), 4 * GIB, 0).await;
    let name: ContainerName = "web".parse().unwrap();
    let spec = ContainerSpec {
        memory_bytes: 8 * GIB,
        ..ContainerSpec::default()
    };
    let small = ContainerSpec::default();
    let create = async |name: Option<ContainerName>, spec: &ContainerSpec| {
        let controller = &node.controller;
        let spec = spec.clone();
        controller
            .create(&owner(), name, IMAGE, "busybox", spec)
            .await
    };
    let first = create(Some(name.clone()), &small).await.unwrap();
    node.controller.remove(&first, true).await.unwrap();
    let taken = create(Some(name.clone()), &small).await.unwrap();
    create(Some(name), &spec).await.unwrap_err();
    node.controller.remove(&taken, true).await.unwrap();
    let id = create(None, &spec).await.unwrap();
    assert_eq!(node.find(&id).pod.node, Some(node.own()));
}
