//! What a user sees of starting, ending and removing.

use futures_util::poll;

use super::super::*;
use super::node::{IMAGE, node, node_deaf_to, owner, until};
use crate::state::{FEATURES, NodeIs, Phase, RestartPolicy, Signal};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_with_rm_tells_its_exit_then_goes_with_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node(dir.path()).await;
    let id = node.create("3", |spec| spec.auto_remove = true).await;
    let next = node.controller.wait(&id, WaitCondition::NextExit);
    let removed = node.controller.wait(&id, WaitCondition::Removed);
    assert!(node.controller.start(&id).await.unwrap());
    assert_eq!(next.await.unwrap().code, 3);
    assert_eq!(removed.await.unwrap().code, 3);
    assert_eq!(
        node.next_events(4).await,
        ["create", "start", "die", "destroy"]
    );
    assert!(node.controller.find(&owner(), &id.to_string()).is_err());
    until(|| node.machine.links().is_empty() && node.machine.layers().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_start_is_an_exit_with_a_code_and_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node(dir.path()).await;
    let id = node.create("missing", |_| {}).await;
    let next = node.controller.wait(&id, WaitCondition::NextExit);
    let error = node.controller.start(&id).await.unwrap_err();
    assert!(
        matches!(&error, Error::Agent(AgentError::Start { code: 127, message }) if message == "not there"),
        "{error}"
    );
    assert_eq!(next.await.unwrap().code, 127);
    let container = node.find(&id);
    assert_eq!(container.phase(), Phase::Exited);
    let failure = container.status.failure.as_ref().unwrap();
    assert_eq!(failure.message, "not there");
    assert_eq!(node.next_events(2).await, ["create", "die"]);
    let gone = node.create("missing", |spec| spec.auto_remove = true).await;
    let removed = node.controller.wait(&gone, WaitCondition::Removed);
    assert!(node.controller.start(&gone).await.is_err());
    assert_eq!(removed.await.unwrap().code, 127);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_signals_and_then_kills_and_returns_when_the_exit_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node_deaf_to(dir.path(), 15).await;
    let id = node
        .create("run", |spec| spec.restart = RestartPolicy::Always)
        .await;
    assert!(node.controller.start(&id).await.unwrap());
    assert!(!node.controller.start(&id).await.unwrap(), "it ran already");
    assert!(node.controller.stop(&id, Some(0), None).await.unwrap());
    let container = node.find(&id);
    assert_eq!(
        (container.is_up(), container.status.exit.code),
        (false, 137)
    );
    assert!(
        !node.controller.stop(&id, Some(0), None).await.unwrap(),
        "it wasn't up"
    );
    assert_eq!(
        node.next_events(5).await,
        ["create", "start", "kill", "die", "stop"]
    );
    assert_eq!(node.machine.signals(&id), [15, 9]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_stop_takes_time_from_the_first_and_gives_it_none() {
    let dir = tempfile::tempdir().unwrap();
    let node = node_deaf_to(dir.path(), 15).await;
    for (first, second) in [(-1, 0), (3600, 0)] {
        let id = node.create("run", |_| {}).await;
        node.controller.start(&id).await.unwrap();
        let mut patient = Box::pin(node.controller.stop(&id, Some(first), None));
        assert!(poll!(&mut patient).is_pending());
        until(|| node.machine.signals(&id) == [15]).await;
        node.controller.stop(&id, Some(second), None).await.unwrap();
        assert!(patient.await.unwrap());
        assert_eq!(node.machine.signals(&id), [15, 15, 9]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_without_end_signals_once_whatever_else_happens_to_the_container() {
    let dir = tempfile::tempdir().unwrap();
    let node = node_deaf_to(dir.path(), 15).await;
    let id = node.create("run", |_| {}).await;
    node.controller.start(&id).await.unwrap();
    let mut stop = Box::pin(node.controller.stop(&id, Some(-1), None));
    assert!(poll!(&mut stop).is_pending());
    until(|| node.machine.signals(&id) == [15]).await;
    for name in ["one", "two", "three"] {
        let rename = Command::Rename {
            id,
            at_ns: 0,
            name: name.parse().unwrap(),
        };
        node.controller.propose(rename).await.unwrap();
        node.keeper.look_at(id);
    }
    node.kill(&id).await;
    assert!(stop.await.unwrap());
    assert_eq!(node.machine.signals(&id), [15, 9]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_sends_the_signal_of_the_container_however_that_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    for (written, number) in [
        ("sigquit", 3),
        ("SIGRTMIN", 34),
        ("RTMAX-2", 62),
        ("SIGTSTP", 20),
        ("", 15),
        ("no signal at all", 15),
    ] {
        let id = node
            .create("run", |spec| spec.stop_signal = written.into())
            .await;
        node.controller.start(&id).await.unwrap();
        node.controller.stop(&id, None, None).await.unwrap();
        assert_eq!(node.find(&id).status.exit.code, 128 + number, "{written:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_is_answered_when_the_exit_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    for _ in 0..20 {
        let id = node.create("run", |_| {}).await;
        node.controller.start(&id).await.unwrap();
        node.kill(&id).await;
        let container = node.find(&id);
        assert_eq!(
            (container.is_up(), container.status.exit.code),
            (false, 137)
        );
        let again = node.controller.kill(&id, Signal::KILL).await;
        assert!(matches!(again, Err(Error::Refused(Refusal::NotRunning(_)))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_stands_still_once_that_is_answered_and_goes_on_to_hear_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node_deaf_to(dir.path(), 1).await;
    let is = NodeIs {
        features: FEATURES,
        ..NodeIs::default()
    };
    node.joins(node.own(), is).await;
    let id = node.create("run", |_| {}).await;
    let early = node.controller.pause(&id, true).await;
    assert!(matches!(early, Err(Error::Refused(Refusal::NotRunning(_)))));
    node.controller.start(&id).await.unwrap();
    for paused in [true, false, true] {
        node.controller.pause(&id, paused).await.unwrap();
        assert_eq!(node.machine.is_paused(&id), paused);
        assert_eq!(node.find(&id).status.paused, paused);
        let again = node.controller.pause(&id, paused).await.unwrap_err();
        assert!(again.to_string().contains("paused"), "{again}");
    }
    node.controller
        .kill(&id, 1.try_into().unwrap())
        .await
        .unwrap();
    assert_eq!(node.machine.signals(&id), [1]);
    until(|| !node.find(&id).status.paused).await;
    node.controller.pause(&id, true).await.unwrap();
    assert!(node.controller.stop(&id, None, None).await.unwrap());
    assert_eq!(node.machine.signals(&id), [1, 15]);
    let told = node.next_events(11).await;
    assert_eq!(told[..5], ["create", "start", "pause", "unpause", "pause"]);
    assert_eq!(told.iter().filter(|what| **what == "unpause").count(), 3);
    assert_eq!(told[10], "die", "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_is_sent_when_it_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node_deaf_to(dir.path(), 1).await;
    let id = node.create("run", |_| {}).await;
    let hup = 1.try_into().unwrap();
    let early = node.controller.kill(&id, hup).await;
    assert!(matches!(early, Err(Error::Refused(Refusal::NotRunning(_)))));
    node.controller.start(&id).await.unwrap();
    node.controller.kill(&id, hup).await.unwrap();
    assert_eq!(node.machine.signals(&id), [1]);
    assert!(node.find(&id).wanted.up);
    let down = node.controller.wait(&id, WaitCondition::NotRunning);
    node.controller.kill(&id, Signal::TERM).await.unwrap();
    assert_eq!(down.await.unwrap().code, 143);
    assert_eq!(node.machine.signals(&id), [1, 15]);
    assert_eq!(
        node.next_events(5).await,
        ["create", "start", "kill", "kill", "die"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_or_a_signal_during_the_boot_is_heard_by_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    for by_stop in [true, false] {
        let id = node.create("run", |_| {}).await;
        node.machine.hold_starts();
        let starts = node.machine.starts();
        let start = {
            let controller = node.controller.clone();
            tokio::spawn(async move { controller.start(&id).await })
        };
        until(|| node.machine.starts() > starts).await;
        let down = node.controller.wait(&id, WaitCondition::NotRunning);
        if by_stop {
            let mut stop = Box::pin(node.controller.stop(&id, Some(3600), None));
            assert!(poll!(&mut stop).is_pending());
            until(|| node.find(&id).wanted.stop.is_some()).await;
            node.machine.may_start.add_permits(1);
            assert!(stop.await.unwrap());
        } else {
            node.controller.kill(&id, Signal::TERM).await.unwrap();
            node.machine.may_start.add_permits(1);
        }
        assert_eq!(down.await.unwrap().code, 128 + 15);
        assert!(start.await.unwrap().unwrap());
        assert_eq!(node.machine.signals(&id), [15]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_waits_for_its_image_can_be_called_off() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node(dir.path()).await;
    node.images
        .may_come
        .forget_permits(tokio::sync::Semaphore::MAX_PERMITS);
    let id = node.create("run", |_| {}).await;
    let start = {
        let controller = node.controller.clone();
        tokio::spawn(async move { controller.start(&id).await })
    };
    until(|| *node.images.asked_for.lock().unwrap() == 1).await;
    // What changes nothing for it doesn't ask again.
    for _ in 0..10 {
        node.keeper.look_at(id);
        tokio::task::yield_now().await;
    }
    assert_eq!(*node.images.asked_for.lock().unwrap(), 1);
    assert!(node.controller.stop(&id, None, None).await.unwrap());
    assert!(matches!(
        start.await.unwrap(),
        Err(Error::Agent(AgentError::NotRunning(_)))
    ));
    assert_eq!(node.find(&id).phase(), Phase::Created);
    assert_eq!(node.next_events(3).await, ["create", "kill", "stop"]);
    assert_eq!(node.machine.starts(), 0);
    node.images.may_come.add_permits(1);
    assert!(node.controller.start(&id).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_goes_on_without_whoever_has_asked_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    node.machine.hold_starts();
    for restart in [false, true] {
        let id = node.create("run", |_| {}).await;
        let mut request: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = match restart {
            false => Box::pin(async { drop(node.controller.start(&id).await) }),
            true => Box::pin(async { drop(node.controller.restart(&id, None, None).await) }),
        };
        while node.find(&id).wanted.start == 0 {
            assert!(poll!(&mut request).is_pending());
            tokio::task::yield_now().await;
        }
        drop(request);
        node.machine.may_start.add_permits(1);
        until(|| node.find(&id).status.phase == Phase::Running).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_runs_is_only_removed_by_force() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node(dir.path()).await;
    let id = node.create("run", |_| {}).await;
    node.controller.start(&id).await.unwrap();
    assert!(matches!(
        node.controller.remove(&id, false).await,
        Err(Error::Refused(Refusal::Running(_)))
    ));
    node.controller.remove(&id, true).await.unwrap();
    assert!(node.controller.state().containers.iter().next().is_none());
    assert_eq!(
        node.next_events(5).await,
        ["create", "start", "kill", "die", "destroy"]
    );
    until(|| node.machine.links().is_empty()).await;
    // While it boots, it is ended once it runs.
    let id = node.create("run", |_| {}).await;
    node.machine.hold_starts();
    let starts = node.machine.starts();
    let start = {
        let controller = node.controller.clone();
        tokio::spawn(async move { controller.start(&id).await })
    };
    until(|| node.machine.starts() > starts).await;
    node.controller.remove(&id, true).await.unwrap();
    assert!(start.await.unwrap().is_err());
    node.machine.may_start.add_permits(1);
    until(|| node.machine.started().contains(&id) && node.machine.is_idle()).await;
    until(|| node.machine.links().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_created_container_has_its_layer_and_a_refused_creation_leaves_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let (name, owner): (ContainerName, Tenant) = ("mine".parse().unwrap(), owner());
    let create = |image: &'static str| {
        let spec = ContainerSpec::default();
        let name = Some(name.clone());
        node.controller.create(&owner, name, image, "busybox", spec)
    };
    let first = create(IMAGE).await.unwrap();
    let error = create(IMAGE).await.unwrap_err();
    assert!(
        matches!(error, Error::Refused(Refusal::NameInUse { .. })),
        "{error}"
    );
    assert!(matches!(
        create("sha256:none").await,
        Err(Error::Refused(_))
    ));
    until(|| !node.machine.links().is_empty()).await;
    assert_eq!(node.machine.links(), [first].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_are_found_by_id_prefix_and_name_within_the_tenant_only() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let id = node.create("run", |_| {}).await;
    let name = node.find(&id).name.clone();
    for text in [
        &id.to_string(),
        &id.short(),
        name.as_str(),
        &format!("/{name}"),
    ] {
        let found = node.controller.find(&owner(), text).unwrap();
        assert_eq!(found.id, id, "{text}");
        let other = "other".parse().unwrap();
        assert!(node.controller.find(&other, text).is_err(), "{text}");
    }
    assert!(node.controller.find(&owner(), "").is_err());
}
