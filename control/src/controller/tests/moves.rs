//! Pods that leave this node, and come to it.

use std::sync::atomic::Ordering;

use futures_util::poll;

use super::super::*;
use super::node::{Node, node, node_deaf_to, until};
use crate::state::{Exit, Health, Layer, Phase, Report, RestartPolicy, Run};

async fn always(node: &Node) -> ContainerId {
    let id = node
        .create("run", |spec| spec.restart = RestartPolicy::Always)
        .await;
    node.controller.start(&id).await.unwrap();
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_given_to_another_node_is_stopped_here_let_go_of_and_its_files_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node(dir.path()).await;
    let other = node.joined_by_another().await;
    let (moved, stays) = (always(&node).await, always(&node).await);
    node.assign(&moved, Some(other), vec![]).await;
    until(|| node.find(&moved).pod.held() == Some(other)).await;
    assert_eq!(node.machine.signals(&moved), [15]);
    assert_eq!(node.find(&moved).status.exit.code, 143);
    assert!(node.find(&moved).awaits_restart());
    assert_eq!(node.machine.links(), [stays].into());
    assert_eq!(node.machine.layers().len(), 1);
    assert!(node.machine.runs(&stays) && !node.machine.runs(&moved));
    let events = node.next_events(5).await;
    assert_eq!(events, ["create", "start", "create", "start", "die"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_pod_has_written_stays_here_for_whoever_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let other = node.joined_by_another().await;
    let id = always(&node).await;
    let kept = ContainerId::from_random([3; 32]);
    let layer = Layer {
        container: id,
        epoch: 1,
    };
    node.assign(&id, Some(other), vec![kept]).await;
    until(|| node.find(&id).pod.held() == Some(other)).await;
    until(|| node.machine.links() == [kept].into()).await;
    assert_eq!(node.machine.layers(), [layer].into());
    // It can be started, and goes with its layer.
    node.controller.start(&kept).await.unwrap();
    node.controller.remove(&kept, true).await.unwrap();
    until(|| node.machine.layers().is_empty()).await;
    assert!(node.machine.links().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_comes_back_at_once_begins_with_a_fresh_layer() {
    let dir = tempfile::tempdir().unwrap();
    let node = node_deaf_to(dir.path(), 15).await;
    let other = node.joined_by_another().await;
    let id = node
        .create("run", |spec| {
            spec.restart = RestartPolicy::Always;
            spec.stop_timeout_s = Some(-1);
        })
        .await;
    node.controller.start(&id).await.unwrap();
    node.assign(&id, Some(other), vec![]).await;
    until(|| node.machine.signals(&id) == [15]).await;
    let own = node.controller.inner.replica.node();
    node.assign(&id, Some(own), vec![]).await;
    node.machine.exit(&id, 0);
    let again = Run {
        epoch: 3,
        number: 1,
        start: 1,
    };
    until(|| node.find(&id).status.run == again).await;
    let layer = Layer {
        container: id,
        epoch: 3,
    };
    assert_eq!(node.machine.layers(), [layer].into());
    assert_eq!(node.machine.signals(&id), [15], "once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_was_given_away_while_this_node_counted_as_down_is_ended_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let node = node_deaf_to(dir.path(), 15).await;
    let other = node.joined_by_another().await;
    let id = always(&node).await;
    let own = node.controller.inner.replica.node();
    let health = Health::Down {
        reason: "silent".into(),
    };
    let tenure = node.controller.inner.replica.state().nodes[&own].tenure;
    let down = Command::NodeHealth {
        at_ns: 0,
        node: own,
        health,
        tenure,
        term: None,
    };
    node.controller.propose(down).await.unwrap();
    node.assign(&id, Some(other), vec![]).await;
    assert_eq!(node.find(&id).pod.held(), Some(other));
    until(|| node.machine.is_idle() && node.machine.links().is_empty()).await;
    assert!(node.machine.signals(&id).is_empty());
    // Its end is the other's no more than its own.
    assert!(node.find(&id).awaits_restart());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_leaves_hears_of_a_kill_before_its_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let node = node_deaf_to(dir.path(), 15).await;
    let other = node.joined_by_another().await;
    for removed in [false, true] {
        let id = node
            .create("run", |spec| spec.stop_timeout_s = Some(-1))
            .await;
        node.controller.start(&id).await.unwrap();
        node.assign(&id, Some(other), vec![]).await;
        until(|| node.machine.signals(&id) == [15]).await;
        if removed {
            node.controller.remove(&id, true).await.unwrap();
        } else {
            node.kill(&id).await;
            assert_eq!(node.find(&id).status.exit.code, 137);
        }
        until(|| node.machine.is_idle()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_comes_here_begins_once_the_other_node_has_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let other = node.joined_by_another().await;
    let id = node
        .create("run", |spec| spec.restart = RestartPolicy::Always)
        .await;
    node.assign(&id, Some(other), vec![]).await;
    until(|| node.find(&id).pod.held() == Some(other)).await;
    let run = Run {
        epoch: 2,
        number: 1,
        start: 1,
    };
    let tell = async |report| {
        let command = Command::Report {
            node: other,
            at_ns: 0,
            report,
        };
        node.controller.propose(command).await.unwrap();
    };
    let mut start = Box::pin(node.controller.start(&id));
    while !node.find(&id).wanted.up {
        assert!(poll!(&mut start).is_pending());
        tokio::task::yield_now().await;
    }
    tell(Report::Started { id, run, pid: 7 }).await;
    assert!(start.await.unwrap(), "wherever it runs");
    let own = node.controller.inner.replica.node();
    node.assign(&id, Some(own), vec![]).await;
    node.keeper.look_at(id);
    until(|| node.keeper.is_settled()).await;
    assert_eq!(node.machine.starts(), 0, "it isn't let go of yet");
    let exit = Exit {
        code: 143,
        oom_killed: false,
    };
    tell(Report::Exited { id, run, exit }).await;
    tell(Report::Released {
        pod: id.into(),
        epoch: 3,
    })
    .await;
    until(|| node.find(&id).status.phase == Phase::Running).await;
    assert_eq!(node.find(&id).status.run.epoch, 3);
    assert!(node.machine.runs(&id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_run_elsewhere_waits_for_the_lease_and_the_rest_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    node.machine.lease_over.store(true, Ordering::Release);
    let waits = node
        .create("run", |spec| spec.restart = RestartPolicy::Always)
        .await;
    let mut start = Box::pin(node.controller.start(&waits));
    while !node.find(&waits).wanted.up {
        assert!(poll!(&mut start).is_pending());
        tokio::task::yield_now().await;
    }
    let stays = node.create("run", |_| {}).await;
    node.controller.start(&stays).await.unwrap();
    until(|| node.keeper.is_settled()).await;
    assert_eq!(node.machine.started(), [stays]);
    assert_eq!(
        node.find(&waits).phase(),
        Phase::Starting,
        "it has not failed"
    );
    node.machine.lease_over.store(false, Ordering::Release);
    node.keeper.look_at_all_soon();
    assert!(start.await.unwrap());
    assert!(node.machine.runs(&waits));
    assert_eq!(node.find(&waits).status.restarts, 0);
}
