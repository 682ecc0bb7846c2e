//! `POST /containers/create`.

use bollard_stubs::models::{
    ContainerConfig, ContainerCreateBody, ContainerCreateResponse, MountType, RestartPolicyNameEnum,
};
use hearth_image::{RunConfig, go_json};
use hyper::StatusCode;
use serde_json::Value;

use super::{as_asked, health, host_options, mounts, resources, spec};
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::api::docker::{images, networks};
use crate::scheduler::Wishes;
use crate::state::{ContainerName, ContainerSpec};

/// Creates; does not start.
pub async fn create(mut call: Call) -> Answer {
    let name = call
        .query
        .get("name")
        .map(|name| name.trim_start_matches('/').parse::<ContainerName>());
    let name = name
        .transpose()
        .map_err(|e| ApiError::bad_request(e.to_string()))?;
    images::check_platform(call.query.get("platform"))?;
    let mut warnings = Vec::new();
    let body = body(call.json().await?, &mut warnings)?;

    let image_name = body.image.clone().unwrap_or_default();
    if image_name.is_empty() {
        return Err(ApiError::bad_request("No image specified"));
    }
    let id = images::find(&call, &image_name)?;
    let image = images::from_store(&call, &id).await?;

    let spec = specification(&body, &image.config.config, &mut warnings)?;
    check_wishes(&spec)?;
    let host = body.host_config.unwrap_or_default();
    let mut largest = call.controller().agent().node().await;
    for node in call.controller().state().nodes.values() {
        largest.cpus = largest.cpus.max(node.is.cpus as usize);
        if node.is.memory_bytes > largest.memory_bytes {
            largest.memory_bytes = node.is.memory_bytes;
            largest.name.clone_from(&node.is.hostname);
        }
        largest.storage_total_bytes = largest.storage_total_bytes.max(node.is.disk_bytes);
    }
    resources::check_against_node(&spec, &host, &largest)?;

    let id = call
        .controller()
        .create(&call.tenant, name, &id, &image_name, spec)
        .await?;
    let created = ContainerCreateResponse {
        id: id.into(),
        warnings,
    };
    Ok(answer::json(StatusCode::CREATED, &created))
}

/// What its labels wish for is told at creation, where the client reads it.
fn check_wishes(spec: &ContainerSpec) -> Result<(), ApiError> {
    let wishes = Wishes::from_labels(&spec.labels);
    wishes
        .map(drop)
        .map_err(|error| ApiError::bad_request(error.to_string()))
}

/// What a body asks for, of an image.
#[cfg(feature = "fuzzing")]
pub fn understand(bytes: &[u8], image: &RunConfig) -> Result<ContainerSpec, ApiError> {
    let mut warnings = Vec::new();
    let value = crate::api::docker::body::decode(Some(answer::JSON), bytes)?;
    specification(&body(value, &mut warnings)?, image, &mut warnings)
}

/// What the container is to be.
fn specification(
    body: &ContainerCreateBody,
    image: &RunConfig,
    warnings: &mut Vec<String>,
) -> Result<ContainerSpec, ApiError> {
    let mut spec = spec::merge(body, image)?;
    let healthcheck = health::merge(
        body.healthcheck.as_ref(),
        image.healthcheck.as_ref(),
        warnings,
    )?;
    let host = body.host_config.clone().unwrap_or_default();
    host_options::apply(&mut spec, &host, body.networking_config.as_ref(), warnings)?;
    // What docker too only shows, or only the health check and `docker build` use.
    let shown = ContainerConfig {
        healthcheck,
        args_escaped: body.args_escaped,
        network_disabled: body.network_disabled,
        on_build: body.on_build.clone(),
        shell: body.shell.clone().or_else(|| {
            let shell = image.shell.clone();
            Some(shell).filter(|shell| !shell.is_empty())
        }),
        ..ContainerConfig::default()
    };
    spec.as_asked = as_asked::keep(&host, &shown, &spec)?;
    Ok(spec)
}

/// The body as a type. What Go's decoder takes and the type doesn't is told apart first: lists of words that come as one text, names that
/// aren't among those of an enumeration, and fields that the specification no longer has.
fn body(mut value: Value, warnings: &mut Vec<String>) -> Result<ContainerCreateBody, ApiError> {
    let others = ["HostConfig", "NetworkingConfig"];
    let is_other = |key: &String| others.iter().any(|other| key.eq_ignore_ascii_case(other));
    let is_empty = match &value {
        Value::Null => true,
        Value::Object(body) => body.keys().all(is_other),
        _ => false,
    };
    if is_empty {
        return Err(ApiError::bad_request(
            "config cannot be empty in order to create a container",
        ));
    }
    for field in ["Cmd", "Entrypoint", "Shell"] {
        one_text_is_a_list(&mut value, field);
    }
    if let Some(Value::String(address)) = go_json::field_mut(&mut value, "MacAddress") {
        // Of the API before 1.44, where it wasn't an endpoint's.
        if !address.is_empty() {
            networks::check_mac_address(address, warnings)?;
        }
    }
    if let Some(host) = go_json::field_mut(&mut value, "HostConfig") {
        for field in ["CapAdd", "CapDrop"] {
            one_text_is_a_list(host, field);
        }
        check_names(host)?;
        for (field, option) in [
            ("KernelMemory", "--kernel-memory"),
            ("KernelMemoryTCP", "--kernel-memory-tcp"),
        ] {
            // Of the API before 1.42.
            let asked = go_json::field_mut(host, field);
            if asked.is_some_and(|bytes| bytes.as_i64().is_some_and(|bytes| bytes != 0)) {
                warnings.push(format!("{option} has no effect on Hearth yet."));
            }
        }
    }
    go_json::from_value(value).map_err(|e| ApiError::bad_request(format!("invalid JSON: {e}")))
}

fn one_text_is_a_list(object: &mut Value, field: &str) {
    if let Some(text @ Value::String(_)) = go_json::field_mut(object, field) {
        *text = Value::Array(vec![text.take()]);
    }
}

/// Names in `HostConfig` that must be one of a few, refused in docker's words.
fn check_names(host: &mut Value) -> Result<(), ApiError> {
    if let Some(policy) = go_json::field_mut(host, "RestartPolicy")
        && let Some(Value::String(name)) = go_json::field_mut(policy, "Name")
        && name.parse::<RestartPolicyNameEnum>().is_err()
    {
        return Err(ApiError::bad_request(format!(
            "invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )));
    }
    if let Some(Value::String(mode)) = go_json::field_mut(host, "CgroupnsMode")
        && !matches!(mode.as_str(), "" | "private" | "host")
    {
        return Err(ApiError::bad_request(format!(
            "invalid cgroup namespace mode: {mode}"
        )));
    }
    if let Some(Value::String(isolation)) = go_json::field_mut(host, "Isolation") {
        isolation.make_ascii_lowercase();
        if !matches!(isolation.as_str(), "" | "default") {
            return Err(ApiError::bad_request(format!(
                "invalid isolation ({isolation}): linux only supports 'default'"
            )));
        }
    }
    if let Some(Value::Array(mounts)) = go_json::field_mut(host, "Mounts") {
        for mount in mounts {
            if let Some(Value::String(kind)) = go_json::field_mut(mount, "Type")
                && kind.parse::<MountType>().is_err()
            {
                return Err(mounts::unknown_type(kind));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<ContainerCreateBody, String> {
        body(value, &mut Vec::new()).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_command_may_be_one_text() {
        let body = read(
            json!({ "cmd": "sh", "Entrypoint": ["a", "b"], "Shell": null, "Surprise": 1,
            "HostConfig": { "CapAdd": "ALL" } }),
        )
        .unwrap();
        assert_eq!(body.cmd.unwrap(), ["sh"]);
        assert_eq!(body.entrypoint.unwrap(), ["a", "b"]);
        assert_eq!(body.host_config.unwrap().cap_add.unwrap(), ["ALL"]);
    }

    #[test]
    fn names_that_docker_does_not_know_are_refused_in_its_words() {
        for (host, words) in [
            (
                json!({"RestartPolicy": {"Name": "foo"}}),
                "invalid restart policy: unknown policy 'foo'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
            ),
            (
                json!({"CgroupnsMode": "foo"}),
                "invalid cgroup namespace mode: foo",
            ),
            (
                json!({"Isolation": "process"}),
                "invalid isolation (process): linux only supports 'default'",
            ),
            (
                json!({"Mounts": [{"Type": "foo", "Target": "/x"}]}),
                "invalid mount config for type \"foo\": mount type unknown",
            ),
            (
                json!({"Mounts": [{"Type": "", "Target": "/x"}]}),
                "invalid mount config for type \"\": mount type unknown",
            ),
        ] {
            assert_eq!(
                read(json!({ "Image": "x", "HostConfig": host })).unwrap_err(),
                words
            );
        }
        for empty in [json!({}), json!(null), json!({ "hostconfig": {} })] {
            assert_eq!(
                read(empty).unwrap_err(),
                "config cannot be empty in order to create a container"
            );
        }
        assert!(read(json!({ "Image": "x", "HostConfig": { "Isolation": "DEFAULT" } })).is_ok());
    }

    #[test]
    fn fields_of_older_versions_are_read_and_told_to_have_no_effect() {
        let mut warnings = Vec::new();
        let asked = json!({ "Image": "x", "MacAddress": "02:42:ac:11:00:05", "HostConfig": { "KernelMemory": 1 << 26 } });
        body(asked, &mut warnings).unwrap();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(read(json!({ "Image": "x", "MacAddress": "foo" })).is_err());
    }

    #[test]
    fn labels_about_a_place_that_cannot_be_followed_are_refused() {
        let check = |label: &str, value: &str| {
            let labels = [(label.to_owned(), value.to_owned())].into();
            let spec = ContainerSpec {
                labels,
                ..ContainerSpec::default()
            };
            check_wishes(&spec)
        };
        let bad = |label, value| check(label, value).unwrap_err();
        let error = bad("hearth.constraint.0", "node.role=manager");
        assert_eq!(
            error,
            ApiError::bad_request(
                "label hearth.constraint.0: constraint expected one operator from ==, !="
            )
        );
        assert!(bad("hearth.priority", "high").message().contains("batch"));
        assert!(check("hearth.priority", "production").is_ok());
        assert!(check("hearth.spread", "node.labels.rack").is_ok());
    }

    #[test]
    fn what_docker_run_sends_is_understood() {
        // As docker CLI 28 writes it, shortened by fields of the same kind.
        let body = read(json!({
            "Hostname": "", "User": "", "AttachStdin": false, "Tty": false, "Env": null, "Cmd": ["true"], "Image": "busybox",
            "Volumes": {}, "WorkingDir": "", "Entrypoint": null, "Labels": {}, "ExposedPorts": {"80/tcp": {}},
            "HostConfig": {
                "Binds": null, "ContainerIDFile": "", "LogConfig": {"Type": "", "Config": {}}, "NetworkMode": "default",
                "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
                "ConsoleSize": [24, 80], "CgroupnsMode": "", "IpcMode": "", "Isolation": "", "BlkioWeight": 0,
                "BlkioWeightDevice": [], "Devices": [], "DeviceRequests": null, "MemorySwappiness": -1, "OomKillDisable": false,
                "PidsLimit": 0, "Ulimits": [], "MaskedPaths": null, "ReadonlyPaths": null, "ShmSize": 0, "Sysctls": null
            },
            "NetworkingConfig": {"EndpointsConfig": {"default": {
                "IPAMConfig": null, "Links": null, "Aliases": null, "MacAddress": "", "DriverOpts": null, "GwPriority": 0,
                "NetworkID": "", "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "",
                "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": null}}}
        }))
        .unwrap();
        let mut warnings = Vec::new();
        let spec = specification(&body, &RunConfig::default(), &mut warnings).unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!(spec.ports.len(), 1);
    }
}
