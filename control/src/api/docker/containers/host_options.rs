//! `HostConfig`: each of its fields is put into force, refused, or told to have no effect. Which is which, the files beside this one say:
//! [`resources`], [`mounts`], [`logging`], [`ports`], and [`unsupported`] for what Hearth lacks.

use bollard_stubs::models::{
    HostConfig, NetworkingConfig, RestartPolicy as AskedPolicy, RestartPolicyNameEnum,
};

use super::{logging, mounts, ports, resources, unsupported};
use crate::api::docker::errors::ApiError;
use crate::api::docker::networks;
use crate::state::{ContainerSpec, NetworkMode, RestartPolicy, capability};

/// What `--add-host name:host-gateway` means.
const HOST_GATEWAY: &str = "host-gateway";
/// Kernel settings of the IPC namespace (sysctl(8)), which docker allows beside those of [`OWN_SYSCTLS`].
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];
/// Beginnings of settings that a container has for itself.
const OWN_SYSCTLS: [&str; 2] = ["net.", "fs.mqueue."];

/// Puts the options into the specification. Warnings are what is not in force and does no harm.
pub fn apply(
    spec: &mut ContainerSpec,
    host: &HostConfig,
    networking: Option<&NetworkingConfig>,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    unsupported::refuse(host)?;
    unsupported::warn(host, warnings);
    resources::apply(spec, host)?;
    spec.tmpfs = mounts::tmpfs(host)?;
    spec.log_driver = logging::driver(host.log_config.as_ref(), warnings)?;
    apply_network(spec, host, networking, warnings)?;
    spec.auto_remove = host.auto_remove.unwrap_or_default();
    spec.restart = restart_policy(host.restart_policy.as_ref())?;
    if spec.auto_remove && spec.restart != RestartPolicy::No {
        return Err(ApiError::bad_request(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    spec.read_only = host.readonly_rootfs.unwrap_or_default();
    spec.privileged = host.privileged.unwrap_or_default();
    spec.cap_add = capabilities("CapAdd", &host.cap_add)?;
    spec.cap_drop = capabilities("CapDrop", &host.cap_drop)?;
    spec.groups = host.group_add.clone().unwrap_or_default();
    spec.masked_paths.clone_from(&host.masked_paths);
    spec.readonly_paths.clone_from(&host.readonly_paths);
    spec.console_size = console_size(host.console_size.as_deref());
    spec.init = host.init.unwrap_or_default();
    for (name, value) in host.sysctls.iter().flatten() {
        let own = OWN_SYSCTLS.iter().any(|of| name.starts_with(of));
        if !own && !IPC_SYSCTLS.contains(&name.as_str()) {
            return Err(ApiError::bad_request(format!(
                "sysctl '{name}={value}' is not allowed"
            )));
        }
        spec.sysctls.insert(name.clone(), value.clone());
    }
    if host
        .annotations
        .iter()
        .flatten()
        .any(|(key, _)| key.is_empty())
    {
        return Err(ApiError::bad_request(
            "invalid Annotations: the empty string is not permitted as an annotation key",
        ));
    }
    Ok(())
}

/// The network, its ports and its names.
fn apply_network(
    spec: &mut ContainerSpec,
    host: &HostConfig,
    networking: Option<&NetworkingConfig>,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    let mode = host.network_mode.as_deref().unwrap_or_default();
    let mode = networks::asked_for(mode, networking, warnings)?;
    // `NetworkDisabled` has been read before, and nothing turns it off again.
    if spec.network_mode != NetworkMode::None {
        spec.network_mode = mode;
    }
    spec.ports = ports::requests(&host.port_bindings.clone().unwrap_or_default())?;
    spec.exposed_ports
        .extend(spec.ports.iter().map(ports::exposed_by));
    spec.publish_all = host.publish_all_ports.unwrap_or_default();
    if spec.network_mode == NetworkMode::None && (spec.publish_all || !spec.ports.is_empty()) {
        warnings.push("Published ports are discarded when using none network mode".to_owned());
        spec.publish_all = false;
        spec.ports.clear();
    }
    spec.dns = host.dns.clone().unwrap_or_default();
    for server in &spec.dns {
        if server.parse::<std::net::IpAddr>().is_err() {
            return Err(ApiError::bad_request(format!(
                "invalid IP address: {server}"
            )));
        }
    }
    spec.dns_search = host.dns_search.clone().unwrap_or_default();
    if let Some(domain) = spec.dns_search.iter().find(|domain| !is_word(domain)) {
        return Err(ApiError::bad_request(format!(
            "{domain} is not a valid domain"
        )));
    }
    spec.dns_options = host.dns_options.clone().unwrap_or_default();
    if let Some(option) = spec.dns_options.iter().find(|option| !is_word(option)) {
        return Err(ApiError::bad_request(format!(
            "invalid DNS option: {option:?}"
        )));
    }
    spec.extra_hosts = host
        .extra_hosts
        .iter()
        .flatten()
        .map(|entry| extra_host(entry))
        .collect::<Result<_, _>>()?;
    Ok(())
}

/// One word of a line in resolv.conf or hosts.
pub fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

fn restart_policy(asked: Option<&AskedPolicy>) -> Result<RestartPolicy, ApiError> {
    let name = asked
        .and_then(|asked| asked.name)
        .unwrap_or(RestartPolicyNameEnum::EMPTY);
    let retries = asked
        .and_then(|asked| asked.maximum_retry_count)
        .unwrap_or_default();
    let refused = |words: &str| Err(ApiError::bad_request(words));
    match name {
        RestartPolicyNameEnum::EMPTY => return Ok(RestartPolicy::No),
        RestartPolicyNameEnum::ON_FAILURE => {
            return match u32::try_from(retries) {
                Ok(maximum_retries) => Ok(RestartPolicy::OnFailure { maximum_retries }),
                Err(_) => refused("invalid restart policy: maximum retry count cannot be negative"),
            };
        }
        _ => {}
    }
    match retries {
        0 => {}
        ..0 => {
            return refused(
                "invalid restart policy: maximum retry count can only be used with 'on-failure' and cannot be negative",
            );
        }
        _ => {
            return refused(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'",
            );
        }
    }
    Ok(match name {
        RestartPolicyNameEnum::ALWAYS => RestartPolicy::Always,
        RestartPolicyNameEnum::UNLESS_STOPPED => RestartPolicy::UnlessStopped,
        _ => RestartPolicy::No,
    })
}

fn capabilities(field: &str, asked: &Option<Vec<String>>) -> Result<Vec<String>, ApiError> {
    let asked = asked.clone().unwrap_or_default();
    if let Some(name) = asked.iter().find(|name| capability::named(name).is_none()) {
        let name = name.to_uppercase();
        let plain = name.strip_prefix("CAP_").unwrap_or(&name);
        return Err(ApiError::bad_request(format!(
            "invalid {field}: unknown capability: \"CAP_{plain}\""
        )));
    }
    Ok(asked)
}

/// Rows and columns; zeros are what clients without a terminal send.
fn console_size(asked: Option<&[usize]>) -> Option<(u16, u16)> {
    let &[rows, columns, ..] = asked? else {
        return None;
    };
    let size = (u16::try_from(rows).ok()?, u16::try_from(columns).ok()?);
    (size.0 > 0 && size.1 > 0).then_some(size)
}

fn extra_host(entry: &str) -> Result<String, ApiError> {
    let bad_format = || ApiError::bad_request(format!("bad format for add-host: {entry:?}"));
    let (name, asked) = entry.split_once([':', '=']).ok_or_else(bad_format)?;
    if !is_word(name) {
        return Err(bad_format());
    }
    let address = if asked == HOST_GATEWAY {
        networks::GATEWAY
    } else {
        asked.trim_matches(['[', ']'])
    };
    if address.parse::<std::net::IpAddr>().is_err() {
        return Err(ApiError::bad_request(format!(
            "invalid IP address in add-host: {asked:?}"
        )));
    }
    Ok(format!("{name}:{address}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn applied(asked: serde_json::Value) -> Result<(ContainerSpec, Vec<String>), String> {
        let host = serde_json::from_value(asked).unwrap();
        let (mut spec, mut warnings) = (ContainerSpec::default(), Vec::new());
        apply(&mut spec, &host, None, &mut warnings).map_err(|e| e.message().to_owned())?;
        Ok((spec, warnings))
    }

    #[test]
    fn nonsense_is_refused_in_dockers_words() {
        let policy = |name: &str, count: i64| json!({"RestartPolicy": {"Name": name, "MaximumRetryCount": count}});
        let only_on_failure =
            "invalid restart policy: maximum retry count can only be used with 'on-failure'";
        for (asked, words) in [
            (
                json!({"CapDrop": ["NET_RWA"]}),
                "invalid CapDrop: unknown capability: \"CAP_NET_RWA\"",
            ),
            (
                json!({"CapAdd": ["NET_RAW", "cap_foo"]}),
                "invalid CapAdd: unknown capability: \"CAP_FOO\"",
            ),
            (policy("always", 3), only_on_failure),
            (policy("unless-stopped", 3), only_on_failure),
            (policy("no", 3), only_on_failure),
            (
                policy("on-failure", -3),
                "invalid restart policy: maximum retry count cannot be negative",
            ),
            (
                json!({"AutoRemove": true, "RestartPolicy": {"Name": "always"}}),
                "can't create 'AutoRemove' container with restart policy",
            ),
            (
                json!({"Sysctls": {"foo.bar": "1"}}),
                "sysctl 'foo.bar=1' is not allowed",
            ),
            (
                json!({"Annotations": {"": "x"}}),
                "invalid Annotations: the empty string is not permitted as an annotation key",
            ),
            (json!({"Dns": ["x"]}), "invalid IP address: x"),
            (json!({"DnsSearch": ["a b"]}), "a b is not a valid domain"),
            (
                json!({"DnsOptions": ["a\nnameserver 1.1.1.1"]}),
                "invalid DNS option: \"a\\nnameserver 1.1.1.1\"",
            ),
            (
                json!({"ExtraHosts": ["foo"]}),
                "bad format for add-host: \"foo\"",
            ),
            (
                json!({"ExtraHosts": [":1.2.3.4"]}),
                "bad format for add-host: \":1.2.3.4\"",
            ),
            (
                json!({"ExtraHosts": ["a\nb:1.2.3.4"]}),
                "bad format for add-host: \"a\\nb:1.2.3.4\"",
            ),
            (
                json!({"ExtraHosts": ["foo:1.2.3"]}),
                "invalid IP address in add-host: \"1.2.3\"",
            ),
            (json!({"NetworkMode": "nosuch"}), "network nosuch not found"),
            (
                json!({"NetworkMode": "container:"}),
                "Invalid network mode: invalid container format container:<name|id>",
            ),
        ] {
            assert_eq!(applied(asked.clone()).unwrap_err(), words, "{asked}");
        }
    }

    #[test]
    fn the_node_has_a_name_for_containers() {
        assert_eq!(
            extra_host("docker:host-gateway").unwrap(),
            "docker:10.88.0.1"
        );
        assert_eq!(extra_host("six:[::1]").unwrap(), "six:::1");
    }

    #[test]
    fn a_terminal_begins_at_the_size_that_its_client_has() {
        let size = |asked| {
            applied(json!({ "ConsoleSize": asked }))
                .unwrap()
                .0
                .console_size
        };
        assert_eq!(size(json!([24, 80])), Some((24, 80)));
        for none in [json!([0, 0]), json!([24]), json!([70_000, 80]), json!(null)] {
            assert_eq!(size(none.clone()), None, "{none}");
        }
    }

    #[test]
    fn ports_of_a_container_without_a_network_are_told_to_be_none() {
        let (spec, warnings) = applied(
            json!({"NetworkMode": "none", "PortBindings": {"80/tcp": [{"HostPort": "80"}]}}),
        )
        .unwrap();
        assert!(spec.ports.is_empty());
        assert_eq!(
            warnings,
            ["Published ports are discarded when using none network mode"]
        );
    }
}
