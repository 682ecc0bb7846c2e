//! Pods that keep to the node's lease, and those that don't.

use super::*;
use crate::lease::Deadline;
use crate::state::{Phase, RestartPolicy};

/// Until a lease ends that is to end in the middle of a run: a start takes less, on an idle machine.
const A_WHILE_NS: u64 = Duration::from_millis(1500).as_nanos() as u64;

/// One that may run elsewhere.
fn movable(n: u8) -> Placed {
    with_policy(n, RestartPolicy::Always)
}

fn with_policy(n: u8, restart: RestartPolicy) -> Placed {
    let mut placed = container(&["wait"]);
    let id = ContainerId::from_random([n; 32]);
    let container = Arc::make_mut(&mut placed.container);
    (container.id, container.pod, container.spec.restart) = (id, id.into(), restart);
    let pod = Arc::make_mut(&mut placed.pod);
    (pod.id, pod.containers) = (id.into(), vec![id]);
    placed
}

fn from_now(node: &Node) -> Deadline {
    Deadline::At(node.lease.now().plus_ns(A_WHILE_NS))
}

/// Starts it under a lease that ends after `A_WHILE_NS`; on a machine that is busy it takes some attempts.
async fn start_soon(node: &mut Node, placed: &Placed) {
    loop {
        let _ = node.lease.extend(from_now(node));
        match start(&node.agent, placed, vec![]).await {
            Ok(_) => break,
            Err(AgentError::LeaseOver) => node.agent.idle().await,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(node.reports.recv().await, Some(Report::Started(RUN)));
}

#[test]
fn a_pod_that_may_run_elsewhere_ends_with_the_lease_and_another_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let stays = with_policy(8, RestartPolicy::No);
        start(&node.agent, &stays, vec![]).await.unwrap();
        assert_eq!(node.reports.recv().await, Some(Report::Started(RUN)));
        let moves = movable(9);
        start_soon(&mut node, &moves).await;
        // Nobody extends it any more, and nobody ends anything.
        assert_eq!(node.reports.recv().await, exited(137));
        assert!(!node.lease.holds(), "not before its deadline");
        node.agent.ended(&moves.id).await;
        assert!(!paths(dir.path()).pod(&moves.id).exists());
        assert_eq!(node.agent.running(&stays.id), Some(RUN));
        node.agent.signal(&stays.id, signal(15)).await.unwrap();
        assert_eq!(node.reports.recv().await, exited(143));
        node.agent.idle().await;
    });
}

#[test]
fn a_pod_runs_on_for_as_long_as_its_lease_is_extended() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let moves = movable(9);
        start_soon(&mut node, &moves).await;
        let first = node.lease.deadline();
        let _ = node.lease.extend(Deadline::Never);
        while Deadline::At(node.lease.now()) <= first {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        node.agent.signal(&moves.id, signal(15)).await.unwrap();
        assert_eq!(node.reports.recv().await, exited(143), "by the signal");
        node.agent.idle().await;
    });
}

#[test]
fn nothing_that_may_run_elsewhere_starts_without_a_lease() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let (moves, stays) = (
            movable(9),
            with_policy(8, RestartPolicy::OnFailure { maximum_retries: 3 }),
        );
        assert!(!node.agent.may_start(&moves) && node.agent.may_start(&stays));
        let error = start(&node.agent, &moves, vec![]).await.unwrap_err();
        assert_eq!(error, AgentError::LeaseOver);
        assert!(!paths(dir.path()).pod(&moves.id).exists());
        let _ = node.lease.extend(Deadline::Never);
        node.lease.go_out();
        assert!(!node.agent.may_start(&moves));
        start(&node.agent, &stays, vec![]).await.unwrap();
        assert_eq!(node.reports.recv().await, Some(Report::Started(RUN)));
        node.agent.destroy(&stays.id).await;
        node.agent.idle().await;
    });
}

#[test]
fn a_lease_that_is_given_an_end_is_seen_by_those_that_run_and_those_taken_up_again() {
    for restarts in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let moves = movable(9);
        let first = runtime();
        let before = first.block_on(async {
            let mut before = node(dir.path()).await;
            let _ = before.lease.extend(Deadline::Never);
            start(&before.agent, &moves, vec![]).await.unwrap();
            assert_eq!(before.reports.recv().await, Some(Report::Started(RUN)));
            let Deadline::At(end) = from_now(&before) else {
                unreachable!("it has an end");
            };
            assert!(before.lease.limit(end));
            before
        });
        let mut up = moves.clone();
        let status = &mut Arc::make_mut(&mut up.container).status;
        (status.phase, status.run) = (Phase::Running, RUN);
        let ends = async |node: Node| {
            node.agent.idle().await;
            assert!(!node.lease.holds());
            assert!(!paths(dir.path()).pod(&moves.id).exists());
        };
        if restarts {
            // The process ends before it has told anybody.
            drop(before);
            first.shutdown_background();
            runtime().block_on(async {
                let node = node(dir.path()).await;
                node.agent.adopt(std::slice::from_ref(&up)).await;
                ends(node).await;
            });
        } else {
            first.block_on(async {
                before.agent.look_at_lease_again();
                ends(before).await;
            });
        }
    }
}

#[test]
fn those_that_keep_to_the_lease_can_be_ended_and_the_rest_runs_on() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let _ = node.lease.extend(Deadline::Never);
        let (moves, stays) = (movable(9), with_policy(8, RestartPolicy::No));
        for placed in [&moves, &stays] {
            start(&node.agent, placed, vec![]).await.unwrap();
            assert_eq!(node.reports.recv().await, Some(Report::Started(RUN)));
        }
        node.agent.end_leased().await;
        assert_eq!(node.reports.recv().await, exited(137));
        assert_eq!(node.agent.running(&stays.id), Some(RUN));
        node.agent.destroy(&stays.id).await;
        node.agent.idle().await;
    });
}
