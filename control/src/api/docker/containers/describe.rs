//! How a container looks from outside: the words that `ps` and `inspect` share.

use crate::api::docker::errors::ApiError;
use crate::api::docker::timestamps;
use crate::state::{Container, Phase, State};

/// docker's word for where it is in its life.
pub fn state(container: &Container) -> &'static str {
    match container.status.phase {
        Phase::Created => "created",
        Phase::Running => "running",
        // By its policy; a start by a user shows nothing new until the process runs.
        Phase::Starting if container.status.restarts > 0 => "restarting",
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

/// The STATUS column of `ps`.
pub fn status(container: &Container) -> String {
    let status = &container.status;
    match state(container) {
        "created" => "Created".to_owned(),
        "running" => format!("Up {}", timestamps::ago(status.started_ns)),
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock;
    use crate::state::{ContainerId, ContainerSpec, NodeId, RestartPolicy, Status};

    /// A container that was never started.
    pub fn container(id: u8, name: &str, spec: ContainerSpec) -> Container {
        Container {
            id: ContainerId::from_random([id; 32]),
            tenant: "acme".parse().unwrap(),
            name: name.parse().unwrap(),
            node: NodeId(1),
            created_ns: u64::from(id) * 1_000_000_000,
            image: format!("sha256:{}", "ab".repeat(32)),
            image_name: "busybox".to_owned(),
            spec,
            status: Status::default(),
            address: Some([10, 88, 0, 2].into()),
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
        it.spec.restart = RestartPolicy::OnFailure { maximum_retries: 1 };
        assert_eq!(state(&it), "restarting");
        it.status.restarts = 1;
        assert_eq!(state(&it), "exited");
    }

    #[test]
    fn a_boot_looks_like_what_was_before_it_and_only_a_policys_is_a_restart() {
        let mut it = container(1, "it", ContainerSpec::default());
        it.status.phase = Phase::Starting;
        assert_eq!(state(&it), "created", "the first boot");
        it.status.started_ns = 1;
        it.status.finished_ns = clock::now_ns();
        assert_eq!(state(&it), "exited", "started again by a user");
        it.status.restarts = 1;
        assert_eq!(state(&it), "restarting", "by its policy");
        it.status.restarts = 0;
        it.status.phase = Phase::Exited;
        it.status.error = "why".to_owned();
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
