//! Images of a cluster: what one is, all nodes know, and its bytes are where somebody needs them.

use hearth_tests::images;
use hearth_tests::layer::Layer;
use hearth_tests::process::eventually;

use super::{NODES, becomes, cluster, remove, run};
use crate::BUSYBOX;

#[test]
fn an_image_that_one_node_has_runs_on_all_of_them() {
    let Some(cluster) = cluster() else { return };
    for node in 0..NODES {
        let docker = cluster.docker(node);
        let images = docker.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
        assert_eq!(images, BUSYBOX);
        let name = format!("from-{node}");
        let constraint = format!("hearth.constraint.here=node.hostname==hearth-{}", node + 1);
        run(&docker, &name, &["--label", &constraint]);
        becomes(&docker, &name, "{{.State.Status}}", "running");
    }
    remove(&cluster.docker(1), &["from-0", "from-1", "from-2"]);
}

#[test]
fn an_image_is_everybodys_to_look_at_to_name_and_to_take_away_wherever_its_bytes_are() {
    let Some(cluster) = cluster() else { return };
    let layer = Layer::new().file("noise", 0o644, &[7; 4096]);
    let archive = images::busybox()
        .with_layer(layer)
        .docker_archive("apart:1");
    let loaded = cluster.docker(1).run_with_input(&["load"], &archive);
    loaded.exits(0);
    let id = cluster
        .docker(1)
        .ok(&["images", "-q", "--no-trunc", "apart:1"]);
    let told = |node: usize, what: &str| {
        let console = cluster.node(node).console();
        let mut of_it = console.lines().filter(|line| line.contains(&id));
        of_it.any(|line| line.contains(what))
    };
    assert!(
        told(1, "image stored") && !told(2, "image"),
        "it is in one place"
    );
    let elsewhere = cluster.docker(2);
    assert_eq!(
        elsewhere.ok(&["image", "inspect", "-f", "{{.Id}}", "apart:1"]),
        id
    );
    assert_eq!(
        elsewhere.ok(&["history", "-q", "--no-trunc", "apart:1"]),
        cluster
            .docker(1)
            .ok(&["history", "-q", "--no-trunc", "apart:1"])
    );
    let size = |node: usize| {
        let size = cluster
            .docker(node)
            .ok(&["image", "inspect", "-f", "{{.Size}}", "apart:1"]);
        size.parse::<u64>().expect("a number")
    };
    assert_eq!(size(2), size(1));
    elsewhere.ok(&["tag", "apart:1", "apart:2"]);
    let untagged = elsewhere.ok(&["rmi", "apart:1"]);
    assert_eq!(untagged.lines().next(), Some("Untagged: apart:1"));
    assert_eq!(
        cluster
            .docker(1)
            .ok(&["images", "-q", "--no-trunc", "apart:2"]),
        id
    );
    let gone = elsewhere.ok(&["rmi", "apart:2"]);
    assert!(gone.contains(&format!("Deleted: {id}")), "{gone}");
    for node in 0..NODES {
        let docker = cluster.docker(node);
        docker.run(&["image", "inspect", &id]).exits(1);
        docker
            .run(&["rmi", "apart:2"])
            .exits(1)
            .fails_saying(&["No such image: apart:2"]);
        docker
            .run(&["create", "--pull", "never", "apart:2", "true"])
            .exits(1);
    }
    eventually("its bytes stay where they were", || {
        told(1, "image removed").then_some(())
    });
}
