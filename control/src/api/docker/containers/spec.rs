//! From what a client asks for, and what its image would have, to what a container is to be.

use bollard_stubs::models::ContainerCreateBody;
use hearth_image::RunConfig;

use super::host_options::is_word;
use super::mounts::clean;
use super::ports;
use crate::api::docker::errors::ApiError;
use crate::scheduler;
use crate::state::{ContainerSpec, NetworkMode, Signal};

/// Longest host name (Linux, `HOST_NAME_MAX`).
const HOSTNAME_MAX: usize = 64;

/// Merges the image's defaults in, as docker does: where both say something, the client counts.
pub fn merge(body: &ContainerCreateBody, image: &RunConfig) -> Result<ContainerSpec, ApiError> {
    let (entrypoint, command) = words(body, image);
    if entrypoint.is_empty() && command.is_empty() {
        return Err(ApiError::bad_request("no command specified"));
    }
    let text = |asked: &Option<String>, default: &str| match asked {
        Some(asked) if !asked.is_empty() => asked.clone(),
        _ => default.to_owned(),
    };
    if body.volumes.iter().flatten().next().is_some() {
        return Err(ApiError::unsupported("volumes (-v) are"));
    }
    let mut labels = image.labels.clone();
    // Who built the image has no say in where it runs.
    labels.retain(|label, _| !scheduler::is_wish(label));
    labels.extend(body.labels.clone().unwrap_or_default());
    let stop_signal = text(&body.stop_signal, &image.stop_signal);
    // Of the user's only: what an image says is nothing that its user could correct.
    if let Some(asked) = body
        .stop_signal
        .as_deref()
        .filter(|asked| !asked.is_empty())
    {
        asked.parse::<Signal>()?;
    }
    let asked_ports = body.exposed_ports.iter().flatten();
    let exposed_ports = asked_ports
        .chain(image.exposed_ports.keys())
        .map(|p| ports::exposed(p))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(ContainerSpec {
        entrypoint,
        command,
        env: environment(body.env.as_deref().unwrap_or_default(), &image.env)?,
        working_dir: working_dir(&text(&body.working_dir, &image.working_dir))?,
        user: text(&body.user, &image.user),
        labels,
        hostname: host_name("hostname", &body.hostname)?,
        domainname: host_name("domainname", &body.domainname)?,
        tty: body.tty.unwrap_or_default(),
        open_stdin: body.open_stdin.unwrap_or_default(),
        stdin_once: body.stdin_once.unwrap_or_default(),
        attach: [&body.attach_stdin, &body.attach_stdout, &body.attach_stderr]
            .map(|attach| attach.unwrap_or_default()),
        exposed_ports: exposed_ports.into_iter().flatten().collect(),
        stop_signal,
        stop_timeout_s: body.stop_timeout,
        network_mode: match body.network_disabled {
            Some(true) => NetworkMode::None,
            _ => NetworkMode::Default,
        },
        ..ContainerSpec::default()
    })
}

fn working_dir(asked: &str) -> Result<String, ApiError> {
    if asked.is_empty() {
        return Ok(String::new());
    }
    if !asked.starts_with('/') {
        return Err(ApiError::bad_request(format!(
            "the working directory '{asked}' is invalid, it needs to be an absolute path"
        )));
    }
    Ok(clean(asked))
}

/// A name that sethostname(2) or setdomainname(2) takes, and that stays one word in /etc/hosts.
fn host_name(what: &str, asked: &Option<String>) -> Result<String, ApiError> {
    let asked = asked.clone().unwrap_or_default();
    if asked.len() > HOSTNAME_MAX {
        return Err(ApiError::bad_request(format!(
            "{what} {asked:?} is too long (maximum {HOSTNAME_MAX} bytes)"
        )));
    }
    if !asked.is_empty() && (!is_word(&asked) || asked.contains('/')) {
        return Err(ApiError::bad_request(format!("invalid {what}: {asked:?}")));
    }
    Ok(asked)
}

/// Entry point and command. An entry point of the client's own leaves the image's command out; `--entrypoint ""` is an entry point
/// of one empty word and takes the image's away.
fn words(body: &ContainerCreateBody, image: &RunConfig) -> (Vec<String>, Vec<String>) {
    let asked = body.entrypoint.clone().unwrap_or_default();
    let mut command = body.cmd.clone().unwrap_or_default();
    if asked.is_empty() && command.is_empty() {
        command.clone_from(&image.cmd);
    }
    let entrypoint = match body.entrypoint {
        None => image.entrypoint.clone(),
        Some(_) if asked == [""] => Vec::new(),
        Some(_) => asked,
    };
    (entrypoint, command)
}

/// The client's variables as they were given, then those of the image that they don't name. A name without `=` takes the image's
/// variable away, and docker's default, when a process is started.
fn environment(asked: &[String], image: &[String]) -> Result<Vec<String>, ApiError> {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    if let Some(nameless) = asked.iter().find(|variable| name(variable).is_empty()) {
        return Err(ApiError::bad_request(format!(
            "invalid environment variable: {nameless}"
        )));
    }
    let names: Vec<String> = asked.iter().map(|variable| name(variable)).collect();
    let others = image
        .iter()
        .filter(|variable| !names.contains(&name(variable)));
    Ok(asked.iter().chain(others).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words_of(list: &[&str]) -> Vec<String> {
        list.iter().map(|&word| word.to_owned()).collect()
    }

    fn merged(entrypoint: Option<&[&str]>, cmd: Option<&[&str]>) -> (Vec<String>, Vec<String>) {
        let body = ContainerCreateBody {
            entrypoint: entrypoint.map(words_of),
            cmd: cmd.map(words_of),
            ..ContainerCreateBody::default()
        };
        let image = RunConfig {
            entrypoint: words_of(&["/start"]),
            cmd: words_of(&["serve"]),
            ..RunConfig::default()
        };
        words(&body, &image)
    }

    #[test]
    fn entry_point_and_command_are_merged_as_docker_merges_them() {
        let both = |e: &[&str], c: &[&str]| (words_of(e), words_of(c));
        assert_eq!(merged(None, None), both(&["/start"], &["serve"]));
        assert_eq!(merged(None, Some(&["x"])), both(&["/start"], &["x"]));
        assert_eq!(merged(Some(&["/mine"]), None), both(&["/mine"], &[]));
        assert_eq!(
            merged(Some(&["/mine"]), Some(&["x"])),
            both(&["/mine"], &["x"])
        );
        assert_eq!(merged(Some(&[""]), Some(&["x"])), both(&[], &["x"]));
        assert_eq!(merged(Some(&[]), None), both(&[], &["serve"]));
    }

    #[test]
    fn a_clients_variables_stay_as_they_were_given_and_replace_the_images() {
        let env = environment(
            &words_of(&["B=mine", "C", "D=new", "D=newer", "E"]),
            &words_of(&["A=1", "B=2", "C=3"]),
        );
        assert_eq!(
            env.unwrap(),
            ["B=mine", "C", "D=new", "D=newer", "E", "A=1"]
        );
        for nameless in ["", "=x", "="] {
            let refusal = environment(&words_of(&[nameless]), &[]).unwrap_err();
            assert_eq!(
                refusal.message(),
                format!("invalid environment variable: {nameless}")
            );
        }
    }

    #[test]
    fn an_image_has_no_say_in_where_it_runs() {
        let owned = |labels: &[(&str, &str)]| -> std::collections::BTreeMap<String, String> {
            let owned = labels.iter().map(|(name, value)| (*name, *value));
            owned
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect()
        };
        let image = RunConfig {
            labels: owned(&[
                ("hearth.priority", "monitoring"),
                ("hearth.constraint.a", "node.role==manager"),
                ("vendor", "acme"),
            ]),
            ..RunConfig::default()
        };
        let mine = owned(&[("hearth.priority", "batch")]);
        let body = ContainerCreateBody {
            cmd: Some(words_of(&["x"])),
            labels: Some(mine.into_iter().collect()),
            ..ContainerCreateBody::default()
        };
        let labels = merge(&body, &image).unwrap().labels;
        assert_eq!(
            labels,
            owned(&[("hearth.priority", "batch"), ("vendor", "acme")])
        );
    }

    #[test]
    fn nothing_to_run_and_nonsense_are_refused() {
        let refused = |body: ContainerCreateBody| {
            merge(&body, &RunConfig::default())
                .unwrap_err()
                .message()
                .to_owned()
        };
        assert_eq!(
            refused(ContainerCreateBody::default()),
            "no command specified"
        );
        let cmd = Some(words_of(&["x"]));
        let body = ContainerCreateBody {
            cmd: cmd.clone(),
            working_dir: Some("rel".into()),
            ..Default::default()
        };
        assert_eq!(
            refused(body),
            "the working directory 'rel' is invalid, it needs to be an absolute path"
        );
        let body = ContainerCreateBody {
            cmd: cmd.clone(),
            hostname: Some("x".repeat(65)),
            ..Default::default()
        };
        assert!(refused(body).ends_with("is too long (maximum 64 bytes)"));
        let body = ContainerCreateBody {
            cmd: cmd.clone(),
            domainname: Some("a\n10.0.0.1 b".into()),
            ..Default::default()
        };
        assert!(refused(body).contains("invalid domainname"));
        let body = ContainerCreateBody {
            cmd: cmd.clone(),
            volumes: Some(vec!["/data".into()]),
            ..Default::default()
        };
        assert!(refused(body).contains("not supported"));
        let body = ContainerCreateBody {
            cmd,
            stop_signal: Some("SIGNOTHING".into()),
            ..Default::default()
        };
        assert!(refused(body).contains("SIGNOTHING"));
    }
}
