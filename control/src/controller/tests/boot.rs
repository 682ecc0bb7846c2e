//! The end of a control process, in order and otherwise, and what the next one makes of what it finds.

use std::path::Path;
use std::sync::Arc;

use super::super::*;
use super::fake::Machine;
use super::node::{Node, node, on, owner, until};
use crate::state::{Phase, RestartPolicy};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Runs a control process until `work` is done, and kills it: nothing of it is told to anybody.
fn killed_after<T>(
    dir: &Path,
    machine: &Arc<Machine>,
    work: impl AsyncFnOnce(&mut Node) -> T,
) -> T {
    let process = runtime();
    let done = process.block_on(async {
        let mut node = on(dir, Arc::clone(machine), false).await;
        work(&mut node).await
    });
    process.shutdown_background();
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_power_cut_the_lost_are_killed_the_wanted_started_and_the_rest_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (lost, wanted, stopped, always, machine);
    {
        let node = node(dir.path()).await;
        let with = |restart: RestartPolicy| node.create("run", |spec| spec.restart = restart);
        lost = with(RestartPolicy::No).await;
        wanted = with(RestartPolicy::UnlessStopped).await;
        stopped = with(RestartPolicy::UnlessStopped).await;
        always = with(RestartPolicy::Always).await;
        for id in [&lost, &wanted, &stopped, &always] {
            node.controller.start(id).await.unwrap();
        }
        for id in [&stopped, &always] {
            node.controller.stop(id, None, None).await.unwrap();
        }
        machine = Arc::clone(&node.machine);
        node.controller.close();
        node.controller.flush().await;
        machine.lose_power();
    }
    let node = on(dir.path(), machine, true).await;
    let container = node.find(&lost);
    assert_eq!(
        (container.phase(), container.status.exit.code),
        (Phase::Exited, 137)
    );
    let runs = |id| node.find(id).status.phase == Phase::Running;
    until(|| runs(&wanted) && runs(&always)).await;
    assert!(!runs(&stopped) && !node.find(&stopped).awaits_restart());
    assert_eq!(node.machine.started().len(), 6);
}

#[test]
fn what_was_about_to_run_at_a_power_cut_counts_as_lost_and_only_a_policy_has_it_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::new();
    machine.hold_starts();
    let (plain, removed, always) = killed_after(dir.path(), &machine, async |node| {
        let plain = node.create("run", |_| {}).await;
        let removed = node.create("run", |spec| spec.auto_remove = true).await;
        let always = node
            .create("run", |spec| spec.restart = RestartPolicy::Always)
            .await;
        for id in [plain, removed, always] {
            let controller = node.controller.clone();
            tokio::spawn(async move { controller.start(&id).await });
        }
        until(|| node.machine.starts() == 3).await;
        (plain, removed, always)
    });
    machine.lose_power();
    machine.may_start.add_permits(8);
    let process = runtime();
    process.block_on(async {
        let node = on(dir.path(), Arc::clone(&machine), true).await;
        until(|| node.find(&always).status.phase == Phase::Running).await;
        let container = node.find(&plain);
        assert_eq!(
            (container.phase(), container.status.exit.code),
            (Phase::Exited, 137)
        );
        assert!(
            node.controller
                .find(&owner(), &removed.to_string())
                .is_err()
        );
        assert_eq!(machine.started(), [always]);
    });
}

#[test]
fn what_goes_on_without_control_is_taken_up_and_what_ended_meanwhile_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::new();
    let (kept, ended) = killed_after(dir.path(), &machine, async |node| {
        let always = |spec: &mut ContainerSpec| spec.restart = RestartPolicy::Always;
        let (kept, ended) = (
            node.create("run", always).await,
            node.create("run", |_| {}).await,
        );
        for id in [&kept, &ended] {
            node.controller.start(id).await.unwrap();
        }
        (kept, ended)
    });
    machine.exit(&ended, 7);
    killed_after(dir.path(), &machine, async |node| {
        until(|| node.find(&ended).phase() == Phase::Exited).await;
        assert_eq!(node.find(&ended).status.exit.code, 7);
        assert_eq!(node.find(&kept).status.run.number, 1);
        assert!(node.machine.runs(&kept));
        assert_eq!(node.machine.started().len(), 2, "nothing was started again");
        node.controller.stop(&kept, None, None).await.unwrap();
    });
}

#[test]
fn whatever_control_was_doing_when_it_was_killed_the_next_one_finishes() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::new();
    machine.hold_starts();
    machine.may_start.add_permits(4);
    let ids = killed_after(dir.path(), &machine, async |node| {
        let mut ids = Vec::new();
        for n in 0..6 {
            ids.push(node.create("run", |spec| spec.auto_remove = n == 3).await);
        }
        for id in &ids[..4] {
            node.controller.start(id).await.unwrap();
        }
        node.machine
            .deaf_to
            .store(15, std::sync::atomic::Ordering::Release);
        let commit = async |command| drop(node.controller.propose(command).await.unwrap());
        let (at_ns, signal) = (0, crate::state::Signal::TERM);
        // 0: to be stopped. 1: to be restarted. 2: to be removed. 3: to be stopped, and to go then. 4: to start. 5: to start, and not.
        for id in [ids[0], ids[3]] {
            let timeout_s = Some(3600);
            let tell = true;
            commit(Command::Stop {
                id,
                at_ns,
                signal,
                timeout_s,
                tell,
            })
            .await;
        }
        let timeout_s = Some(3600);
        commit(Command::Restart {
            id: ids[1],
            at_ns,
            signal,
            timeout_s,
        })
        .await;
        for id in [ids[4], ids[5]] {
            commit(Command::Start { id, at_ns }).await;
        }
        until(|| node.machine.starts() == 6).await;
        let (timeout_s, tell) = (None, true);
        commit(Command::Stop {
            id: ids[5],
            at_ns,
            signal,
            timeout_s,
            tell,
        })
        .await;
        commit(Command::Remove {
            id: ids[2],
            at_ns,
            force: true,
        })
        .await;
        ids
    });
    machine
        .deaf_to
        .store(0, std::sync::atomic::Ordering::Release);
    machine.may_start.add_permits(10);
    killed_after(dir.path(), &machine, async |node| {
        let phase = |n: usize| {
            node.controller
                .find(&owner(), &ids[n].to_string())
                .map(|it| it.phase())
                .ok()
        };
        let ends = [
            Some(Phase::Exited),
            Some(Phase::Running),
            None,
            None,
            Some(Phase::Running),
            Some(Phase::Created),
        ];
        until(|| (0..6).map(phase).eq(ends)).await;
        until(|| node.find(&ids[1]).status.run.start == 2).await;
        until(|| node.machine.links().len() == 4).await;
        until(|| [1, 4].map(|n| node.machine.runs(&ids[n])) == [true; 2]).await;
        assert!(
            ![0, 2, 3, 5]
                .iter()
                .any(|n: &usize| node.machine.runs(&ids[*n]))
        );
    });
}

#[test]
fn a_container_that_was_removed_while_control_was_down_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::new();
    let ids = killed_after(dir.path(), &machine, async |node| {
        let ids = [
            node.create("run", |_| {}).await,
            node.create("run", |_| {}).await,
        ];
        node.controller.start(&ids[0]).await.unwrap();
        until(|| node.machine.links().len() == 2).await;
        // As a leader elsewhere does it, of a node that it counts as down: this one's keeper hears nothing.
        node.keeper.stop_listening();
        let node_id = node.controller.inner.replica.node();
        let health = crate::state::Health::Down {
            reason: "silent".into(),
        };
        let tenure = node.controller.inner.replica.state().nodes[&node_id].tenure;
        let commands = [
            Command::NodeHealth {
                at_ns: 0,
                node: node_id,
                health,
                tenure,
                term: None,
            },
            Command::Remove {
                id: ids[0],
                at_ns: 0,
                force: true,
            },
            Command::Remove {
                id: ids[1],
                at_ns: 0,
                force: true,
            },
        ];
        for command in commands {
            node.controller.propose(command).await.unwrap();
        }
        ids
    });
    assert!(machine.runs(&ids[0]));
    killed_after(dir.path(), &machine, async |node| {
        until(|| node.machine.is_idle() && node.machine.links().is_empty()).await;
        assert!(node.machine.layers().is_empty());
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_here_and_nobodys_goes_when_another_state_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    let id = node.create("run", |_| {}).await;
    node.controller.start(&id).await.unwrap();
    // As an installed snapshot does: what has happened in between, nobody here has heard.
    let waker = node.controller.inner.watchers.others.get().unwrap()[0].clone();
    until(|| node.keeper.is_settled()).await;
    let stranger = ContainerId::from_random([9; 32]);
    node.machine.leave(stranger);
    waker.replaced(&node.controller.state());
    until(|| node.machine.links() == [id].into() && !node.machine.runs(&stranger)).await;
    assert!(node.machine.runs(&id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_going_down_stops_everything_and_restarts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    for n in 0..3 {
        let id = node
            .create("run", |spec| {
                spec.restart = RestartPolicy::UnlessStopped;
                // Without end: nobody waits that long for the machine.
                spec.stop_timeout_s = (n == 0).then_some(0);
            })
            .await;
        node.controller.start(&id).await.unwrap();
    }
    node.go_down().await;
    assert!(node.machine.is_idle());
    let state = node.controller.state();
    let containers = || state.containers.iter();
    assert!(containers().all(|it| !it.is_up() && it.wanted.up));
    assert_eq!(node.machine.started().len(), 3);
    let late = *containers().next().map(|it| &it.id).unwrap();
    drop(state);
    assert!(matches!(
        node.controller.start(&late).await,
        Err(Error::Unavailable(_))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_going_down_waits_for_no_image() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path()).await;
    node.images
        .may_come
        .forget_permits(tokio::sync::Semaphore::MAX_PERMITS);
    let id = node.create("run", |_| {}).await;
    let start = Command::Start { id, at_ns: 0 };
    node.controller.propose(start).await.unwrap();
    until(|| *node.images.asked_for.lock().unwrap() == 1).await;
    node.go_down().await;
    assert_eq!(node.machine.starts(), 0);
    assert!(
        node.find(&id).wanted.up,
        "it is to start when the node is back"
    );
}
