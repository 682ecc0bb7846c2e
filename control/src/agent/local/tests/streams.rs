//! What goes in and out of a container: output, input, execs.

use super::*;

#[test]
fn a_run_is_logged_shown_and_reported_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let container = container(&["print", "500"]);
        let id = &container.id;
        node.agent.prepare(&container).await.unwrap();
        for runs in 1..=2 {
            let attached = node.agent.attach(id, false).await.unwrap();
            start(&node.agent, &container, vec![port()]).await.unwrap();
            let shown = everything(attached).await;
            assert_eq!(node.reports.recv().await, Some(Report::Started(RUN)));
            assert_eq!(node.reports.recv().await, exited(0));
            let expected: String = (0..500).map(|n| format!("line {n}\n")).collect();
            assert_eq!(shown, expected.as_bytes());
            let mut log = logged(&node.agent, id)
                .await
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>();
            assert_eq!(log.len(), 500 * runs);
            log.sort();
            log.dedup();
            assert_eq!(log.len(), 500);
        }
        node.agent.idle().await;
        let network = node.network.0.lock().unwrap().clone();
        assert_eq!(
            network,
            [1, 0, 1, 0],
            "published at each start and no longer at each exit"
        );
        assert!(!paths(dir.path()).pod(id).exists());
        assert!(matches!(
            node.agent.signal(id, signal(15)).await,
            Err(AgentError::NotRunning(_))
        ));
        node.agent.discard(id, &[]).await.unwrap();
        assert!(!paths(dir.path()).container(id).exists());
        node.agent.discard(id, &[]).await.unwrap();
    });
}

#[test]
fn a_line_that_drops_again_and_again_costs_neither_output_nor_the_container() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let container = container(&["drop-line", "8"]);
        start(&node.agent, &container, vec![]).await.unwrap();
        assert_eq!(node.reports.recv().await, Some(Report::Started(RUN)));
        assert_eq!(node.reports.recv().await, exited(3));
        let expected: String = (0..8).map(|n| format!("line {n}\n")).collect();
        assert_eq!(logged(&node.agent, &container.id).await, expected);
        node.agent.idle().await;
    });
}

#[test]
fn stdin_sent_before_the_start_arrives_and_its_end_ends_the_process() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let container = container(&["cat"]);
        node.agent.prepare(&container).await.unwrap();
        let mut attached = node.agent.attach(&container.id, true).await.unwrap();
        let input = attached.input.take().unwrap();
        input.send("one ".into()).await.unwrap();
        start(&node.agent, &container, vec![]).await.unwrap();
        input.send("two".into()).await.unwrap();
        drop(input);
        assert_eq!(everything(attached).await, b"one two");
        assert_eq!(node.reports.recv().await, Some(Report::Started(RUN)));
        assert_eq!(node.reports.recv().await, exited(0));
        assert_eq!(logged(&node.agent, &container.id).await, "one two");
        node.agent.idle().await;
    });
}

#[test]
fn a_client_that_reads_nothing_holds_up_the_output_but_not_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let container = container(&["flood", "1000"]);
        node.agent.prepare(&container).await.unwrap();
        let attached = node.agent.attach(&container.id, false).await.unwrap();
        start(&node.agent, &container, vec![]).await.unwrap();
        assert_eq!(node.reports.recv().await, Some(Report::Started(RUN)));
        node.agent.signal(&container.id, signal(9)).await.unwrap();
        assert_eq!(node.reports.recv().await, exited(137));
        drop(attached);
        node.agent.idle().await;
        assert_eq!(logged(&node.agent, &container.id).await.len(), 8192 * 1000);
    });
}

#[test]
fn an_exec_has_output_and_an_exit_code_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let container = container(&["wait"]);
        start(&node.agent, &container, vec![]).await.unwrap();
        let spec = ExecSpec {
            args: vec!["a".into(), "b".into()],
            ..Default::default()
        };
        assert_eq!(node.reports.recv().await, Some(Report::Started(RUN)));
        let exec = node.agent.exec_create(&container.id, spec).await.unwrap();
        let attached = node.agent.exec_start(&exec, None).await.unwrap();
        assert!(matches!(
            node.agent.exec_start(&exec, None).await,
            Err(AgentError::ExecStarted(_))
        ));
        assert_eq!(everything(attached).await, b"a b");
        let status = node.agent.exec_status(&exec).await.unwrap();
        assert_eq!(
            (status.running, status.exit_code, status.pid),
            (false, Some(7), 3)
        );
        let line = "a b".to_owned();
        for what in [
            What::ExecCreated {
                exec: exec.clone(),
                line: line.clone(),
            },
            What::ExecStarted {
                exec: exec.clone(),
                line,
            },
            What::ExecDied { exec, code: 7 },
        ] {
            assert_eq!(node.reports.recv().await, Some(Report::Happened(what)));
        }
        node.agent.signal(&container.id, signal(15)).await.unwrap();
        assert_eq!(node.reports.recv().await, exited(143));
        node.agent.idle().await;
    });
}

#[test]
fn a_containers_execs_are_bounded_and_those_that_ended_make_room_for_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let node = node(dir.path()).await;
        let container = container(&["wait"]);
        start(&node.agent, &container, vec![]).await.unwrap();
        let create = || {
            let spec = ExecSpec {
                args: vec!["a".into()],
                ..Default::default()
            };
            node.agent.exec_create(&container.id, spec)
        };
        let mut made = Vec::new();
        let refused = loop {
            match create().await {
                Ok(exec) => made.push(exec),
                Err(error) => break error,
            }
        };
        assert!(
            matches!(refused, AgentError::TooMany { limit, .. } if limit == made.len()),
            "{refused}"
        );
        let attached = node.agent.exec_start(&made[0], None).await.unwrap();
        everything(attached).await;
        assert!(node.agent.exec_status(&made[0]).await.is_ok());
        let newest = create().await.unwrap();
        assert!(matches!(
            node.agent.exec_status(&made[0]).await,
            Err(AgentError::NoSuchExec(_))
        ));
        assert!(node.agent.exec_status(&newest).await.is_ok());
        assert!(create().await.is_err());
        node.agent.signal(&container.id, signal(9)).await.unwrap();
        node.agent.idle().await;
    });
}

#[test]
fn output_is_counted_here_whatever_a_guest_says_of_its_place() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        let container = container(&["leap"]);
        start(&node.agent, &container, vec![]).await.unwrap();
        assert_eq!(node.reports.recv().await, Some(Report::Started(RUN)));
        assert_eq!(node.reports.recv().await, exited(0));
        assert_eq!(logged(&node.agent, &container.id).await, "one two");
        node.agent.idle().await;
    });
}

#[test]
fn a_container_without_files_has_an_empty_log_and_can_be_attached_to() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let node = node(dir.path()).await;
        let container = container(&["print", "1"]);
        let id = &container.id;
        let follow = LogOptions {
            follow: true,
            stdout: true,
            tail: Some(1),
            ..Default::default()
        };
        let followed: Vec<_> = node.agent.logs(id, follow).await.unwrap().collect().await;
        assert!(followed.is_empty());
        assert_eq!(logged(&node.agent, id).await, "");
        assert_eq!(node.agent.written_bytes(id).await.unwrap(), 0);
        assert_eq!(node.agent.present().await, []);
        let attached = node.agent.attach(id, false).await.unwrap();
        start(&node.agent, &container, vec![]).await.unwrap();
        assert_eq!(everything(attached).await, b"line 0\n");
        assert_eq!(logged(&node.agent, id).await, "line 0\n");
        node.agent.idle().await;
    });
}
