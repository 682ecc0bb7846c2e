//! `/containers/{id}/exec` and `/exec/{id}/…`.

use bollard_stubs::models::{ExecConfig, ExecInspectResponse, ExecStartConfig, ProcessConfig};
use bytes::Bytes;
use hyper::StatusCode;

use super::answer::{self, Answer};
use super::call::Call;
use super::containers::{refuse_between_runs, refuse_paused, terminal_size};
use super::detach::DetachKeys;
use super::errors::ApiError;
use super::hijack::{self, Ending, Manner};
use crate::agent::{AgentError, Attached, ExecSpec, ExecStatus, OutputChunk, Stream};
use crate::state::{Container, Placed, What};

/// `POST /containers/{id}/exec`.
pub async fn create(mut call: Call, name: &str) -> Answer {
    let asked: ExecConfig = call.json().await?;
    let args = asked.cmd.unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(ApiError::bad_request("no exec command specified"));
    }
    let detach_keys = asked.detach_keys.unwrap_or_default();
    DetachKeys::parse(Some(detach_keys.as_str()).filter(|keys| !keys.is_empty()))?;
    let container = call.container(name)?;
    refuse_between_runs(&container)?;
    if !container.is_up() {
        return Err(not_running(&container));
    }
    refuse_paused(&container, "exec")?;
    let spec = ExecSpec {
        args,
        env: asked.env.unwrap_or_default(),
        working_dir: asked.working_dir.unwrap_or_default(),
        user: asked.user.unwrap_or_default(),
        tty: asked.tty.unwrap_or_default(),
        stdin: asked.attach_stdin.unwrap_or_default(),
        stdout: asked.attach_stdout.unwrap_or_default(),
        stderr: asked.attach_stderr.unwrap_or_default(),
        privileged: asked.privileged.unwrap_or_default(),
        detach_keys,
    };
    let id = match call
        .controller()
        .agent_of(&container)?
        .exec_create(&container.id, spec)
        .await
    {
        Ok(id) => id,
        Err(AgentError::NotRunning(_)) => return Err(not_running(&container)),
        Err(error) => return Err(error.into()),
    };
    Ok(answer::json(
        StatusCode::CREATED,
        &serde_json::json!({ "Id": id }),
    ))
}

fn not_running(container: &Container) -> ApiError {
    ApiError::conflict(format!("container {} is not running", container.id))
}

/// The exec, where its container is the tenant's.
async fn find(call: &Call, id: &str) -> Result<(ExecStatus, Placed), ApiError> {
    let nowhere = || ApiError::not_found(format!("No such exec instance: {id}"));
    let Ok(agent) = call.controller().agent_of_exec(id) else {
        return Err(nowhere());
    };
    let status = match agent.exec_status(&id.to_owned()).await {
        Ok(status) => status,
        Err(AgentError::NoSuchExec(_)) => return Err(nowhere()),
        Err(error) => return Err(error.into()),
    };
    let container = call.controller().state().placed(&status.container);
    match container.filter(|container| container.tenant == call.tenant) {
        Some(container) => Ok((status, container)),
        None => Err(nowhere()),
    }
}

/// `POST /exec/{id}/start`. What keeps it from starting once the client's connection is taken over is told on that connection, and in
/// the exec's exit code.
pub async fn start(mut call: Call, id: &str) -> Answer {
    let asked: ExecStartConfig = call.json().await?;
    let (status, container) = find(&call, id).await?;
    if status.running || status.exit_code.is_some() {
        return Err(ApiError::conflict(format!(
            "exec {id} has already been started"
        )));
    }
    if !container.is_up() {
        return Err(not_running(&container));
    }
    refuse_paused(&container, "exec")?;
    let size = match asked.console_size.as_deref() {
        Some(&[rows, columns]) if rows > 0 && columns > 0 => {
            u16::try_from(rows).ok().zip(u16::try_from(columns).ok())
        }
        _ => None,
    };
    let spec = status.spec;
    let agent = call.controller().agent_of_exec(&status.id)?;
    let started = agent.exec_start(&status.id, size).await;
    if asked.detach == Some(true) {
        // Nobody listens, and there is no stdin.
        drop(started.map_err(exec_error)?);
        return answer::status(StatusCode::OK);
    }
    let attached = match started {
        Ok(attached) => attached,
        Err(error @ AgentError::Start { .. }) => told(exec_error(error).message()),
        Err(error) => return Err(error.into()),
    };
    let controller = call.controller().clone();
    let keys = Some(spec.detach_keys.as_str()).filter(|keys| !keys.is_empty());
    let manner = Manner {
        // ExecStart: whether output is framed is said here, not at creation, and no is the default.
        tty: asked.tty == Some(true),
        stdout: spec.stdout,
        stderr: spec.stderr,
        detach_keys: if spec.tty && spec.stdin {
            Some(DetachKeys::parse(keys)?)
        } else {
            None
        },
        before: None,
        afterwards: Box::new(move |ending| {
            if ending == Ending::Detached {
                controller.note(&container.id, What::ExecDetached { exec: status.id });
            }
        }),
    };
    hijack::begin(call, attached, manner)
}

/// docker's words around what the guest says.
fn exec_error(error: AgentError) -> ApiError {
    match error {
        AgentError::Start { message, .. } if message.starts_with("exec:") => {
            ApiError::bad_request(format!(
                "OCI runtime exec failed: exec failed: unable to start container process: {message}: unknown"
            ))
        }
        error => error.into(),
    }
}

/// Output that is one message.
fn told(message: &str) -> Attached {
    let (sender, output) = tokio::sync::mpsc::channel(1);
    let data = Bytes::from(format!("{message}\r\n"));
    // One message fits.
    let _ = sender.try_send(OutputChunk {
        stream: Stream::Stdout,
        data,
    });
    Attached {
        output,
        input: None,
        broken: None,
    }
}

/// `POST /exec/{id}/resize`.
pub async fn resize(call: Call, id: &str) -> Answer {
    let (rows, columns) = terminal_size(&call)?;
    let (status, container) = find(&call, id).await?;
    match call
        .controller()
        .agent_of_exec(&status.id)?
        .exec_resize(&status.id, rows, columns)
        .await
    {
        Ok(()) => answer::status(StatusCode::OK),
        Err(AgentError::NotRunning(_)) => Err(not_running(&container)),
        Err(error) => Err(error.into()),
    }
}

/// `GET /exec/{id}/json`.
pub async fn inspect(call: Call, id: &str) -> Answer {
    let (status, _) = find(&call, id).await?;
    let spec = status.spec;
    let mut words = spec.args.into_iter();
    let entrypoint = words.next();
    let described = ExecInspectResponse {
        can_remove: Some(!status.running && status.exit_code.is_some()),
        detach_keys: Some(spec.detach_keys),
        id: Some(status.id),
        running: Some(status.running),
        exit_code: status.exit_code.map(i64::from),
        process_config: Some(ProcessConfig {
            privileged: Some(spec.privileged),
            user: Some(spec.user),
            tty: Some(spec.tty),
            entrypoint,
            arguments: Some(words.collect()),
        }),
        open_stdin: Some(spec.stdin),
        open_stderr: Some(spec.stderr),
        open_stdout: Some(spec.stdout),
        container_id: Some(status.container.into()),
        pid: Some(i64::from(status.pid)),
    };
    let exit_code = described.exit_code;
    let mut described = serde_json::json!(described);
    // Null until it has ended: docker-py reads the field before.
    described["ExitCode"] = serde_json::json!(exit_code);
    answer::ok(&described)
}
