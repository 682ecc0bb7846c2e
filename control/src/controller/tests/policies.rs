//! Restarts, by users and by policies.

use futures_util::poll;

use super::super::*;
use super::node::{node, until};
use crate::state::{Phase, RestartPolicy, Signal};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_restarts_until_its_limit_and_a_stop_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let id = node
        .create("1", |spec| {
            spec.restart = RestartPolicy::OnFailure { maximum_retries: 2 }
        })
        .await;
    node.controller.start(&id).await.unwrap();
    until(|| !node.find(&id).wanted.up).await;
    assert_eq!(node.find(&id).status.restarts, 2);
    assert_eq!(node.machine.started(), [id; 3]);
    let always = node
        .create("0", |spec| spec.restart = RestartPolicy::Always)
        .await;
    node.controller.start(&always).await.unwrap();
    until(|| node.machine.started().len() == 5).await;
    node.controller.stop(&always, None, None).await.unwrap();
    assert!(!node.find(&always).wanted.up);
    // Another try that was on its way when the stop came is ended as well.
    until(|| !node.find(&always).is_up() && node.machine.is_idle()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_that_is_on_its_way_when_it_is_stopped_is_ended_and_a_start_after_it_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    for again in [false, true] {
        let id = node
            .create("run", |spec| spec.restart = RestartPolicy::Always)
            .await;
        node.controller.start(&id).await.unwrap();
        node.machine.hold_starts();
        let starts = node.machine.starts();
        node.machine.exit(&id, 1);
        until(|| node.machine.starts() > starts).await;
        assert!(node.controller.stop(&id, None, None).await.unwrap());
        let start = node.controller.start(&id);
        let mut start = Box::pin(start);
        if again {
            while !node.find(&id).wanted.up {
                assert!(poll!(&mut start).is_pending());
                tokio::task::yield_now().await;
            }
        }
        node.machine.may_start.add_permits(2);
        if again {
            assert!(start.await.unwrap());
            assert_eq!(node.find(&id).status.run.start, 2);
            node.kill(&id).await;
        } else {
            until(|| node.machine.signals(&id) == [15] && !node.find(&id).is_up()).await;
        }
        until(|| node.machine.is_idle()).await;
        node.machine.hold_starts();
        node.machine
            .may_start
            .add_permits(tokio::sync::Semaphore::MAX_PERMITS);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_a_container_that_would_be_removed_at_its_exit() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node(dir.path()).await;
    let id = node.create("run", |spec| spec.auto_remove = true).await;
    node.controller.start(&id).await.unwrap();
    node.controller.restart(&id, None, None).await.unwrap();
    assert!(node.find(&id).is_up());
    assert_eq!(
        node.next_events(7).await,
        ["create", "start", "kill", "die", "stop", "start", "restart"]
    );
    node.controller.remove(&id, true).await.unwrap();
    until(|| node.machine.links().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_that_overlap_keep_a_container_that_would_be_removed_at_its_exit() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let id = node.create("run", |spec| spec.auto_remove = true).await;
    node.controller.start(&id).await.unwrap();
    node.machine.hold_starts();
    let starts = node.machine.starts();
    let restart = || {
        let controller = node.controller.clone();
        tokio::spawn(async move { controller.restart(&id, None, None).await })
    };
    let first = restart();
    until(|| node.machine.starts() > starts).await;
    // It stops what the first starts.
    let second = restart();
    until(|| node.find(&id).wanted.start == 3).await;
    node.machine.may_start.add_permits(2);
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    let container = node.find(&id);
    assert!(container.is_up());
    assert_eq!(container.status.run.start, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_what_is_down_starts_it_and_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node(dir.path()).await;
    let id = node.create("run", |_| {}).await;
    node.controller.restart(&id, None, None).await.unwrap();
    node.machine.exit(&id, 0);
    node.controller
        .wait(&id, WaitCondition::NotRunning)
        .await
        .unwrap();
    node.controller.start(&id).await.unwrap();
    assert_eq!(
        node.next_events(5).await,
        ["create", "start", "restart", "die", "start"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_with_rm_whose_restart_fails_goes() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let id = node.create("missing", |spec| spec.auto_remove = true).await;
    let removed = node.controller.wait(&id, WaitCondition::Removed);
    node.controller.restart(&id, None, None).await.unwrap_err();
    assert_eq!(removed.await.unwrap().code, 127);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_two_runs_of_a_policy_a_container_counts_as_running_until_it_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    // Stop, two kinds of kill, and removal by force.
    for ending in 0..4 {
        let id = node
            .create("1", |spec| spec.restart = RestartPolicy::Always)
            .await;
        // The first run, and none after it.
        node.machine.hold_starts();
        node.machine.may_start.add_permits(1);
        node.controller.start(&id).await.unwrap();
        until(|| node.find(&id).awaits_restart()).await;
        let mut down = Box::pin(node.controller.wait(&id, WaitCondition::NotRunning));
        assert!(poll!(&mut down).is_pending());
        match ending {
            0 => assert!(node.controller.stop(&id, None, None).await.unwrap()),
            1 => node.kill(&id).await,
            2 => node.controller.kill(&id, Signal::TERM).await.unwrap(),
            _ => node.controller.remove(&id, true).await.unwrap(),
        }
        assert_eq!(down.await.unwrap().code, 1);
        if ending < 3 {
            let container = node.find(&id);
            assert!(!container.awaits_restart() && !container.is_up());
            assert!(!node.controller.stop(&id, None, None).await.unwrap());
        }
        // One that was on its way comes to nothing.
        node.machine.may_start.add_permits(1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_that_does_not_end_it_is_nothing_to_a_container_between_two_runs() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let id = node
        .create("1", |spec| spec.restart = RestartPolicy::Always)
        .await;
    node.machine.hold_starts();
    node.machine.may_start.add_permits(1);
    node.controller.start(&id).await.unwrap();
    until(|| node.find(&id).awaits_restart()).await;
    let hup = 1.try_into().unwrap();
    node.controller.kill(&id, hup).await.unwrap();
    assert!(node.find(&id).awaits_restart());
    node.machine.may_start.add_permits(1);
    until(|| node.machine.started().len() == 2).await;
    assert_ne!(node.find(&id).status.phase, Phase::Created);
}
