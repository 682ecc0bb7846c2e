//! Options of `HostConfig` that docker has and Hearth hasn't: refused where somebody could lose data or safety by believing them in
//! force, told in a warning otherwise.

use bollard_stubs::models::{HostConfig, HostConfigCgroupnsModeEnum};

use crate::api::docker::errors::ApiError;

/// Security options that switch something off which isn't on here.
const SWITCHED_OFF: [&str; 7] = [
    "apparmor=unconfined",
    "label=disable",
    "no-new-privileges=false",
    "no-new-privileges=0",
    "seccomp=unconfined",
    "systempaths=unconfined",
    "writable-cgroups=false",
];
/// Names of security options that have a value, in docker.
const SECURITY_OPTIONS: [&str; 6] = [
    "apparmor",
    "label",
    "no-new-privileges",
    "seccomp",
    "systempaths",
    "writable-cgroups",
];

/// Options whose absence would lose data, or safety, or what the container is for.
pub fn refuse(host: &HostConfig) -> Result<(), ApiError> {
    let some = |list: &Option<Vec<String>>| list.iter().flatten().next().is_some();
    let not = |what: &str| Err(ApiError::unsupported(what));
    if some(&host.volumes_from) {
        return not("another container's volumes (--volumes-from) are");
    }
    if host.devices.iter().flatten().next().is_some() || some(&host.device_cgroup_rules) {
        return not("devices of the node (--device) are");
    }
    if host.device_requests.iter().flatten().next().is_some() {
        return not("GPUs and other requested devices (--gpus) are");
    }
    if some(&host.links) {
        return not("links to other containers (--link) are");
    }
    refuse_namespaces(host)?;
    for option in host.security_opt.iter().flatten() {
        refuse_security_option(option)?;
    }
    let runtime = host.runtime.as_deref().unwrap_or_default();
    if !matches!(runtime, "" | "runc" | "io.containerd.runc.v2" | "hearth") {
        return Err(ApiError::bad_request(format!(
            "unknown or invalid runtime name: {runtime}"
        )));
    }
    Ok(())
}

/// Namespaces of the node's or of other containers.
fn refuse_namespaces(host: &HostConfig) -> Result<(), ApiError> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    for (option, words, mode, own) in [
        (
            "--pid",
            "invalid PID mode",
            text(&host.pid_mode),
            [""].as_slice(),
        ),
        (
            "--ipc",
            "invalid IPC mode",
            text(&host.ipc_mode),
            &["", "private", "shareable", "none"],
        ),
        ("--uts", "invalid UTS mode", text(&host.uts_mode), &[""]),
        // Without another user namespace, the node's is what a container has: that of its microVM.
        (
            "--userns",
            "invalid user namespace mode",
            text(&host.userns_mode),
            &["", "host"],
        ),
    ] {
        if own.contains(&mode.as_str()) {
            continue;
        }
        if mode == "host" || mode.starts_with("container:") {
            return Err(ApiError::unsupported(format!(
                "sharing a namespace ({option} {mode}) is"
            )));
        }
        return Err(ApiError::bad_request(format!("{words}: {mode}")));
    }
    Ok(())
}

fn refuse_security_option(option: &str) -> Result<(), ApiError> {
    let invalid =
        |parts: usize| ApiError::bad_request(format!("invalid --security-opt {parts}: {option:?}"));
    // Older clients write a colon; the newer sign counts where both are there.
    let (name, value) = match option.split_once('=').or_else(|| option.split_once(':')) {
        Some(parts) => parts,
        None if option == "no-new-privileges" => ("no-new-privileges", "true"),
        None => return Err(invalid(1)),
    };
    if SWITCHED_OFF.contains(&format!("{name}={value}").as_str()) {
        return Ok(());
    }
    if !SECURITY_OPTIONS.contains(&name) {
        return Err(invalid(2));
    }
    Err(ApiError::unsupported(format!(
        "the security option {option:?} is"
    )))
}

/// Options that are not in force, without harm.
pub fn warn(host: &HostConfig, warnings: &mut Vec<String>) {
    let mut ignored = |option: &str, asked: bool| {
        if asked {
            warnings.push(format!("{option} has no effect on Hearth yet."));
        }
    };
    let text = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let set = |number: Option<i64>| number.is_some_and(|number| number != 0);
    ignored("--oom-kill-disable", host.oom_kill_disable == Some(true));
    ignored("--cgroup-parent", text(&host.cgroup_parent));
    ignored("HostConfig.Cgroup", text(&host.cgroup));
    ignored(
        "--cgroupns host",
        host.cgroupns_mode == Some(HostConfigCgroupnsModeEnum::HOST),
    );
    ignored("--ipc none", host.ipc_mode.as_deref() == Some("none"));
    ignored("--cpuset-cpus", text(&host.cpuset_cpus));
    ignored("--cpuset-mems", text(&host.cpuset_mems));
    ignored("--cpu-shares", set(host.cpu_shares));
    ignored("--cpu-count", set(host.cpu_count));
    ignored("--memory-reservation", set(host.memory_reservation));
    ignored(
        "--memory-swappiness",
        host.memory_swappiness.is_some_and(|value| value != -1),
    );
    // There is no swap: -1 (as much as there is), as much as the memory, and docker's default ask for nothing else.
    let (memory, swap) = (
        host.memory.unwrap_or_default(),
        host.memory_swap.unwrap_or_default(),
    );
    ignored(
        "--memory-swap",
        swap > 0 && swap != memory && swap != memory.saturating_mul(2),
    );
    ignored(
        "--blkio-weight",
        host.blkio_weight.is_some_and(|weight| weight != 0),
    );
    ignored(
        "--blkio-weight-device",
        host.blkio_weight_device.iter().flatten().next().is_some(),
    );
    for (option, devices) in [
        ("--device-read-bps", &host.blkio_device_read_bps),
        ("--device-write-bps", &host.blkio_device_write_bps),
        ("--device-read-iops", &host.blkio_device_read_iops),
        ("--device-write-iops", &host.blkio_device_write_iops),
    ] {
        ignored(option, devices.iter().flatten().next().is_some());
    }
    if set(host.cpu_percent) {
        warnings.push("linux does not support CPU percent. Percent discarded.".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn host(asked: &serde_json::Value) -> HostConfig {
        serde_json::from_value(asked.clone()).unwrap()
    }

    #[test]
    fn what_would_lose_data_or_safety_is_refused() {
        for asked in [
            json!({"VolumesFrom": ["x"]}),
            json!({"Links": ["x"]}),
            json!({"SecurityOpt": ["no-new-privileges"]}),
            json!({"SecurityOpt": ["no-new-privileges:true"]}),
            json!({"SecurityOpt": ["seccomp=/profile.json"]}),
            json!({"PidMode": "host"}),
            json!({"IpcMode": "container:x"}),
            json!({"UTSMode": "host"}),
            json!({"Devices": [{}]}),
            json!({"DeviceCgroupRules": ["c 1:3 rwm"]}),
            json!({"DeviceRequests": [{}]}),
        ] {
            let error = refuse(&host(&asked)).unwrap_err();
            assert!(
                error.message().contains("not supported by Hearth yet"),
                "{asked}"
            );
        }
        for asked in [
            json!({}),
            json!({"UsernsMode": "host", "IpcMode": "shareable", "Runtime": "runc"}),
            json!({"SecurityOpt": ["seccomp=unconfined", "label:disable", "no-new-privileges=false"]}),
        ] {
            assert_eq!(refuse(&host(&asked)), Ok(()), "{asked}");
        }
    }

    #[test]
    fn nonsense_is_refused_in_dockers_words() {
        for (asked, words) in [
            (json!({"PidMode": "foo"}), "invalid PID mode: foo"),
            (json!({"IpcMode": "foo"}), "invalid IPC mode: foo"),
            (json!({"UTSMode": "foo"}), "invalid UTS mode: foo"),
            (
                json!({"SecurityOpt": ["foo"]}),
                "invalid --security-opt 1: \"foo\"",
            ),
            (
                json!({"SecurityOpt": ["foo=bar"]}),
                "invalid --security-opt 2: \"foo=bar\"",
            ),
            (
                json!({"Runtime": "foo"}),
                "unknown or invalid runtime name: foo",
            ),
        ] {
            assert_eq!(refuse(&host(&asked)).unwrap_err().message(), words);
        }
    }

    #[test]
    fn harmless_options_are_told() {
        for (asked, told) in [
            (json!({"OomKillDisable": true}), vec!["--oom-kill-disable"]),
            (
                json!({"CpuShares": 512, "CpusetCpus": "0"}),
                vec!["--cpuset-cpus", "--cpu-shares"],
            ),
            (
                json!({"BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1}]}),
                vec!["--device-read-bps"],
            ),
            (
                json!({"MemorySwappiness": -1, "OomKillDisable": false, "CpuShares": 0}),
                vec![],
            ),
            (json!({"Memory": 1 << 26, "MemorySwap": 1 << 27}), vec![]),
        ] {
            let mut warnings = Vec::new();
            warn(&host(&asked), &mut warnings);
            let expected: Vec<String> = told
                .iter()
                .map(|option| format!("{option} has no effect on Hearth yet."))
                .collect();
            assert_eq!(warnings, expected);
        }
    }
}
