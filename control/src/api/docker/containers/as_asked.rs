//! What was asked for, as `inspect` shows it: tools make containers anew from that, so it comes back as it was given, with docker's
//! defaults where nothing was.

use bollard_stubs::models::{ContainerConfig, HostConfig};
use serde_json::{Map, Value, json};

use super::ports;
use crate::api::docker::errors::ApiError;
use crate::api::docker::system;
use crate::state::{AsAsked, ContainerSpec};

/// docker's size for /dev/shm, bytes.
const SHM_SIZE: i64 = 64 << 20;
/// Most that is kept of a request beside what is in force: thousands of published ports fit.
const KEPT_MAX: usize = 256 << 10;

/// What is kept of a request. `spec` is finished but for it.
pub fn keep(
    host: &HostConfig,
    config: &ContainerConfig,
    spec: &ContainerSpec,
) -> Result<AsAsked, ApiError> {
    let kept = AsAsked {
        host_config: host_config(host, spec).to_string(),
        config: json!(config).to_string(),
    };
    if kept.host_config.len() + kept.config.len() > KEPT_MAX {
        return Err(ApiError::bad_request(format!(
            "HostConfig, Healthcheck and Shell are larger than {} KiB together",
            KEPT_MAX >> 10
        )));
    }
    Ok(kept)
}

/// `HostConfig` of a container.
pub fn shown_host_config(spec: &ContainerSpec) -> Value {
    serde_json::from_str(&spec.as_asked.host_config)
        .unwrap_or_else(|_| host_config(&HostConfig::default(), spec))
}

/// The fields of `Config` that the specification keeps for showing only.
pub fn shown_config(spec: &ContainerSpec) -> Map<String, Value> {
    serde_json::from_str(&spec.as_asked.config).unwrap_or_default()
}

/// All fields that docker shows, with what was asked for put over what it shows of a container that asks for nothing, and changed
/// where docker changes it.
fn host_config(host: &HostConfig, spec: &ContainerSpec) -> Value {
    let mut shown: Value =
        serde_json::from_str(NOTHING_ASKED).expect("the constant is JSON, as the tests have seen");
    let mut asked = host.clone();
    asked.port_bindings = asked.port_bindings.map(ports::as_asked);
    // The two sizes are all that there is of a console.
    let console = asked.console_size.get_or_insert_default();
    console.resize(2, 0);
    if let Value::Object(fields) = json!(asked) {
        for (name, value) in fields {
            if !value.is_null() {
                shown[name] = value;
            }
        }
    }
    for (field, default) in [
        ("IpcMode", json!("private")),
        ("CgroupnsMode", json!("private")),
        ("NetworkMode", json!("default")),
        ("Runtime", json!(system::RUNTIME)),
        ("ShmSize", json!(SHM_SIZE)),
    ] {
        if shown[field] == json!("") || shown[field] == json!(0) {
            shown[field] = default;
        }
    }
    let memory = shown["Memory"].as_i64().unwrap_or_default();
    if memory > 0 && shown["MemorySwap"] == 0 {
        shown["MemorySwap"] = json!(memory.saturating_mul(2));
    }
    if shown["MemorySwappiness"] == -1 {
        shown["MemorySwappiness"] = Value::Null;
    }
    if shown["PidsLimit"].as_i64().is_some_and(|limit| limit <= 0) {
        shown["PidsLimit"] = Value::Null;
    }
    // Discarded, as the warning said.
    shown["CpuPercent"] = json!(0);
    for (object, field, default) in [
        ("LogConfig", "Type", json!("json-file")),
        ("LogConfig", "Config", json!({})),
        ("RestartPolicy", "Name", json!("no")),
        ("RestartPolicy", "MaximumRetryCount", json!(0)),
    ] {
        let value = &mut shown[object][field];
        if value.is_null() || value == "" {
            *value = default;
        }
    }
    shown["MaskedPaths"] = json!(spec.masked_paths_in_force());
    shown["ReadonlyPaths"] = json!(spec.readonly_paths_in_force());
    shown
}

/// `HostConfig` of a container that asks for nothing, as docker shows it.
const NOTHING_ASKED: &str = r#"{
    "Binds": null, "ContainerIDFile": "", "LogConfig": {}, "NetworkMode": "", "PortBindings": {},
    "RestartPolicy": {}, "AutoRemove": false, "VolumeDriver": "", "VolumesFrom": null, "ConsoleSize": [0, 0],
    "CapAdd": null, "CapDrop": null, "CgroupnsMode": "", "Dns": [], "DnsOptions": [], "DnsSearch": [],
    "ExtraHosts": null, "GroupAdd": null, "IpcMode": "", "Cgroup": "", "Links": null, "OomScoreAdj": 0,
    "PidMode": "", "Privileged": false, "PublishAllPorts": false, "ReadonlyRootfs": false, "SecurityOpt": null,
    "UTSMode": "", "UsernsMode": "", "ShmSize": 0, "Runtime": "", "Isolation": "", "CpuShares": 0, "Memory": 0,
    "NanoCpus": 0, "CgroupParent": "", "BlkioWeight": 0, "BlkioWeightDevice": [], "BlkioDeviceReadBps": [],
    "BlkioDeviceWriteBps": [], "BlkioDeviceReadIOps": [], "BlkioDeviceWriteIOps": [], "CpuPeriod": 0,
    "CpuQuota": 0, "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0, "CpusetCpus": "", "CpusetMems": "",
    "Devices": [], "DeviceCgroupRules": null, "DeviceRequests": null, "MemoryReservation": 0, "MemorySwap": 0,
    "MemorySwappiness": null, "OomKillDisable": false, "PidsLimit": null, "Ulimits": [], "CpuCount": 0,
    "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0
}"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(asked: Value) -> Value {
        host_config(
            &serde_json::from_value(asked).unwrap(),
            &ContainerSpec::default(),
        )
    }

    #[test]
    fn what_was_left_out_is_filled_in_as_docker_fills_it_in() {
        let it = shown(json!({}));
        assert_eq!(it["ShmSize"], 64 << 20);
        assert_eq!(
            it["LogConfig"],
            json!({ "Type": "json-file", "Config": {} })
        );
        assert_eq!(
            it["RestartPolicy"],
            json!({ "Name": "no", "MaximumRetryCount": 0 })
        );
        assert_eq!(
            (&it["IpcMode"], &it["MemorySwap"]),
            (&json!("private"), &json!(0))
        );
        let it = shown(
            json!({ "Memory": 64 << 20, "PidsLimit": -1, "MemorySwappiness": -1,
            "PortBindings": { "80": [{ "HostPort": "8080" }], "81/udp": null } }),
        );
        assert_eq!(it["MemorySwap"], 128 << 20);
        assert_eq!(
            (&it["PidsLimit"], &it["MemorySwappiness"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(
            it["PortBindings"],
            json!({ "80/tcp": [{ "HostIp": "", "HostPort": "8080" }], "81/udp": null })
        );
    }

    #[test]
    fn no_request_is_too_large_to_be_kept_without_being_told() {
        let hosts: Vec<String> = (0..20_000).map(|n| format!("host-{n}:10.0.0.1")).collect();
        let host = HostConfig {
            extra_hosts: Some(hosts),
            ..HostConfig::default()
        };
        let refusal = keep(
            &host,
            &ContainerConfig::default(),
            &ContainerSpec::default(),
        );
        assert!(refusal.unwrap_err().message().contains("256 KiB"));
    }
}
