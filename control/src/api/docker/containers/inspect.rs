//! `GET /containers/{id}/json`.

use std::collections::HashMap;

use bollard_stubs::models::{
    ContainerConfig, ContainerInspectResponse, ContainerState, ContainerStateStatusEnum,
    DriverData, HostConfig, HostConfigCgroupnsModeEnum, HostConfigIsolationEnum,
    HostConfigLogConfig, NetworkSettings, RestartPolicy as ShownPolicy, RestartPolicyNameEnum,
};
use serde_json::{Value, json};

use super::{describe, ports};
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::version::ApiVersion;
use crate::api::docker::{networks, system, timestamps};
use crate::state::{Container, RestartPolicy};

/// docker's size for /dev/shm, bytes.
const SHM_SIZE: i64 = 64 << 20;

/// All there is to know about one.
pub async fn inspect(call: &Call, name: &str) -> Answer {
    let container = call.container(name)?;
    let execs = match container.is_up() {
        true => call.controller().agent().execs(&container.id).await,
        false => Vec::new(),
    };
    answer::ok(&describe_all(&container, execs, call.version))
}

fn describe_all(container: &Container, execs: Vec<String>, version: ApiVersion) -> Value {
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
        host_config: Some(host_config(container)),
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
fn add_legacy_addresses(container: &Container, settings: &mut Value) {
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
            "restarting" => ContainerStateStatusEnum::RESTARTING,
            _ => ContainerStateStatusEnum::EXITED,
        }),
        // docker counts a container that waits for its next start as running.
        running: Some(matches!(word, "running" | "restarting")),
        paused: Some(false),
        restarting: Some(word == "restarting"),
        oom_killed: Some(status.exit.oom_killed),
        dead: Some(false),
        pid: Some(i64::from(status.pid)),
        exit_code: Some(i64::from(status.exit.code)),
        error: Some(status.error.clone()),
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

fn host_config(container: &Container) -> HostConfig {
    let spec = &container.spec;
    let list = |list: &Vec<String>| Some(list.clone());
    let signed = |number: u64| Some(i64::try_from(number).unwrap_or(i64::MAX));
    HostConfig {
        binds: Some(Vec::new()),
        container_id_file: Some(String::new()),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::new()),
        }),
        network_mode: Some(spec.network_mode.clone()),
        port_bindings: Some(ports::asked_for(container)),
        restart_policy: Some(restart_policy(&spec.restart)),
        auto_remove: Some(spec.auto_remove),
        volume_driver: Some(String::new()),
        console_size: Some(vec![0, 0]),
        cap_add: list(&spec.cap_add),
        cap_drop: list(&spec.cap_drop),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        dns: list(&spec.dns),
        dns_options: list(&spec.dns_options),
        dns_search: list(&spec.dns_search),
        extra_hosts: list(&spec.extra_hosts),
        group_add: list(&spec.groups),
        ipc_mode: Some("private".to_owned()),
        cgroup: Some(String::new()),
        oom_score_adj: Some(0),
        pid_mode: Some(String::new()),
        privileged: Some(spec.privileged),
        publish_all_ports: Some(spec.publish_all),
        readonly_rootfs: Some(spec.read_only),
        tmpfs: Some(spec.tmpfs.clone().into_iter().collect::<HashMap<_, _>>())
            .filter(|tmpfs| !tmpfs.is_empty()),
        uts_mode: Some(String::new()),
        userns_mode: Some(String::new()),
        shm_size: Some(SHM_SIZE),
        runtime: Some(system::RUNTIME.to_owned()),
        isolation: Some(HostConfigIsolationEnum::EMPTY),
        cpu_shares: Some(0),
        memory: signed(spec.memory_bytes),
        nano_cpus: signed(spec.nano_cpus),
        cgroup_parent: Some(String::new()),
        cpu_period: Some(0),
        cpu_quota: Some(0),
        cpuset_cpus: Some(String::new()),
        cpuset_mems: Some(String::new()),
        devices: Some(Vec::new()),
        memory_reservation: Some(0),
        memory_swap: Some(0),
        oom_kill_disable: Some(false),
        pids_limit: if spec.pids_limit == 0 {
            None
        } else {
            signed(spec.pids_limit)
        },
        ulimits: Some(Vec::new()),
        masked_paths: Some(Vec::new()),
        readonly_paths: Some(Vec::new()),
        ..HostConfig::default()
    }
}

fn restart_policy(policy: &RestartPolicy) -> ShownPolicy {
    let (name, retries) = match policy {
        RestartPolicy::No => (RestartPolicyNameEnum::NO, 0),
        RestartPolicy::Always => (RestartPolicyNameEnum::ALWAYS, 0),
        RestartPolicy::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, 0),
        RestartPolicy::OnFailure { maximum_retries } => (
            RestartPolicyNameEnum::ON_FAILURE,
            i64::from(*maximum_retries),
        ),
    };
    ShownPolicy {
        name: Some(name),
        maximum_retry_count: Some(retries),
    }
}

#[cfg(test)]
mod tests {
    use super::super::describe::tests::container;
    use super::*;
    use crate::state::{ContainerSpec, Phase};

    #[test]
    fn clients_find_what_they_look_for() {
        let words = ["sh", "-c", "true"].map(str::to_owned).to_vec();
        let mut it = container(
            1,
            "web",
            ContainerSpec {
                command: words,
                network_mode: "default".into(),
                ..Default::default()
            },
        );
        it.status.phase = Phase::Running;
        it.status.started_ns = 1;
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
