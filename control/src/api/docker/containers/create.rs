//! `POST /containers/create`.

use bollard_stubs::models::{ContainerCreateBody, ContainerCreateResponse};
use hyper::StatusCode;
use serde_json::Value;

use super::{host_options, spec};
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::api::docker::go_json;
use crate::api::docker::images;
use crate::state::ContainerName;

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
    let body = body(call.json().await?)?;

    let image_name = body.image.clone().unwrap_or_default();
    if image_name.is_empty() {
        return Err(ApiError::bad_request("No image specified"));
    }
    let id = images::find(&call, &image_name)?;
    let image = images::from_store(&call, &id).await?;

    let mut warnings = Vec::new();
    let mut spec = spec::merge(&body, &image.config.config)?;
    let health_test = body
        .healthcheck
        .as_ref()
        .and_then(|check| check.test.as_ref());
    if health_test.is_some_and(|test| test.first().is_some_and(|kind| kind.starts_with("CMD"))) {
        warnings.push("--health-cmd has no effect on Hearth yet.".into());
    }
    let host = body.host_config.unwrap_or_default();
    host_options::apply(
        &mut spec,
        host,
        body.networking_config.as_ref(),
        &mut warnings,
    )?;
    host_options::check_against_node(&spec, &call.controller().agent().node().await)?;

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

/// Commands may come as one text instead of a list of words.
fn body(mut value: Value) -> Result<ContainerCreateBody, ApiError> {
    for field in ["Cmd", "Entrypoint", "Shell"] {
        if let Some(text @ Value::String(_)) = go_json::field_mut(&mut value, field) {
            *text = Value::Array(vec![text.take()]);
        }
    }
    go_json::from_value(value).map_err(|e| ApiError::bad_request(format!("invalid JSON: {e}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_command_may_be_one_text() {
        let body =
            body(json!({ "Cmd": "sh", "Entrypoint": ["a", "b"], "Shell": null, "Surprise": 1 }))
                .unwrap();
        assert_eq!(body.cmd.unwrap(), ["sh"]);
        assert_eq!(body.entrypoint.unwrap(), ["a", "b"]);
    }

    #[test]
    fn what_docker_run_sends_is_understood() {
        // As docker CLI 28 writes it, shortened by fields of the same kind.
        let body = body(json!({
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
        let mut spec = spec::merge(&body, &hearth_image::RunConfig::default()).unwrap();
        host_options::apply(
            &mut spec,
            body.host_config.unwrap(),
            body.networking_config.as_ref(),
            &mut warnings,
        )
        .unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!(spec.ports.len(), 1);
    }
}
