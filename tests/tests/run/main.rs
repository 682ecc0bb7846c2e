//! What somebody does with containers: run them, talk to them, look at them, end them. Cases about what is known of a container, and not
//! about what its program does, are `plain`.

mod exec;
mod exit_codes;
mod flags;
mod lifecycle;
mod listing;
mod logs;
mod programs;
mod streams;
mod terminal;

use hearth_tests::docker::{Container, Docker};
use hearth_tests::target;

/// The CLI, and the busybox image on the node.
fn setup() -> (&'static Docker, String) {
    let target = target::shared();
    (target.docker(), target.busybox())
}

/// The same, where nothing is booted: for cases whose programs are `true`, `echo`, `sleep`, or `sh -c "exit N"`.
fn plain() -> (&'static Docker, String) {
    let target = target::plain();
    (target.docker(), target.busybox())
}

/// A container that runs until it's killed.
#[track_caller]
fn idle<'a>(docker: &'a Docker, image: &str, what: &str) -> Container<'a> {
    detached(docker, what, &[], &[image, "sleep", "100000"])
}

/// `docker run -d` of `command` with `options`, under a name of its own.
#[track_caller]
fn detached<'a>(
    docker: &'a Docker,
    what: &str,
    options: &[&str],
    command: &[&str],
) -> Container<'a> {
    let container = docker.container(what);
    let arguments = [&["run", "-d", "--name", &container.name], options, command].concat();
    let id = docker.ok(&arguments);
    assert!(
        id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "`run -d` prints the container's id: {id:?}"
    );
    container
}
