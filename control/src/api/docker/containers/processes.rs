//! `GET /containers/{id}/top`.

use bollard_stubs::models::ContainerTopResponse;

use crate::agent::ProcessInfo;
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::api::docker::timestamps;
use crate::clock;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// A column of `ps`: its title, and what stands there.
type Column = (&'static str, fn(&ProcessInfo) -> String);

const UID: Column = ("UID", |p| user(p.uid));
const USER: Column = ("USER", |p| user(p.uid));
const PID: Column = ("PID", |p| p.pid.to_string());
const PPID: Column = ("PPID", |p| p.ppid.to_string());
const C: Column = ("C", |p| cpu_percent(p).to_string());
const CPU: Column = ("%CPU", |p| format!("{}.0", cpu_percent(p)));
const STIME: Column = ("STIME", |p| clock(p.started_ns));
const START: Column = ("START", |p| clock(p.started_ns));
const TTY: Column = ("TTY", |p| p.tty.clone());
const TIME: Column = ("TIME", |p| {
    let seconds = p.cpu_ns / SECOND;
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
});
const CMD: Column = ("CMD", |p| p.command.clone());
const COMMAND: Column = ("COMMAND", |p| p.command.clone());

/// The processes, in the columns that `ps_args` would give.
pub async fn top(call: &Call, name: &str) -> Answer {
    let columns = columns(call.query.get("ps_args").unwrap_or("-ef"))?;
    let container = call.container(name)?;
    super::describe::refuse_between_runs(&container)?;
    if !container.is_up() {
        return Err(ApiError::conflict(format!(
            "container {} is not running",
            container.id
        )));
    }
    // dockerd looks from outside; here it is the container that tells.
    super::describe::refuse_paused(&container, "top")?;
    let processes = call
        .controller()
        .agent_of(&container)?
        .processes(&container.id)
        .await?;
    let row = |process: &ProcessInfo| columns.iter().map(|(_, value)| value(process)).collect();
    answer::ok(&ContainerTopResponse {
        titles: Some(
            columns
                .iter()
                .map(|(title, _)| (*title).to_owned())
                .collect(),
        ),
        processes: Some(processes.iter().map(row).collect()),
    })
}

fn columns(args: &str) -> Result<Vec<Column>, ApiError> {
    let words: Vec<&str> = args.split_whitespace().collect();
    match words.as_slice() {
        [.., "-o" | "-eo" | "-axo" | "-Ao" | "axo" | "o", fields] => {
            fields.split(',').map(field).collect()
        }
        [one] if one.trim_start_matches('-').starts_with("au") || *one == "u" => {
            Ok(vec![USER, PID, CPU, TTY, START, TIME, COMMAND])
        }
        [] | [_] | [_, _]
            if words.iter().all(|word| {
                matches!(word.trim_start_matches('-'), "ef" | "e" | "f" | "A" | "ax")
            }) =>
        {
            Ok(vec![UID, PID, PPID, C, STIME, TTY, TIME, CMD])
        }
        _ => Err(ApiError::bad_request(format!(
            "ps arguments {args:?} are not supported by Hearth: use -ef, aux, or -o with uid, user, pid, ppid, c, %cpu, stime, tty, time, cmd"
        ))),
    }
}

fn field(name: &str) -> Result<Column, ApiError> {
    Ok(match name {
        "uid" => UID,
        "user" => USER,
        "pid" => PID,
        "ppid" => PPID,
        "c" => C,
        "%cpu" | "pcpu" => CPU,
        "stime" => STIME,
        "start" => START,
        "tty" | "tt" => TTY,
        "time" => TIME,
        "cmd" | "args" => CMD,
        "command" | "comm" => COMMAND,
        _ => return Err(ApiError::bad_request(format!("unknown ps field {name:?}"))),
    })
}

/// Names of users are in the container's files, which the node doesn't read; root is root everywhere.
fn user(uid: u32) -> String {
    if uid == 0 {
        "root".to_owned()
    } else {
        uid.to_string()
    }
}

fn cpu_percent(process: &ProcessInfo) -> u64 {
    let lived = clock::now_ns().saturating_sub(process.started_ns).max(1);
    (u128::from(process.cpu_ns) * 100 / u128::from(lived)).min(99) as u64
}

fn clock(at_ns: u64) -> String {
    let text = timestamps::rfc3339(at_ns);
    text.get(11..16).unwrap_or("-").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(args: &str) -> Vec<&'static str> {
        columns(args)
            .unwrap()
            .into_iter()
            .map(|(title, _)| title)
            .collect()
    }

    #[test]
    fn columns_are_those_of_ps() {
        assert_eq!(
            titles("-ef"),
            ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        );
        assert_eq!(titles("aux")[0], "USER");
        assert_eq!(titles("-o pid,cmd"), ["PID", "CMD"]);
        assert_eq!(titles("-eo user,args"), ["USER", "CMD"]);
        assert!(columns("--forest").is_err());
    }

    #[test]
    fn times_are_shown_in_hours() {
        let process = ProcessInfo {
            uid: 70,
            pid: 1,
            ppid: 0,
            started_ns: 1_700_000_000 * SECOND,
            cpu_ns: 3_725 * SECOND,
            tty: "?".into(),
            command: "postgres".into(),
        };
        assert_eq!(TIME.1(&process), "01:02:05");
        assert_eq!(STIME.1(&process), "22:13");
        assert_eq!(UID.1(&process), "70");
    }
}
