//! Some nodes are gone, or all, and come back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use hearth_tests::docker::Docker;
use hearth_tests::native::{Cluster, Native};
use hearth_tests::process::eventually;

use super::{NODES, becomes, cluster, remove, run};
use crate::BUSYBOX;

#[test]
fn two_of_three_gone_refuses_in_words_and_all_is_as_before_when_they_are_back() {
    let Some(cluster) = cluster() else { return };
    cluster
        .docker(0)
        .ok(&["create", "--name", "before", BUSYBOX, "true"]);
    cluster.node(1).kill();
    cluster.node(2).kill();
    let docker = cluster.docker(0);
    docker
        .run(&["create", "--name", "lost", BUSYBOX, "true"])
        .fails_saying(&["takes no commands"]);
    docker.run(&["ps"]).fails_saying(&["takes no commands"]);
    docker.ok(&["version"]);
    cluster.restore();
    for node in 0..NODES {
        let names = cluster
            .docker(node)
            .ok(&["ps", "-a", "--format", "{{.Names}}"]);
        let kept = names.lines().any(|name| name == "before");
        assert!(kept, "{names}");
    }
    let docker = cluster.docker(1);
    let names = docker.ok(&["ps", "-aq"]);
    docker.ok(&[&["rm"], names.lines().collect::<Vec<_>>().as_slice()].concat());
}

#[test]
fn a_node_that_starts_without_a_majority_says_so_until_there_is_one() {
    let Some(cluster) = cluster() else { return };
    let docker = cluster.docker(0);
    docker.ok(&["create", "--name", "kept", BUSYBOX, "true"]);
    for node in 0..NODES {
        cluster.node(node).kill();
    }
    cluster.node(0).power_on();
    let asked = |docker: &Docker| {
        eventually("it says nothing", || {
            let listed = docker.run(&["ps"]);
            // Not yet listening.
            (!listed.stderr.contains("connect")).then_some(listed)
        })
    };
    asked(&docker).fails_saying(&["takes no commands", "waits for the others"]);
    docker
        .run(&["rm", "kept"])
        .fails_saying(&["takes no commands"]);
    cluster.restore();
    for node in 0..NODES {
        let names = ["ps", "-a", "--format", "{{.Names}}"];
        assert_eq!(cluster.docker(node).ok(&names), "kept");
    }
    remove(&docker, &["kept"]);
}

#[test]
fn all_go_down_together_and_come_back_with_everything() {
    let Some(cluster) = cluster() else { return };
    let names: Vec<String> = (0..NODES).map(|node| format!("up-{node}")).collect();
    for (node, name) in names.iter().enumerate() {
        let there = format!("hearth.constraint.on=node.hostname==hearth-{}", node + 1);
        let options = ["--label", there.as_str(), "--restart", "always"];
        run(&cluster.docker(node), name, &options);
    }
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for node in 0..NODES {
            let node = cluster.node(node);
            scope.spawn(|| node.stop());
        }
    });
    eprintln!("down after {:.1} s", begun.elapsed().as_secs_f32());
    for node in 0..NODES {
        let console = cluster.node(node).console();
        let last = console.trim().lines().last().unwrap_or_default();
        assert!(last.contains("stopped"), "{console}");
    }
    cluster.restore();
    let docker = cluster.docker(0);
    for name in &names {
        becomes(&docker, name, "{{.State.Status}}", "running");
    }
    remove(&docker, &["up-0", "up-1", "up-2"]);
}

/// Takes one node after the other away and has it back, while clients of the others create containers: none is refused, none is lost, and
/// none is made twice.
#[track_caller]
fn each_in_turn(cluster: &Cluster, kind: &str, take_away: impl Fn(&Native)) {
    let made = Mutex::new(Vec::new());
    for away in 0..NODES {
        let goes_on = AtomicBool::new(true);
        std::thread::scope(|scope| {
            for other in (0..NODES).filter(|node| *node != away) {
                let (made, goes_on) = (&made, &goes_on);
                scope.spawn(move || {
                    let docker = cluster.docker(other);
                    let mut number = 0;
                    while goes_on.load(Ordering::SeqCst) {
                        let name = format!("{kind}-{away}-{other}-{number}");
                        let created = docker.run(&["create", "--name", &name, BUSYBOX, "true"]);
                        let id = created.exits(0).text().trim().to_owned();
                        made.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push((id, name));
                        number += 1;
                    }
                });
            }
            // Also where one of them fails.
            let _stop = Finally(|| goes_on.store(false, Ordering::SeqCst));
            take_away(cluster.node(away));
            cluster.node(away).start_again();
            cluster.wait_for_members(NODES);
        });
    }
    let made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut expected: Vec<String> = made
        .iter()
        .map(|(id, name)| format!("{id} {name}"))
        .collect();
    expected.sort_unstable();
    assert!(expected.len() >= 2 * NODES, "{expected:?}");
    for node in 0..NODES {
        let arguments = ["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}}"];
        let listed = cluster.docker(node).ok(&arguments);
        let mut found: Vec<&str> = listed.lines().collect();
        found.sort_unstable();
        assert_eq!(found, expected);
    }
    let ids: Vec<&str> = made.iter().map(|(id, _)| id.as_str()).collect();
    cluster.docker(0).ok(&[&["rm"], ids.as_slice()].concat());
}

struct Finally<F: Fn()>(F);

impl<F: Fn()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn each_node_restarted_in_turn_under_load_loses_refuses_and_repeats_nothing() {
    let Some(cluster) = cluster() else { return };
    each_in_turn(&cluster, "restarted", Native::stop);
}

#[test]
fn each_node_killed_in_turn_under_load_loses_refuses_and_repeats_nothing() {
    let Some(cluster) = cluster() else { return };
    each_in_turn(&cluster, "killed", Native::kill);
}
