//! Several machines. The cases share three nodes, one case at a time.

mod machines;
mod members;
mod segment;

use hearth_tests::docker::Docker;
use hearth_tests::images;

const BUSYBOX: &str = "hearth-test/busybox:latest";

/// The busybox image on a node, whether or not it was there.
#[track_caller]
fn load_busybox(docker: &Docker) {
    docker
        .run_with_input(&["load"], &images::busybox().docker_archive(BUSYBOX))
        .exits(0);
}

/// The label that keeps a container on a node.
fn on(node: usize) -> String {
    format!("hearth.constraint.on=node.hostname==hearth-{}", node + 1)
}
