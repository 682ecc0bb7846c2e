//! From what a client asks for, and what its image would have, to what a container is to be.

use bollard_stubs::models::ContainerCreateBody;
use hearth_image::RunConfig;

use super::ports;
use crate::api::docker::errors::ApiError;
use crate::state::{ContainerSpec, Signal};

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
    let working_dir = text(&body.working_dir, &image.working_dir);
    if !working_dir.is_empty() && !working_dir.starts_with('/') {
        return Err(ApiError::bad_request(format!(
            "the working directory '{working_dir}' is invalid, it needs to be an absolute path"
        )));
    }
    let hostname = text(&body.hostname, "");
    if hostname.len() > HOSTNAME_MAX
        || hostname.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/')
    {
        return Err(ApiError::bad_request(format!(
            "invalid hostname: {hostname:?}"
        )));
    }
    if body.volumes.iter().flatten().next().is_some() {
        return Err(ApiError::unsupported("volumes (-v) are"));
    }
    let mut labels = image.labels.clone();
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
        env: environment(body.env.as_deref().unwrap_or_default(), &image.env),
        working_dir,
        user: text(&body.user, &image.user),
        labels,
        hostname,
        domainname: text(&body.domainname, ""),
        tty: body.tty.unwrap_or_default(),
        open_stdin: body.open_stdin.unwrap_or_default(),
        stdin_once: body.stdin_once.unwrap_or_default(),
        attach: [&body.attach_stdin, &body.attach_stdout, &body.attach_stderr]
            .map(|attach| attach.unwrap_or_default()),
        exposed_ports: exposed_ports.into_iter().flatten().collect(),
        stop_signal,
        stop_timeout_s: body.stop_timeout,
        network_mode: if body.network_disabled == Some(true) {
            "none".to_owned()
        } else {
            String::new()
        },
        ..ContainerSpec::default()
    })
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

/// The image's variables, then the client's, each name once. A name without `=` takes the image's variable away.
fn environment(asked: &[String], image: &[String]) -> Vec<String> {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let mut result: Vec<String> = Vec::new();
    for variable in image.iter().chain(asked) {
        let at = result
            .iter()
            .position(|known| name(known) == name(variable));
        match (variable.contains('='), at) {
            (true, Some(at)) => result[at].clone_from(variable),
            (true, None) => result.push(variable.clone()),
            (false, Some(at)) => {
                result.remove(at);
            }
            (false, None) => {}
        }
    }
    result
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
    fn a_client_overrides_and_removes_the_images_variables() {
        let env = environment(
            &words_of(&["B=mine", "C", "D=new", "E"]),
            &words_of(&["A=1", "B=2", "C=3"]),
        );
        assert_eq!(env, ["A=1", "B=mine", "D=new"]);
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
        assert!(refused(body).contains("absolute path"));
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
