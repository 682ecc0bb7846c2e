//! Runs, from their start to what is left of them.

use super::*;

#[test]
fn a_container_whose_port_cannot_be_had_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let node = node(dir.path()).await;
        let container = container(&["cat"]);
        node.agent.prepare(&container).await.unwrap();
        let refused = PortBinding {
            host_port: REFUSED_PORT,
            ..port()
        };
        let elsewhere = PortBinding {
            host_ip: Some(ELSEWHERE),
            ..port()
        };
        for (port, words) in [
            (refused, "changing the rules"),
            (
                elsewhere,
                "failed to bind host port 192.0.2.7:8080: cannot assign requested address",
            ),
        ] {
            let error = start(&node.agent, &container, vec![port])
                .await
                .unwrap_err();
            let error = error.to_string();
            assert!(
                error.starts_with("driver failed programming external connectivity: ")
                    && error.contains(words),
                "{error}"
            );
            assert!(!paths(dir.path()).pod(&container.id).exists());
        }
        start(&node.agent, &container, vec![port()]).await.unwrap();
        node.agent
            .signal(&container.id, Signal::KILL)
            .await
            .unwrap();
        node.agent.idle().await;
    });
}

#[test]
fn a_program_that_is_not_there_is_an_error_with_dockers_code() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let node = node(dir.path()).await;
        let container = container(&["no-such-program"]);
        node.agent.prepare(&container).await.unwrap();
        let attached = node.agent.attach(&container.id, true).await.unwrap();
        let error = start(&node.agent, &container, vec![]).await.unwrap_err();
        assert!(matches!(&error, AgentError::Start { code: 127, message } if message.contains("no-such-program")), "{error:?}");
        assert_eq!(everything(attached).await, b"", "attached clients are let go");
        assert!(!paths(dir.path()).pod(&container.id).exists());
    });
}

#[test]
fn a_monitor_that_dies_is_an_exit_by_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let container = container(&["crash"]);
        // Whether the crash is seen before or after the start is known is a matter of luck.
        if start(&node.agent, &container, vec![]).await.is_ok() {
            assert_eq!(node.reports.recv().await, Some(Report::Started(RUN)));
            assert_eq!(node.reports.recv().await, exited(137));
        }
        node.agent.idle().await;
        assert!(!paths(dir.path()).pod(&container.id).exists());
    });
}

#[test]
fn wants_of_memory_are_reported_before_the_exit_and_a_flood_of_them_together() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let container = container(&["hog", "10000"]);
        start(&node.agent, &container, vec![]).await.unwrap();
        let mut told = Vec::new();
        let end = loop {
            match node.reports.recv().await {
                Some(Report::OutOfMemory(kills)) => told.push(kills),
                Some(Report::Started(RUN)) => {}
                end => break end,
            }
        };
        assert_eq!(end, exited(0));
        assert!(told.is_sorted(), "{told:?}");
        assert_eq!(told.last(), Some(&10_000), "the last one is told");
        assert!(told.len() < 1000, "{} commits", told.len());
        node.agent.idle().await;
    });
}

#[test]
fn a_signal_during_the_boot_reaches_the_process_once_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let may_run = dir.path().join("may-run");
        let container = container(&["slow", may_run.to_str().unwrap()]);
        let id = &container.id;
        let mut signalling = Box::pin(node.agent.signal(id, signal(15)));
        let mut starting = Box::pin(start(&node.agent, &container, vec![]));
        // It begins first, and waits for its microVM; then the signal waits for it.
        assert!(futures_util::poll!(&mut starting).is_pending());
        assert!(futures_util::poll!(&mut signalling).is_pending());
        std::fs::write(may_run, "").unwrap();
        let (started, signalled) = tokio::join!(starting, signalling);
        started.unwrap();
        signalled.unwrap();
        assert_eq!(node.reports.recv().await, Some(Report::Started(RUN)));
        assert_eq!(node.reports.recv().await, exited(143));
        // One that never runs is told so.
        let container = self::container(&["no-such-program"]);
        let mut starting = Box::pin(start(&node.agent, &container, vec![]));
        let mut signalling = Box::pin(node.agent.signal(id, signal(15)));
        assert!(futures_util::poll!(&mut starting).is_pending());
        let (started, signalled) = tokio::join!(starting, &mut signalling);
        started.unwrap_err();
        assert!(matches!(signalled, Err(AgentError::NotRunning(_))));
    });
}

#[test]
fn a_pod_that_has_no_walls_is_not_started() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let node = node(dir.path()).await;
        std::fs::write(paths(dir.path()).cgroup, "no directory").unwrap();
        let container = container(&["wait"]);
        let error = start(&node.agent, &container, vec![]).await.unwrap_err();
        assert!(error.to_string().contains("control group"), "{error}");
        assert!(!paths(dir.path()).pod(&container.id).exists());
    });
}

#[test]
fn a_monitor_that_the_kernel_ends_for_want_of_memory_is_a_container_that_ran_out_of_it() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let container = container(&["wait"]);
        start(&node.agent, &container, vec![]).await.unwrap();
        assert_eq!(node.reports.recv().await, Some(Report::Started(RUN)));
        let group = paths(dir.path()).pod_cgroup(&container.id);
        std::fs::write(group.join("memory.events"), "oom 1\noom_kill 1\n").unwrap();
        let pid = monitor_of(dir.path(), &container.id);
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let exit = Exit {
            code: 137,
            oom_killed: true,
        };
        assert_eq!(node.reports.recv().await, Some(Report::Exited(exit)));
        node.agent.idle().await;
    });
}

#[test]
fn a_guests_reason_is_kept_as_far_as_one_can_be() {
    let error = GuestError::Refused(Refusal::NotFound {
        program: "ä".repeat(1 << 20),
        reason: String::new(),
    });
    let AgentError::Start { message, code } = start_error(error) else {
        panic!("it is a failed start");
    };
    assert_eq!(code, 127);
    assert!((MESSAGE_MAX - 1..=MESSAGE_MAX).contains(&message.len()));
}

#[test]
fn a_container_that_comes_again_begins_with_a_fresh_layer_and_an_empty_log() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let node = node(dir.path()).await;
        let mut container = container(&["print", "1"]);
        let id = container.id;
        start(&node.agent, &container, vec![]).await.unwrap();
        node.agent.idle().await;
        assert_eq!(node.agent.present().await, [id]);
        let layer = |epoch| paths(dir.path()).containers.join(format!("{id}@{epoch}"));
        // What it has written is another container's now.
        let kept = container.layer_in(1);
        node.agent.discard(&id, &[kept]).await.unwrap();
        assert_eq!(node.agent.present().await, []);
        assert!(layer(1).join("log").exists());
        Arc::make_mut(&mut container.pod).epoch = 3;
        node.agent.prepare(&container).await.unwrap();
        assert_eq!(logged(&node.agent, &id).await, "");
        let mut other = Container::sample(8);
        other.layer = Some(kept);
        let other = Placed {
            container: other.into(),
            pod: PodState::sample(8).into(),
        };
        node.agent.prepare(&other).await.unwrap();
        assert_eq!(logged(&node.agent, &other.id).await, "line 0\n");
        node.agent
            .discard(&other.id, &[container.layer_in(3)])
            .await
            .unwrap();
        assert!(!layer(1).exists() && layer(3).exists());
    });
}
