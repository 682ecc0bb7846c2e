//! Start, stop, restart, kill, rename, remove.

use hyper::StatusCode;

use super::describe;
use crate::agent::AgentError;
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::clock;
use crate::controller::Error;
use crate::state::{Command, ContainerName, Refusal, Signal};

/// `signal` of `kill`, `stop` and `restart`; None where nothing, or nothing in it, is said.
fn signal(call: &Call) -> Result<Option<Signal>, ApiError> {
    let text = call.query.get("signal").filter(|text| !text.is_empty());
    Ok(text.map(str::parse).transpose()?)
}

/// `t` and `signal` of `stop` and `restart`.
fn stop_options(call: &Call) -> Result<(Option<i64>, Option<Signal>), ApiError> {
    Ok((call.query.number("t")?, signal(call)?))
}

/// `POST …/start`: 304 where it runs already.
pub async fn start(call: &Call, name: &str) -> Answer {
    let container = call.container(name)?;
    match call.controller().start(&container.id).await {
        Ok(true) => answer::no_content(),
        Ok(false) => answer::status(StatusCode::NOT_MODIFIED),
        Err(error) => Err(start_error(error, &container.id.short())),
    }
}

/// What could not be started is told in the words by which docker's CLI picks its exit code: 127 and 126 come from the text.
fn start_error(error: Error, id: &str) -> ApiError {
    match error {
        Error::Agent(AgentError::Start { message, code }) => {
            // A user or group that the image lacks is told bare, as docker does.
            if code == 125 || message.starts_with("failed to create task") {
                return ApiError::bad_request(message);
            }
            ApiError::bad_request(format!(
                "failed to create task for container: failed to create shim task: OCI runtime create failed: {message}: unknown"
            ))
        }
        Error::Refused(refusal @ Refusal::PortInUse { .. }) => ApiError::internal(format!(
            "driver failed programming external connectivity on container {id}: {refusal}"
        )),
        error => error.into(),
    }
}

/// `POST …/stop`: 304 where it isn't up.
pub async fn stop(call: &Call, name: &str) -> Answer {
    let container = call.container(name)?;
    let (timeout_s, signal) = stop_options(call)?;
    match call
        .controller()
        .stop(&container.id, timeout_s, signal)
        .await?
    {
        true => answer::no_content(),
        false => answer::status(StatusCode::NOT_MODIFIED),
    }
}

/// `POST …/restart`.
pub async fn restart(call: &Call, name: &str) -> Answer {
    let container = call.container(name)?;
    let (timeout_s, signal) = stop_options(call)?;
    call.controller()
        .restart(&container.id, timeout_s, signal)
        .await
        .map_err(|error| start_error(error, &container.id.short()))?;
    answer::no_content()
}

/// `POST …/kill`. After SIGKILL the client finds it ended, as with docker.
pub async fn kill(call: &Call, name: &str) -> Answer {
    let signal = signal(call)?.unwrap_or(Signal::KILL);
    let container = call.container(name)?;
    let not_running = || {
        ApiError::conflict(format!(
            "cannot kill container: {name}: container {} is not running",
            container.id
        ))
    };
    match call.controller().kill(&container.id, signal).await {
        Ok(()) => answer::no_content(),
        Err(Error::Agent(AgentError::NotRunning(_)) | Error::Refused(Refusal::NotRunning(_))) => {
            Err(not_running())
        }
        Err(error) => Err(error.into()),
    }
}

/// `POST …/pause` and `…/unpause`.
pub async fn pause(call: &Call, name: &str, paused: bool) -> Answer {
    let container = call.container(name)?;
    if paused {
        describe::refuse_between_runs(&container)?;
    }
    match call.controller().pause(&container.id, paused).await {
        Ok(()) => answer::no_content(),
        Err(Error::Refused(Refusal::NotRunning(_))) if paused => Err(ApiError::conflict(format!(
            "Container {} is not running",
            container.id
        ))),
        Err(Error::Refused(Refusal::NotRunning(id))) => Err(Refusal::NotPaused(id).into()),
        Err(error) => Err(error.into()),
    }
}

/// `POST …/rename`.
pub async fn rename(call: &Call, name: &str) -> Answer {
    let new = call
        .query
        .get("name")
        .map(|name| name.trim_start_matches('/'))
        .unwrap_or_default();
    if new.is_empty() {
        return Err(ApiError::bad_request(
            "Neither old nor new names may be empty",
        ));
    }
    let new: ContainerName = new
        .parse()
        .map_err(|e: crate::state::NameError| ApiError::bad_request(e.to_string()))?;
    let container = call.container(name)?;
    if container.name == new {
        return Err(ApiError::bad_request(
            "Renaming a container with the same name as its current name",
        ));
    }
    let command = Command::Rename {
        id: container.id,
        at_ns: clock::now_ns(),
        name: new,
    };
    call.controller().propose(command).await?;
    answer::no_content()
}

/// `DELETE /containers/{id}`.
pub async fn remove(call: &Call, name: &str) -> Answer {
    if call.query.flag("link") {
        return Err(ApiError::unsupported(
            "links to other containers (--link) are",
        ));
    }
    let container = call.container(name)?;
    let up = |state| {
        ApiError::conflict(format!(
            "cannot remove container \"/{}\": container is {state}: {}stop the container before removing or force remove",
            container.name,
            if state == "paused" {
                "unpause and then "
            } else {
                ""
            }
        ))
    };
    let force = call.query.flag("force");
    if !force && container.status.paused {
        return Err(up("paused"));
    }
    if !force && container.is_up() {
        return Err(up("running"));
    }
    if !force && container.awaits_restart() {
        return Err(up("restarting"));
    }
    match call.controller().remove(&container.id, force).await {
        Ok(()) => answer::no_content(),
        Err(Error::Refused(Refusal::Running(_))) => Err(up("running")),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cli_finds_its_exit_code_in_the_words() {
        let message = "exec: \"nosuch\": executable file not found in $PATH".to_owned();
        let error = start_error(AgentError::Start { message, code: 127 }.into(), "abc");
        assert!(
            error
                .message()
                .starts_with("failed to create task for container: ")
        );
        assert!(
            error
                .message()
                .ends_with("exec: \"nosuch\": executable file not found in $PATH: unknown")
        );
        let message = "unable to find user nobody2: no matching entries in passwd file".to_owned();
        let error = start_error(
            AgentError::Start {
                message: message.clone(),
                code: 125,
            }
            .into(),
            "abc",
        );
        assert_eq!(error.message(), message);
    }
}
