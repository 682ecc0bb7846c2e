//! Start, stop, restart, kill, rename, remove.

use hyper::StatusCode;

use crate::agent::AgentError;
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::api::docker::timestamps;
use crate::controller::Error;
use crate::state::{Command, ContainerName, Refusal};

/// Linux's signals 1 to 31, in order (signal(7), x86).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// The first real-time signal, as C libraries and docker count them.
const RTMIN: i32 = 34;
/// The last one.
const RTMAX: i32 = 64;
/// What `kill` sends where nothing is said.
const SIGKILL: i32 = 9;

/// A signal by number or by name, with or without `SIG`, in any case.
pub(super) fn signal(text: &str) -> Result<i32, ApiError> {
    let invalid = || ApiError::bad_request(format!("Invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=RTMAX).contains(&number) {
            Ok(number)
        } else {
            Err(invalid())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |offset: &str, base: i32, sign: i32| -> Option<i32> {
        let offset: i32 = if offset.is_empty() {
            0
        } else {
            offset[1..].parse().ok()?
        };
        Some(base + sign * offset).filter(|number| (RTMIN..=RTMAX).contains(number))
    };
    let number = match name {
        "CLD" => Some(17),
        "IOT" => Some(6),
        "POLL" => Some(29),
        "UNUSED" => Some(31),
        _ => SIGNALS
            .iter()
            .position(|known| *known == name)
            .map(|at| at as i32 + 1),
    };
    number
        .or_else(|| {
            name.strip_prefix("RTMIN")
                .filter(|o| o.is_empty() || o.starts_with('+'))
                .and_then(|o| real_time(o, RTMIN, 1))
        })
        .or_else(|| {
            name.strip_prefix("RTMAX")
                .filter(|o| o.is_empty() || o.starts_with('-'))
                .and_then(|o| real_time(o, RTMAX, -1))
        })
        .ok_or_else(invalid)
}

/// `t` and `signal` of `stop` and `restart`.
fn stop_options(call: &Call) -> Result<(Option<i64>, Option<i32>), ApiError> {
    Ok((
        call.query.number("t")?,
        call.query.get("signal").map(signal).transpose()?,
    ))
}

/// `POST …/start`: 304 where it runs already.
pub async fn start(call: &Call, name: &str) -> Answer {
    let container = call.container(name)?;
    match call.controller().start(&container.id).await {
        Ok(true) => answer::no_content(),
        Ok(false) => answer::status(StatusCode::NOT_MODIFIED),
        Err(error) => Err(start_error(error, container.id.short())),
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
        .map_err(|error| start_error(error, container.id.short()))?;
    answer::no_content()
}

/// `POST …/kill`.
pub async fn kill(call: &Call, name: &str) -> Answer {
    let signal = call
        .query
        .get("signal")
        .map(signal)
        .transpose()?
        .unwrap_or(SIGKILL);
    let container = call.container(name)?;
    let not_running = || {
        ApiError::conflict(format!(
            "cannot kill container: {name}: container {} is not running",
            container.id
        ))
    };
    if !container.is_up() {
        return Err(not_running());
    }
    match call.controller().kill(&container.id, signal).await {
        Ok(()) => answer::no_content(),
        Err(Error::Agent(AgentError::NotRunning(_)) | Error::Refused(Refusal::NotRunning(_))) => {
            Err(not_running())
        }
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
        at_ns: timestamps::now_ns(),
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
    let running = || {
        ApiError::conflict(format!(
            "cannot remove container \"/{}\": container is running: stop the container before removing or force remove",
            container.name
        ))
    };
    let force = call.query.flag("force");
    if container.is_up() && !force {
        return Err(running());
    }
    match call.controller().remove(&container.id, force).await {
        Ok(()) => answer::no_content(),
        Err(Error::Refused(Refusal::Running(_))) => Err(running()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_go_by_name_and_number() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGHUP", 1),
            ("SYS", 31),
            ("SIGRTMIN", 34),
            ("RTMIN+3", 37),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(signal(text).unwrap(), number, "{text}");
        }
        for text in [
            "",
            "0",
            "65",
            "-1",
            "SIGNOTHING",
            "RTMIN+99",
            "RTMINé",
            "RTMIN-1",
        ] {
            assert!(signal(text).is_err(), "{text}");
        }
    }

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

    proptest::proptest! {
        #[test]
        fn any_text_is_a_signal_or_none(text in ".{0,12}", suffix in "[+-]?.{0,3}") {
            let _ = (signal(&text), signal(&format!("RTMIN{suffix}")), signal(&format!("RTMAX{suffix}")));
        }
    }
}
