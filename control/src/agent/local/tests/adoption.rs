//! What a new process makes of what the old one has left.

use super::*;
use crate::state::Phase;

#[test]
fn a_new_agent_finds_what_runs_and_neither_loses_nor_repeats_output() {
    let dir = tempfile::tempdir().unwrap();
    let container = container(&["wait"]);
    let id = &container.id;
    let mut up = container.clone();
    let status = &mut Arc::make_mut(&mut up.container).status;
    (status.phase, status.run) = (Phase::Running, RUN);
    let first = runtime();
    first.block_on(async {
        let node = node(dir.path()).await;
        start(&node.agent, &container, vec![port()]).await.unwrap();
        node.agent.signal(id, signal(10)).await.unwrap();
        node.agent.signal(id, signal(10)).await.unwrap();
    });
    // As `kill -9` of the process: its tasks and sockets are gone, nothing was said to anybody.
    first.shutdown_background();
    runtime().block_on(async {
        let mut node = node(dir.path()).await;
        node.agent.adopt(std::slice::from_ref(&up)).await;
        assert_eq!(node.agent.running(id), Some(RUN));
        assert_eq!(
            node.network.0.lock().unwrap().last(),
            Some(&1),
            "its port is published"
        );
        let options = LogOptions {
            follow: true,
            stdout: true,
            ..Default::default()
        };
        let mut follower = node.agent.logs(id, options).await.unwrap();
        node.agent.signal(id, signal(10)).await.unwrap();
        node.agent.signal(id, signal(15)).await.unwrap();
        assert_eq!(node.reports.recv().await, exited(143));
        let mut followed = String::new();
        while let Some(record) = follower.next().await {
            followed.push_str(std::str::from_utf8(&record.unwrap().data).unwrap());
        }
        assert_eq!(followed, "ready\ntick\ntick\ntick\n");
        node.agent.idle().await;
        assert!(!paths(dir.path()).pod(id).exists());
    });
}

#[test]
fn what_should_not_run_is_ended_and_what_does_not_run_is_cleared_away() {
    let dir = tempfile::tempdir().unwrap();
    let container = container(&["wait"]);
    let first = runtime();
    let pid = first.block_on(async {
        let node = node(dir.path()).await;
        start(&node.agent, &container, vec![]).await.unwrap();
        let pid = monitor_of(dir.path(), &container.id);
        let stale = ContainerId::from_random([8; 32]);
        std::fs::create_dir_all(paths(dir.path()).pod(&stale)).unwrap();
        let stale = format!("{stale}@1");
        std::fs::create_dir_all(paths(dir.path()).containers.join(stale)).unwrap();
        pid
    });
    first.shutdown_background();
    runtime().block_on(async {
        let node = node(dir.path()).await;
        node.agent.adopt(&[]).await;
        assert_eq!(node.agent.running(&container.id), None);
        node.agent
            .sweep(vec![(container.id, container.layer_in(1))])
            .await;
        assert_eq!(
            std::fs::read_dir(dir.path().join("pods")).unwrap().count(),
            0
        );
        // The container's layer, the link to it, and the template.
        assert_eq!(
            std::fs::read_dir(dir.path().join("containers"))
                .unwrap()
                .count(),
            3
        );
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        let gone = rustix::process::test_kill_process(pid).is_err()
            || std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
                .unwrap()
                .contains(" Z ");
        assert!(gone);
    });
}

#[test]
fn a_monitor_that_names_another_process_gets_nobody_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut innocent = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let container = container(&["impostor", &innocent.id().to_string()]);
    let first = runtime();
    let monitor = first.block_on(async {
        let node = node(dir.path()).await;
        start(&node.agent, &container, vec![]).await.unwrap();
        monitor_of(dir.path(), &container.id)
    });
    first.shutdown_background();
    let alive = runtime().block_on(async {
        let node = node(dir.path()).await;
        node.agent.adopt(&[]).await;
        innocent.try_wait().unwrap().is_none()
    });
    innocent.kill().unwrap();
    innocent.wait().unwrap();
    assert!(
        alive,
        "a process was killed because a monitor claimed to be it"
    );
    let pid = rustix::process::Pid::from_raw(monitor as i32).unwrap();
    let gone = rustix::process::test_kill_process(pid).is_err()
        || std::fs::read_to_string(format!("/proc/{monitor}/stat"))
            .unwrap()
            .contains(" Z ");
    assert!(gone, "the monitor itself lives");
}

#[test]
fn a_number_that_has_gone_to_another_process_is_nobodys_monitor() {
    let dir = tempfile::tempdir().unwrap();
    let mut innocent = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let pid = innocent.id();
    runtime().block_on(async {
        // As the kernel shows a group whose process has ended, whatever a record says.
        std::fs::write(dir.path().join("cgroup.procs"), "").unwrap();
        assert!(Monitor::adopt(dir.path()).is_err());
        std::fs::write(dir.path().join("cgroup.procs"), pid.to_string()).unwrap();
        assert_eq!(Monitor::adopt(dir.path()).unwrap().pid, pid);
    });
    innocent.kill().unwrap();
    innocent.wait().unwrap();
}

#[test]
fn a_run_whose_start_was_not_committed_is_taken_up_and_one_that_is_over_is_not() {
    let container = container(&["wait"]);
    let id = &container.id;
    let later = RunNumber { number: 2, ..RUN };
    for (phase, run, epoch, taken_up) in [
        (Phase::Created, RunNumber::default(), 1, true),
        (Phase::Running, RUN, 1, true),
        (Phase::Exited, RUN, 1, false),
        (Phase::Exited, later, 1, false),
        (Phase::Running, RUN, 2, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let first = runtime();
        first.block_on(async {
            let node = node(dir.path()).await;
            start(&node.agent, &container, vec![]).await.unwrap();
        });
        first.shutdown_background();
        let mut known = container.clone();
        let status = &mut Arc::make_mut(&mut known.container).status;
        (status.phase, status.run) = (phase, run);
        Arc::make_mut(&mut known.pod).epoch = epoch;
        runtime().block_on(async {
            let mut node = node(dir.path()).await;
            node.agent.adopt(std::slice::from_ref(&known)).await;
            assert_eq!(
                node.agent.running(id).is_some(),
                taken_up,
                "{phase:?} {run:?}"
            );
            if taken_up {
                if run < RUN {
                    assert_eq!(node.reports.recv().await, Some(Report::Started(RUN)));
                }
                node.agent.destroy(id).await;
                assert_eq!(node.reports.recv().await, exited(137));
            }
            node.agent.idle().await;
            assert_eq!(node.agent.running(id), None);
            assert!(!paths(dir.path()).pod(id).exists());
        });
    }
}
