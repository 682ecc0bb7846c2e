//! Containers leave a node that dies, gives everything away, or is cut off.

use hearth_tests::process::eventually;

use super::{NODES, becomes, cluster, node_events, place, remove, run, try_place, wait_for_copies};

#[test]
fn what_a_policy_keeps_up_is_started_elsewhere_when_its_node_dies_and_nothing_else_is() {
    let Some(cluster) = cluster() else { return };
    let on = |node: usize| format!("hearth.constraint.on=node.hostname!=hearth-{}", node + 1);
    // Not on the first, which is asked.
    let elsewhere = ["--label", &on(0), "--restart", "always"];
    run(&cluster.docker(0), "moves", &elsewhere);
    let from = place(&cluster, "moves");
    let there = format!("hearth.constraint.on=node.hostname==hearth-{}", from + 1);
    let stays = [
        "--label",
        &there,
        "--restart",
        "always",
        "--label",
        "hearth.failover=never",
    ];
    run(&cluster.docker(0), "stays", &stays);
    run(&cluster.docker(0), "plain", &["--label", &there]);
    wait_for_copies(&cluster, "moves");
    cluster.node(from).kill();
    let docker = cluster.docker(0);
    eventually("it isn't started elsewhere", || {
        let now = try_place(&cluster, "moves")?;
        let state = docker.run(&["inspect", "--format", "{{.State.Status}}", "moves"]);
        (now != from && state.text().trim() == "running").then_some(())
    });
    assert_eq!(place(&cluster, "stays"), from);
    assert_eq!(place(&cluster, "plain"), from);
    cluster.node(from).start_again();
    becomes(&docker, "stays", "{{.State.Status}}", "running");
    becomes(
        &docker,
        "plain",
        "{{.State.Status}} {{.State.ExitCode}}",
        "exited 137",
    );
    // What it has written there is kept.
    let old = format!("moves.hearth-{}", from + 1);
    becomes(&docker, &old, "{{.State.Status}}", "exited");
    assert_ne!(place(&cluster, "moves"), from);
    remove(&docker, &["moves", "stays", "plain", &old]);
}

#[test]
fn a_drained_node_gives_everything_away_that_may_move_and_takes_nothing() {
    let Some(cluster) = cluster() else { return };
    run(
        &cluster.docker(0),
        "drained",
        &["--restart", "unless-stopped"],
    );
    let from = place(&cluster, "drained");
    let docker = cluster.docker((from + 1) % NODES);
    let hostname = format!("hearth-{}", from + 1);
    docker.ok(&["node", "update", "--availability", "drain", &hostname]);
    eventually("it isn't moved", || {
        let state = docker.run(&["inspect", "--format", "{{.State.Status}}", "drained"]);
        let moved = try_place(&cluster, "drained").is_some_and(|now| now != from);
        (moved && state.text().trim() == "running").then_some(())
    });
    for number in 0..3 {
        let name = format!("new-{number}");
        run(&cluster.docker(from), &name, &[]);
        assert_ne!(place(&cluster, &name), from);
    }
    docker.ok(&["node", "update", "--availability", "active", &hostname]);
    // Every node tells of it, to its owner.
    for node in 0..NODES {
        for (old, new) in [("active", "drain"), ("drain", "active")] {
            let words = format!("update {hostname} {old} {new}");
            eventually("it isn't told", || {
                let told = node_events(&cluster.docker(node));
                told.lines().any(|line| line == words).then_some(())
            });
        }
    }
    let names = docker.ok(&["ps", "-a", "--format", "{{.Names}}"]);
    remove(&docker, &names.lines().collect::<Vec<_>>());
}

#[test]
fn a_node_that_is_cut_off_ends_what_others_start_and_nothing_else() {
    let Some(cluster) = cluster() else { return };
    run(&cluster.docker(0), "moves", &["--restart", "always"]);
    let from = place(&cluster, "moves");
    let there = format!("hearth.constraint.on=node.hostname==hearth-{}", from + 1);
    run(&cluster.docker(0), "stays", &["--label", &there]);
    let other = (from + 1) % NODES;
    wait_for_copies(&cluster, "moves");
    cluster.cut(from);
    let docker = cluster.docker(other);
    eventually("it isn't started elsewhere", || {
        let format = "{{.Node.Name}} {{.State.Status}}";
        let told = docker.run(&["inspect", "--format", format, "moves"]).text();
        let (node, state) = told.trim().split_once(' ')?;
        (node != format!("hearth-{}", from + 1) && state == "running").then_some(())
    });
    // By its own clock it was over there before.
    let console = cluster.node(from).console();
    assert!(console.contains("lease"), "{console}");
    cluster.heal(from);
    cluster.wait_for_members(NODES);
    becomes(&docker, "stays", "{{.State.Status}}", "running");
    let old = format!("moves.hearth-{}", from + 1);
    becomes(&docker, &old, "{{.State.Status}}", "exited");
    becomes(&docker, "moves", "{{.State.Status}}", "running");
    remove(&docker, &["moves", "stays", &old]);
}
