//! How a container looks from outside: the words that `ps` and `inspect` share.

use serde_json::{Value, json};

use crate::api::docker::errors::ApiError;
use crate::api::docker::timestamps;
use crate::cluster::moves;
use crate::state::{Container, Phase, Placed, State};

/// docker's word for where it is in its life.
pub fn state(container: &Container) -> &'static str {
    match container.phase() {
        Phase::Created => "created",
        Phase::Running if container.status.paused => "paused",
        Phase::Running => "running",
        Phase::Exited if container.awaits_restart() => "restarting",
        // It has never run yet.
        Phase::Starting | Phase::Exited if container.status.started_ns == 0 => "created",
        Phase::Starting | Phase::Exited => "exited",
    }
}

/// What needs a process that runs can't have it between two runs of a policy; a client that waits will.
pub fn refuse_between_runs(container: &Container) -> Result<(), ApiError> {
    if state(container) != "restarting" {
        return Ok(());
    }
    Err(ApiError::conflict(format!(
        "Container {} is restarting, wait until the container is running",
        container.id
    )))
}

/// What needs a process that answers can't have it while that stands still; `doing`: what it needs it for.
pub fn refuse_paused(container: &Container, doing: &str) -> Result<(), ApiError> {
    if state(container) != "paused" {
        return Ok(());
    }
    Err(ApiError::conflict(format!(
        "Container {} is paused, unpause the container before {doing}",
        container.id
    )))
}

/// Why it waits for a node, where it does: wanted, or about to be.
pub fn pending(state: &State, container: &Placed) -> Option<String> {
    let waits = match container.phase() {
        Phase::Created | Phase::Starting => true,
        Phase::Exited => container.awaits_restart(),
        Phase::Running => false,
    };
    waits.then(|| state.nowhere(container)).flatten()
}

/// The STATUS column of `ps` of one that waits for a node: what Swarm says of it, without the details that `inspect` has.
pub fn pending_status(why: &str) -> String {
    let short = why.split_once("): ").map(|(short, _)| format!("{short})"));
    format!("Pending: {}", short.as_deref().unwrap_or(why))
}

/// The STATUS column of `ps`, of one that a node has.
pub fn status(container: &Container) -> String {
    let status = &container.status;
    match state(container) {
        "created" => "Created".to_owned(),
        "running" => format!("Up {}", timestamps::ago(status.started_ns)),
        "paused" => format!("Up {} (Paused)", timestamps::ago(status.started_ns)),
        "restarting" => format!(
            "Restarting ({}) {} ago",
            status.exit.code,
            timestamps::ago(status.finished_ns)
        ),
        _ => format!(
            "Exited ({}) {} ago",
            status.exit.code,
            timestamps::ago(status.finished_ns)
        ),
    }
}

/// Program and arguments.
pub fn path_and_args(container: &Container) -> (&str, Vec<String>) {
    let mut words = container
        .spec
        .entrypoint
        .iter()
        .chain(&container.spec.command);
    let path = words.next().map_or("", String::as_str);
    (path, words.cloned().collect())
}

/// The COMMAND column of `ps`: words with spaces in quotes.
pub fn command_line(container: &Container) -> String {
    let (path, args) = path_and_args(container);
    let mut line = path.to_owned();
    for arg in args {
        line.push(' ');
        if arg.contains(' ') {
            line.push_str(&format!("'{arg}'"));
        } else {
            line.push_str(&arg);
        }
    }
    line
}

/// The IMAGE column of `ps`: the name it was created by while that still means the same image, else the image's id.
pub fn image_name(state: &State, container: &Container) -> String {
    let name = &container.image_name;
    let means = crate::api::docker::images::resolve(state, &container.tenant, name);
    if means.is_ok_and(|id| id == container.image) {
        name.clone()
    } else {
        container.image.clone()
    }
}

/// The UTS host name that it has.
pub fn hostname(container: &Container) -> String {
    if container.spec.hostname.is_empty() {
        container.id.short().to_owned()
    } else {
        container.spec.hostname.clone()
    }
}

/// Where a container is, in the words of the first Swarm's `inspect`, and why it stays there if it does. None: there is one node only, or it is
/// nowhere.
pub fn node(state: &State, placed: &Placed) -> Option<Value> {
    if state.nodes.size() < 2 {
        return None;
    }
    let node = state.nodes.get(&placed.pod.node?)?;
    Some(json!({
        "ID": node.id.to_string(),
        "Name": node.is.hostname,
        "Addr": node.is.address.map_or(String::new(), |address| address.to_string()),
        "IP": node.is.address.map_or(String::new(), |address| address.ip().to_string()),
        "Cpus": node.is.cpus,
        "Memory": node.is.memory_bytes,
        "Labels": node.is.labels,
        "Tied": moves::tied(&placed.container).unwrap_or_default(),
    }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock;
    use crate::state::{ContainerSpec, Failure, FailureKind, Pod, Run};

    /// A container that was never started.
    pub fn container(id: u8, name: &str, spec: ContainerSpec) -> Container {
        Container {
            name: name.parse().unwrap(),
            created_ns: u64::from(id) * 1_000_000_000,
            spec,
            ..Container::sample(id)
        }
    }

    #[test]
    fn states_have_dockers_words() {
        let mut it = container(1, "it", ContainerSpec::default());
        assert_eq!((state(&it), status(&it).as_str()), ("created", "Created"));
        it.status.phase = Phase::Running;
        it.status.started_ns = clock::now_ns() - 5_500_000_000;
        assert_eq!(
            (state(&it), status(&it).as_str()),
            ("running", "Up 5 seconds")
        );
        it.status.phase = Phase::Exited;
        it.status.exit.code = 3;
        it.status.finished_ns = clock::now_ns() - 130_000_000_000;
        assert_eq!(
            (state(&it), status(&it).as_str()),
            ("exited", "Exited (3) 2 minutes ago")
        );
        it.wanted.up = true;
        assert_eq!(state(&it), "restarting", "its policy wants more");
    }

    #[test]
    fn what_waits_for_a_node_says_why_shortly() {
        let mut pod = Pod::sample(1);
        pod.node = None;
        pod.pending =
            "no suitable node (insufficient resources on 1 node): 1 node lacks memory".into();
        let placed = |change: fn(&mut Container)| {
            let mut it = container(1, "it", ContainerSpec::default());
            change(&mut it);
            Placed {
                container: it.into(),
                pod: pod.clone().into(),
            }
        };
        let state = State::default();
        let waits: [fn(&mut Container); 3] = [
            |_| {},
            |it| (it.wanted.up, it.wanted.start) = (true, 1),
            |it| (it.wanted.up, it.status.phase) = (true, Phase::Exited),
        ];
        for change in waits {
            let why = pending(&state, &placed(change)).unwrap();
            assert_eq!(
                pending_status(&why),
                "Pending: no suitable node (insufficient resources on 1 node)"
            );
        }
        let ended = placed(|it| it.status.phase = Phase::Exited);
        assert_eq!(pending(&state, &ended), None);
        assert_eq!(pending_status("evicted"), "Pending: evicted");
    }

    #[test]
    fn a_boot_looks_like_what_was_before_it_and_only_a_policys_is_a_restart() {
        let mut it = container(1, "it", ContainerSpec::default());
        let run = |start| Run {
            epoch: 1,
            number: 1,
            start,
        };
        (it.wanted.up, it.wanted.start) = (true, 1);
        assert_eq!(state(&it), "created", "the first boot");
        it.status.phase = Phase::Exited;
        (it.status.started_ns, it.status.finished_ns) = (1, clock::now_ns());
        (it.wanted.start, it.status.run) = (2, run(1));
        assert_eq!(state(&it), "exited", "started again by a user");
        it.status.run = run(2);
        assert_eq!(state(&it), "restarting", "by its policy");
        it.wanted.up = false;
        it.status.failure = Some(Failure {
            kind: FailureKind::Node,
            message: "why".to_owned(),
        });
        assert_eq!(state(&it), "exited", "not started this time");
        it.status.started_ns = 0;
        assert_eq!(state(&it), "created", "never started");
    }

    #[test]
    fn words_with_spaces_are_quoted_in_the_command() {
        let words = ["sh", "-c", "echo hi"].map(str::to_owned).to_vec();
        let it = container(
            1,
            "it",
            ContainerSpec {
                command: words,
                ..ContainerSpec::default()
            },
        );
        assert_eq!(command_line(&it), "sh -c 'echo hi'");
    }
}
