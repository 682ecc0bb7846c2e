//! `POST /containers/{id}/attach` and `/resize`.

use hyper::StatusCode;

use super::{describe, logging};
use crate::agent::{AgentError, Attached, LogOptions};
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::detach::DetachKeys;
use crate::api::docker::errors::ApiError;
use crate::api::docker::hijack::{self, Ending, Manner};
use crate::clock;
use crate::state::What;

/// Live output and input. Legal before the start: a client attaches, waits, then starts.
pub async fn attach(call: Call, name: &str) -> Answer {
    let container = call.container(name)?;
    describe::refuse_between_runs(&container)?;
    describe::refuse_paused(&container, "attach")?;
    let query = &call.query;
    let (live, stdin) = (query.flag("stream"), query.flag("stdin"));
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    let tty = container.spec.tty;
    let stdin = stdin && live && container.spec.open_stdin;
    let keys = DetachKeys::parse(query.get("detachKeys"))?;
    if query.flag("logs") {
        logging::check_readable(&container)?;
    }
    let agent = call.controller().agent_of(&container)?;

    // First what comes, then what was: the other way round something could be lost between the two.
    let attached = match live {
        true => agent.attach(&container.id, stdin).await?,
        false => Attached {
            output: tokio::sync::mpsc::channel(1).1,
            input: None,
            broken: None,
        },
    };
    let before = match query.flag("logs") {
        true => {
            let until_ns = live.then(clock::now_ns);
            Some(
                agent
                    .logs(
                        &container.id,
                        LogOptions {
                            stdout,
                            stderr,
                            until_ns,
                            ..LogOptions::default()
                        },
                    )
                    .await?,
            )
        }
        false => None,
    };
    let controller = call.controller().clone();
    let manner = Manner {
        tty,
        stdout,
        stderr,
        detach_keys: (tty && stdin).then_some(keys),
        before,
        afterwards: Box::new(move |ending| {
            if ending == Ending::Detached {
                controller.note(&container.id, What::Detached);
            }
        }),
    };
    hijack::begin(call, attached, manner)
}

/// `POST …/resize`.
pub async fn resize(call: &Call, name: &str) -> Answer {
    let (rows, columns) = terminal_size(call)?;
    let container = call.container(name)?;
    match call
        .controller()
        .agent_of(&container)?
        .resize(&container.id, rows, columns)
        .await
    {
        Ok(()) => answer::status(StatusCode::OK),
        Err(AgentError::NotRunning(id)) => {
            Err(ApiError::conflict(format!("container {id} is not running")))
        }
        Err(error) => Err(error.into()),
    }
}

/// `h` and `w`. What is missing is 0, as docker has it; the kernel takes it as unknown.
pub fn terminal_size(call: &Call) -> Result<(u16, u16), ApiError> {
    Ok((
        call.query.number("h")?.unwrap_or(0),
        call.query.number("w")?.unwrap_or(0),
    ))
}
