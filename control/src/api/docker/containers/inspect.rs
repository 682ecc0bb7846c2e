//! `GET /containers/{id}/json`.

use std::collections::HashMap;

use bollard_stubs::models::{
    ContainerConfig, ContainerInspectResponse, ContainerState, ContainerStateStatusEnum,
    DriverData, NetworkSettings,
};
use serde_json::{Value, json};

use super::{as_asked, describe, ports, size};
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::version::ApiVersion;
use crate::api::docker::{networks, system, timestamps};
use crate::state::{Container, Placed};

/// All there is to know about one.
pub async fn inspect(call: &Call, name: &str) -> Answer {
    let container = call.container(name)?;
    let pending = describe::pending(&call.controller().state(), &container);
    let agent = call.controller().agent_of(&container);
    let execs = match agent {
        Ok(agent) if container.is_up() && pending.is_none() => agent.execs(&container.id).await,
        _ => Vec::new(),
    };
    let mut described = describe_all(&container, execs, call.version);
    if let Some(why) = pending {
        described["State"]["Error"] = json!(format!("pending: {why}"));
    }
    if let Some(node) = describe::node(&call.controller().state(), &container) {
        described["Node"] = node;
    }
    if call.query.flag("size") {
        let size = size::of(call, &container).await?;
        described["SizeRw"] = json!(size.writable);
        described["SizeRootFs"] = json!(size.root);
    }
    answer::ok(&described)
}

fn describe_all(container: &Placed, execs: Vec<String>, version: ApiVersion) -> Value {
    let (path, args) = describe::path_and_args(container);
    let described = ContainerInspectResponse {
        id: Some(container.id.to_string()),
        created: Some(timestamps::rfc3339(container.created_ns)),
        path: Some(path.to_owned()),
        args: Some(args),
        state: Some(state(container)),
        image: Some(container.image.clone()),
        resolv_conf_path: Some(String::new()),
        hostname_path: Some(String::new()),
        hosts_path: Some(String::new()),
        log_path: Some(String::new()),
        name: Some(format!("/{}", container.name)),
        restart_count: Some(i64::from(container.status.restarts)),
        driver: Some(system::DRIVER.to_owned()),
        platform: Some("linux".to_owned()),
        mount_label: Some(String::new()),
        process_label: Some(String::new()),
        app_armor_profile: Some(String::new()),
        graph_driver: Some(DriverData {
            name: system::DRIVER.to_owned(),
            data: HashMap::new(),
        }),
        mounts: Some(Vec::new()),
        config: Some(config(container)),
        network_settings: Some(NetworkSettings {
            sandbox_id: Some(if container.is_up() {
                container.id.to_string()
            } else {
                String::new()
            }),
            sandbox_key: Some(String::new()),
            ports: Some(ports::in_effect(container)),
            networks: Some([networks::endpoint(container)].into_iter().collect()),
        }),
        ..ContainerInspectResponse::default()
    };
    let mut described = json!(described);
    described["HostConfig"] = as_asked::shown_host_config(&container.spec);
    for (field, value) in as_asked::shown_config(&container.spec) {
        described["Config"][field] = value;
    }
    described["ExecIDs"] = if execs.is_empty() {
        Value::Null
    } else {
        json!(execs)
    };
    for field in ["Entrypoint", "Cmd", "Volumes", "OnBuild"] {
        // Clients look for these whether there is something or not.
        let value = &mut described["Config"][field];
        if value.as_array().is_none_or(Vec::is_empty) {
            *value = Value::Null;
        }
    }
    if version < ApiVersion::new(1, 52) {
        add_legacy_addresses(container, &mut described["NetworkSettings"]);
    }
    described
}

/// Before 1.52 the default network's addresses stood beside the networks as well, and scripts read them there.
fn add_legacy_addresses(container: &Placed, settings: &mut Value) {
    let (name, endpoint) = networks::endpoint(container);
    let endpoint = if name == "bridge" {
        json!(endpoint)
    } else {
        json!({})
    };
    for field in [
        "EndpointID",
        "Gateway",
        "GlobalIPv6Address",
        "GlobalIPv6PrefixLen",
        "IPAddress",
        "IPPrefixLen",
        "IPv6Gateway",
        "MacAddress",
    ] {
        let default = if field.ends_with("PrefixLen") {
            json!(0)
        } else {
            json!("")
        };
        settings[field] = endpoint.get(field).cloned().unwrap_or(default);
    }
    settings["Bridge"] = json!("");
    settings["HairpinMode"] = json!(false);
    settings["LinkLocalIPv6Address"] = json!("");
    settings["LinkLocalIPv6PrefixLen"] = json!(0);
    settings["SecondaryIPAddresses"] = Value::Null;
    settings["SecondaryIPv6Addresses"] = Value::Null;
}

fn state(container: &Container) -> ContainerState {
    let word = describe::state(container);
    let status = &container.status;
    ContainerState {
        status: Some(match word {
            "created" => ContainerStateStatusEnum::CREATED,
            "running" => ContainerStateStatusEnum::RUNNING,
            "paused" => ContainerStateStatusEnum::PAUSED,
            "restarting" => ContainerStateStatusEnum::RESTARTING,
            _ => ContainerStateStatusEnum::EXITED,
        }),
        // docker counts a container that waits for its next start as running, and one that stands still.
        running: Some(matches!(word, "running" | "restarting" | "paused")),
        paused: Some(word == "paused"),
        restarting: Some(word == "restarting"),
        oom_killed: Some(status.exit.oom_killed),
        dead: Some(false),
        pid: Some(i64::from(status.pid)),
        exit_code: Some(i64::from(status.exit.code)),
        error: Some(match &status.failure {
            Some(failure) => failure.message.clone(),
            None => String::new(),
        }),
        started_at: Some(timestamps::rfc3339(status.started_ns)),
        finished_at: Some(timestamps::rfc3339(status.finished_ns)),
        health: None,
    }
}

fn config(container: &Container) -> ContainerConfig {
    let spec = &container.spec;
    let [attach_stdin, attach_stdout, attach_stderr] = spec.attach;
    ContainerConfig {
        hostname: Some(describe::hostname(container)),
        domainname: Some(spec.domainname.clone()),
        user: Some(spec.user.clone()),
        attach_stdin: Some(attach_stdin),
        attach_stdout: Some(attach_stdout),
        attach_stderr: Some(attach_stderr),
        exposed_ports: Some(spec.exposed_ports.iter().cloned().collect()),
        tty: Some(spec.tty),
        open_stdin: Some(spec.open_stdin),
        stdin_once: Some(spec.stdin_once),
        env: Some(spec.env.clone()),
        cmd: Some(spec.command.clone()),
        image: Some(container.image_name.clone()),
        working_dir: Some(spec.working_dir.clone()),
        entrypoint: Some(spec.entrypoint.clone()),
        labels: Some(spec.labels.clone().into_iter().collect()),
        stop_signal: Some(spec.stop_signal.clone()).filter(|signal| !signal.is_empty()),
        stop_timeout: spec.stop_timeout_s,
        ..ContainerConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::describe::tests::container;
    use super::*;
    use crate::state::{ContainerSpec, Phase, Pod};

    #[test]
    fn clients_find_what_they_look_for() {
        let words = ["sh", "-c", "true"].map(str::to_owned).to_vec();
        let mut it = container(
            1,
            "web",
            ContainerSpec {
                command: words,
                ..Default::default()
            },
        );
        it.status.phase = Phase::Running;
        it.status.started_ns = 1;
        let it = Placed {
            container: it.into(),
            pod: Pod::sample(1).into(),
        };
        let shown = describe_all(&it, Vec::new(), ApiVersion::new(1, 41));
        assert_eq!(shown["Name"], "/web");
        assert_eq!(shown["State"]["Status"], "running");
        assert_eq!(shown["State"]["FinishedAt"], "0001-01-01T00:00:00Z");
        assert_eq!(shown["Path"], "sh");
        assert_eq!(shown["Args"], json!(["-c", "true"]));
        assert_eq!(shown["Config"]["Hostname"], it.id.short());
        assert_eq!(shown["Config"]["Entrypoint"], Value::Null);
        assert_eq!(shown["NetworkSettings"]["IPAddress"], "10.88.0.2");
        assert_eq!(
            shown["NetworkSettings"]["Networks"]["bridge"]["IPAddress"],
            "10.88.0.2"
        );
        assert_eq!(shown["HostConfig"]["RestartPolicy"]["Name"], "no");
        assert_eq!(shown["Mounts"], json!([]));
        let newer = describe_all(&it, Vec::new(), ApiVersion::new(1, 52));
        assert!(newer["NetworkSettings"].get("IPAddress").is_none());
    }
}
