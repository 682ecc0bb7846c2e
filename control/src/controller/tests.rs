//! The controller over a real replicated log, with an agent whose containers do as they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, mpsc};

use super::*;
use crate::agent::{
    Attached, ExecId, ExecSpec, ExecStatus, ExitSink, LogOptions, LogStream, NodeInfo, ProcessInfo,
    StartTimes,
};
use crate::state::{Action, Phase, PortBinding, RestartPolicy, Signal};

/// Containers that run until a signal, or end at once with the code that their command is.
struct FakeAgent {
    sink: Arc<Reporter>,
    running: Mutex<BTreeMap<ContainerId, ()>>,
    /// Each start takes one of these, and waits for it.
    may_start: Semaphore,
    files: Mutex<BTreeSet<ContainerId>>,
    starts: mpsc::UnboundedSender<ContainerId>,
    /// Ignored by everything that runs.
    deaf_to: i32,
}

impl FakeAgent {
    /// The exit is told a while after, and not by who caused it.
    fn exit(&self, id: &ContainerId, code: u8) {
        if self.running.lock().unwrap().remove(id).is_some() {
            let (sink, id) = (Arc::clone(&self.sink), id.clone());
            tokio::spawn(async move {
                let oom_killed = false;
                sink.exited(&id, Exit { code, oom_killed }, now_ns()).await;
            });
        }
    }
}

#[async_trait]
impl Agent for FakeAgent {
    async fn prepare(&self, container: &Container) -> Result<(), AgentError> {
        self.files.lock().unwrap().insert(container.id.clone());
        Ok(())
    }
    async fn start(
        &self,
        container: &Container,
        _: &[PortBinding],
    ) -> Result<StartTimes, AgentError> {
        if let Some("missing") = container.spec.command.first().map(String::as_str) {
            return Err(AgentError::Start {
                message: "not there".into(),
                code: 127,
            });
        }
        self.may_start.acquire().await.unwrap().forget();
        self.running
            .lock()
            .unwrap()
            .insert(container.id.clone(), ());
        self.sink.started(&container.id, 5, now_ns()).await;
        let _ = self.starts.send(container.id.clone());
        if let Some(code) = container
            .spec
            .command
            .first()
            .and_then(|word| word.parse().ok())
        {
            self.exit(&container.id, code);
        }
        Ok(StartTimes {
            monitor_at: Duration::ZERO,
            running_at: Duration::ZERO,
            guest_init: Duration::ZERO,
            commit: Duration::ZERO,
        })
    }
    async fn signal(&self, id: &ContainerId, signal: Signal) -> Result<(), AgentError> {
        if !self.running.lock().unwrap().contains_key(id) {
            return Err(AgentError::NotRunning(id.clone()));
        }
        if signal.number() != self.deaf_to {
            self.exit(id, 128 + signal.number() as u8);
        }
        Ok(())
    }
    async fn written_bytes(&self, _: &ContainerId) -> Result<u64, AgentError> {
        Ok(0)
    }
    async fn discard(&self, id: &ContainerId) -> Result<(), AgentError> {
        self.files.lock().unwrap().remove(id);
        Ok(())
    }
    async fn resize(&self, _: &ContainerId, _: u16, _: u16) -> Result<(), AgentError> {
        Ok(())
    }
    async fn attach(&self, id: &ContainerId, _: bool) -> Result<Attached, AgentError> {
        Err(AgentError::NotRunning(id.clone()))
    }
    async fn logs(&self, _: &ContainerId, _: LogOptions) -> Result<LogStream, AgentError> {
        Ok(Box::pin(futures_util::stream::empty()))
    }
    async fn processes(&self, _: &ContainerId) -> Result<Vec<ProcessInfo>, AgentError> {
        Ok(vec![])
    }
    async fn exec_create(&self, id: &ContainerId, _: ExecSpec) -> Result<ExecId, AgentError> {
        Err(AgentError::NotRunning(id.clone()))
    }
    async fn exec_start(&self, id: &ExecId, _: Option<(u16, u16)>) -> Result<Attached, AgentError> {
        Err(AgentError::NoSuchExec(id.clone()))
    }
    async fn exec_resize(&self, id: &ExecId, _: u16, _: u16) -> Result<(), AgentError> {
        Err(AgentError::NoSuchExec(id.clone()))
    }
    async fn exec_status(&self, id: &ExecId) -> Result<ExecStatus, AgentError> {
        Err(AgentError::NoSuchExec(id.clone()))
    }
    async fn execs(&self, _: &ContainerId) -> Vec<ExecId> {
        vec![]
    }
    async fn node(&self) -> NodeInfo {
        NodeInfo::default()
    }
}

struct Node {
    controller: Controller,
    agent: Arc<FakeAgent>,
    starts: mpsc::UnboundedReceiver<ContainerId>,
    events: Subscriber,
}

const IMAGE: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000aa";

fn owner() -> Tenant {
    "owner".parse().unwrap()
}

async fn node_deaf_to(dir: &Path, deaf_to: i32) -> Node {
    let watchers = Arc::new(Watchers::default());
    let replica = Replica::open(dir, 1, Arc::<Watchers>::clone(&watchers))
        .await
        .unwrap();
    let images = hearth_image::Store::open(&dir.join("images"), Default::default())
        .await
        .unwrap();
    let (sink, exits) = Reporter::new(replica.clone());
    let (to, starts) = mpsc::unbounded_channel();
    let agent = Arc::new(FakeAgent {
        sink: Arc::new(sink),
        running: Mutex::default(),
        may_start: Semaphore::new(Semaphore::MAX_PERMITS),
        files: Mutex::default(),
        starts: to,
        deaf_to,
    });
    let controller = Controller::new(
        replica,
        watchers,
        Arc::<FakeAgent>::clone(&agent),
        images,
        exits,
    );
    let image = Command::AddImage {
        tenant: owner(),
        at_ns: 0,
        image: IMAGE.into(),
        names: vec!["busybox:latest".into()],
        repo_digest: None,
        action: Action::Load,
    };
    controller.propose(image).await.unwrap();
    let events = controller.events(&owner(), false);
    Node {
        controller,
        agent,
        starts,
        events,
    }
}

async fn node(dir: &Path) -> Node {
    node_deaf_to(dir, 0).await
}

/// Returns once something is so that other tasks make so.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::task::yield_now().await;
    }
}

impl Node {
    async fn create(&self, command: &str, change: impl FnOnce(&mut ContainerSpec)) -> ContainerId {
        let mut spec = ContainerSpec {
            command: vec![command.into()],
            ..Default::default()
        };
        change(&mut spec);
        self.controller
            .create(&owner(), None, IMAGE, "busybox", spec)
            .await
            .unwrap()
    }

    async fn next_events(&mut self, count: usize) -> Vec<String> {
        let mut actions = Vec::new();
        for _ in 0..count {
            actions.push(self.events.next().await.unwrap().action.to_string());
        }
        actions
    }
}

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
    assert!(node.controller.find(&owner(), id.as_str()).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_start_is_an_exit_with_a_code_and_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node(dir.path()).await;
    let id = node.create("missing", |_| {}).await;
    let next = node.controller.wait(&id, WaitCondition::NextExit);
    let error = node.controller.start(&id).await.unwrap_err();
    assert!(
        matches!(error, Error::Agent(AgentError::Start { code: 127, .. })),
        "{error}"
    );
    assert_eq!(next.await.unwrap().code, 127);
    let status = node.controller.find(&owner(), id.short()).unwrap().status;
    assert_eq!(
        (status.phase, status.error.as_str()),
        (Phase::Exited, "not there")
    );
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
    let container = node.controller.find(&owner(), id.as_str()).unwrap();
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
        let status = node.controller.find(&owner(), id.as_str()).unwrap().status;
        assert_eq!(status.exit.code, 128 + number, "{written:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_restarts_until_its_limit_and_a_stop_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node(dir.path()).await;
    let id = node
        .create("1", |spec| {
            spec.restart = RestartPolicy::OnFailure { maximum_retries: 2 }
        })
        .await;
    node.controller.start(&id).await.unwrap();
    for _ in 0..3 {
        assert_eq!(node.starts.recv().await.as_ref(), Some(&id));
    }
    until(|| !node.controller.find(&owner(), id.as_str()).unwrap().is_up()).await;
    assert_eq!(
        node.controller
            .find(&owner(), id.as_str())
            .unwrap()
            .status
            .restarts,
        2
    );
    let always = node
        .create("0", |spec| spec.restart = RestartPolicy::Always)
        .await;
    node.controller.start(&always).await.unwrap();
    for _ in 0..2 {
        assert_eq!(node.starts.recv().await.as_ref(), Some(&always));
    }
    node.controller.stop(&always, None, None).await.unwrap();
    assert!(
        node.controller
            .find(&owner(), always.as_str())
            .unwrap()
            .status
            .stopped_by_user
    );
    // Another try that was on its way when the stop came finds that it isn't wanted.
    until(|| node.controller.restarts().is_empty()).await;
    let container = node.controller.find(&owner(), always.as_str()).unwrap();
    assert!(!container.is_up());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_a_container_that_would_be_removed_at_its_exit() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node(dir.path()).await;
    let id = node.create("run", |spec| spec.auto_remove = true).await;
    node.controller.start(&id).await.unwrap();
    node.controller.restart(&id, None, None).await.unwrap();
    assert!(node.controller.find(&owner(), id.as_str()).unwrap().is_up());
    assert_eq!(
        node.next_events(7).await,
        ["create", "start", "kill", "die", "stop", "start", "restart"]
    );
    node.controller.remove(&id, true).await.unwrap();
    assert!(node.agent.files.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_that_overlap_keep_a_container_that_would_be_removed_at_its_exit() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let id = node.create("run", |spec| spec.auto_remove = true).await;
    node.controller.start(&id).await.unwrap();
    let restart = || {
        let (controller, id) = (node.controller.clone(), id.clone());
        tokio::spawn(async move { controller.restart(&id, None, None).await })
    };
    node.agent.may_start.forget_permits(Semaphore::MAX_PERMITS);
    let first = restart();
    let starting = || node.controller.is_starting(&id);
    until(starting).await;
    // It waits for the first's start, and stops what that has started.
    let second = restart();
    until(|| node.controller.restarting().get(&id) == Some(&2)).await;
    node.agent.may_start.add_permits(1);
    first.await.unwrap().unwrap();
    until(starting).await;
    node.agent.may_start.add_permits(1);
    second.await.unwrap().unwrap();
    let container = node.controller.find(&owner(), id.as_str()).unwrap();
    assert!(container.is_up());
    assert!(node.controller.restarting().is_empty());
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
async fn sigkill_is_answered_when_the_exit_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    for _ in 0..20 {
        let id = node.create("run", |_| {}).await;
        node.controller.start(&id).await.unwrap();
        node.controller.kill(&id, Signal::KILL).await.unwrap();
        let container = node.controller.find(&owner(), id.as_str()).unwrap();
        assert_eq!(
            (container.is_up(), container.status.exit.code),
            (false, 137)
        );
        let again = node.controller.kill(&id, Signal::KILL).await;
        assert!(matches!(again, Err(Error::Refused(Refusal::NotRunning(_)))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_during_the_boot_is_heard_by_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let id = node.create("run", |_| {}).await;
    node.agent.may_start.forget_permits(Semaphore::MAX_PERMITS);
    let start = {
        let (controller, id) = (node.controller.clone(), id.clone());
        tokio::spawn(async move { controller.start(&id).await })
    };
    until(|| node.controller.is_starting(&id)).await;
    let stop = node.controller.stop(&id, Some(3600), None);
    let mut stop = std::pin::pin!(stop);
    assert!(futures_util::poll!(&mut stop).is_pending());
    node.agent.may_start.add_permits(1);
    assert!(stop.await.unwrap());
    assert!(start.await.unwrap().unwrap());
    let status = node.controller.find(&owner(), id.as_str()).unwrap().status;
    assert_eq!(status.exit.code, 128 + 15);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_two_runs_of_a_policy_a_container_counts_as_running_until_it_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    // Stop, kill, and removal by force.
    for ending in 0..3 {
        let id = node
            .create("1", |spec| spec.restart = RestartPolicy::Always)
            .await;
        node.controller.start(&id).await.unwrap();
        // Each exit leads to another start, in a while; one that was forgotten is as good as one that is far away.
        until(|| {
            node.controller.forget_restart(&id);
            let container = node.controller.find(&owner(), id.as_str()).unwrap();
            container.awaits_restart() && node.agent.running.lock().unwrap().is_empty()
        })
        .await;
        let mut down = Box::pin(node.controller.wait(&id, WaitCondition::NotRunning));
        assert!(futures_util::poll!(&mut down).is_pending());
        match ending {
            0 => assert!(node.controller.stop(&id, None, None).await.unwrap()),
            1 => node.controller.kill(&id, Signal::KILL).await.unwrap(),
            _ => node.controller.remove(&id, true).await.unwrap(),
        }
        assert_eq!(down.await.unwrap().code, 1);
        if ending < 2 {
            let container = node.controller.find(&owner(), id.as_str()).unwrap();
            assert!(!container.awaits_restart() && !container.is_up());
            assert!(!node.controller.stop(&id, None, None).await.unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_runs_is_only_removed_by_force() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let id = node.create("run", |_| {}).await;
    node.controller.start(&id).await.unwrap();
    assert!(matches!(
        node.controller.remove(&id, false).await,
        Err(Error::Refused(Refusal::Running(_)))
    ));
    node.controller.remove(&id, true).await.unwrap();
    assert!(node.controller.state().containers.iter().next().is_none());
    assert!(node.agent.files.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_creation_leaves_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let (name, owner): (ContainerName, Tenant) = ("mine".parse().unwrap(), owner());
    let create = |image: &'static str| {
        node.controller.create(
            &owner,
            Some(name.clone()),
            image,
            "busybox",
            ContainerSpec::default(),
        )
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
    assert_eq!(*node.agent.files.lock().unwrap(), BTreeSet::from([first]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_the_lost_are_killed_the_wanted_started_and_the_rest_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (lost, kept, wanted, stopped);
    {
        let node = node(dir.path()).await;
        lost = node.create("run", |_| {}).await;
        kept = node.create("run", |_| {}).await;
        wanted = node
            .create("run", |spec| spec.restart = RestartPolicy::UnlessStopped)
            .await;
        stopped = node
            .create("run", |spec| spec.restart = RestartPolicy::UnlessStopped)
            .await;
        for id in [&lost, &kept, &wanted, &stopped] {
            node.controller.start(id).await.unwrap();
        }
        node.controller.stop(&stopped, None, None).await.unwrap();
        node.controller.flush().await;
    }
    let mut node = node(dir.path()).await;
    node.controller
        .reconcile(&BTreeSet::from([kept.clone()]), true)
        .await;
    assert_eq!(node.starts.recv().await, Some(wanted.clone()));
    let status = |id: &ContainerId| node.controller.find(&owner(), id.as_str()).unwrap().status;
    assert_eq!(
        (status(&lost).phase, status(&lost).exit.code),
        (Phase::Exited, 137)
    );
    assert_eq!(status(&kept).phase, Phase::Running);
    assert_eq!(status(&wanted).phase, Phase::Running);
    assert_eq!(status(&stopped).phase, Phase::Exited);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_going_down_stops_everything_and_restarts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    for _ in 0..3 {
        let id = node
            .create("run", |spec| spec.restart = RestartPolicy::UnlessStopped)
            .await;
        node.controller.start(&id).await.unwrap();
    }
    node.controller.close().await;
    assert!(node.agent.running.lock().unwrap().is_empty());
    let state = node.controller.state();
    assert!(
        state
            .containers
            .iter()
            .all(|c| !c.is_up() && !c.status.stopped_by_user)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_are_found_by_id_prefix_and_name_within_the_tenant_only() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let id = node.create("run", |_| {}).await;
    let name = node.controller.find(&owner(), id.as_str()).unwrap().name;
    for text in [id.as_str(), id.short(), name.as_str(), &format!("/{name}")] {
        assert_eq!(
            node.controller.find(&owner(), text).unwrap().id,
            id,
            "{text}"
        );
        assert!(
            node.controller
                .find(&"other".parse().unwrap(), text)
                .is_err(),
            "{text}"
        );
    }
    assert!(node.controller.find(&owner(), "").is_err());
}

/// An archive of `docker save` with two images, of which the second has a layer.
fn two_images() -> Vec<u8> {
    let layer = vec![0; 1024];
    let config = |layers: &[String]| {
        serde_json::json!({ "rootfs": { "type": "layers", "diff_ids": layers } }).to_string()
    };
    let digest = hearth_image::Digest::of(&layer).to_string();
    let manifest =
        r#"[{"Config":"a","RepoTags":["a:1"]},{"Config":"b","RepoTags":["b:1"],"Layers":["l"]}]"#;
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in [
        ("a", config(&[]).as_bytes()),
        ("b", config(&[digest]).as_bytes()),
        ("l", layer.as_slice()),
        ("manifest.json", manifest.as_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content).unwrap();
    }
    tar.into_inner().unwrap()
}

#[tokio::test]
async fn a_load_that_is_given_up_leaves_no_image_that_nobody_has() {
    let dir = tempfile::tempdir().unwrap();
    let controller = node(dir.path()).await.controller;
    let archive = two_images();
    let begun = tokio::sync::Notify::new();
    // The second image's layer is heard of when the first image is stored.
    let mut hear = |_| begun.notify_one();
    let owner = owner();
    tokio::select! {
        biased;
        () = begun.notified() => {}
        _ = controller.load(&owner, archive.as_slice(), &mut hear) => {
            panic!("it was meant to be given up")
        }
    }
    controller.flush().await;
    let left = controller.inner.images.store.list().await.unwrap();
    assert!(
        left.iter().all(|image| !image.diff_ids().is_empty()),
        "{left:?}"
    );
}

#[tokio::test]
async fn the_images_of_an_archive_are_the_tenants_and_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let controller = node(dir.path()).await.controller;
    let archive = two_images();
    let (owner, mut quiet) = (owner(), |_| {});
    let load = controller.load(&owner, archive.as_slice(), &mut quiet);
    let (loaded, done) = load.await;
    done.unwrap();
    let names: Vec<_> = loaded.iter().map(|image| image.names.join(" ")).collect();
    assert_eq!(names, ["a:1", "b:1"]);
    controller.collect_unowned_images().await.unwrap();
    let held = controller.inner.images.store.list().await.unwrap();
    assert_eq!(held.len(), 2);
    let state = controller.state();
    let owned = |id: String| state.images.contains_key(&(owner.clone(), id));
    assert!(held.iter().all(|image| owned(image.id.to_string())));
}
