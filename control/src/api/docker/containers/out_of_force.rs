//! Options of `HostConfig` that are not in force here: refused where somebody could lose data or safety by believing they are, told
//! in a warning otherwise.

use bollard_stubs::models::{HostConfig, HostConfigCgroupnsModeEnum};

use crate::api::docker::errors::ApiError;

/// Options whose absence would lose data, or safety, or what the container is for.
pub fn refuse(host: &HostConfig) -> Result<(), ApiError> {
    let some = |list: &Option<Vec<String>>| list.iter().flatten().next().is_some();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let not = |what: &str| Err(ApiError::unsupported(what));
    if some(&host.binds) {
        return not("bind mounts and volumes (-v, --mount) are");
    }
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
    if host.sysctls.iter().flatten().next().is_some() {
        return not("kernel parameters (--sysctl) are");
    }
    if host.storage_opt.iter().flatten().next().is_some() {
        return not("storage options (--storage-opt) are");
    }
    for (option, mode) in [
        ("--pid", text(&host.pid_mode)),
        ("--uts", text(&host.uts_mode)),
        ("--ipc", text(&host.ipc_mode)),
    ] {
        if !matches!(mode.as_str(), "" | "private" | "shareable" | "none") {
            return not(&format!("sharing a namespace ({option} {mode}) is"));
        }
    }
    for option in host.security_opt.iter().flatten() {
        let off = [
            "seccomp=unconfined",
            "apparmor=unconfined",
            "label=disable",
            "seccomp:unconfined",
            "label:disable",
            "systempaths=unconfined",
        ];
        if !off.contains(&option.as_str()) {
            return not(&format!("the security option {option:?} is"));
        }
    }
    let logging = host
        .log_config
        .as_ref()
        .and_then(|log| log.typ.clone())
        .unwrap_or_default();
    if !matches!(logging.as_str(), "" | "json-file" | "local") {
        return not(&format!("the logging driver {logging:?} is"));
    }
    let runtime = text(&host.runtime);
    if !matches!(
        runtime.as_str(),
        "" | "runc" | "io.containerd.runc.v2" | "hearth"
    ) {
        return Err(ApiError::bad_request(format!(
            "unknown or invalid runtime name: {runtime}"
        )));
    }
    Ok(())
}

/// Options that are not in force, without harm.
pub fn warn(host: &HostConfig, warnings: &mut Vec<String>) {
    let mut ignored = |option: &str, asked: bool| {
        if asked {
            warnings.push(format!("{option} has no effect on Hearth yet."));
        }
    };
    ignored("--init", host.init == Some(true));
    ignored("--ulimit", host.ulimits.iter().flatten().next().is_some());
    ignored("--oom-kill-disable", host.oom_kill_disable == Some(true));
    ignored(
        "--cgroup-parent",
        host.cgroup_parent
            .as_ref()
            .is_some_and(|parent| !parent.is_empty()),
    );
    ignored(
        "--cgroupns host",
        host.cgroupns_mode == Some(HostConfigCgroupnsModeEnum::HOST),
    );
    ignored(
        "--cpuset-cpus",
        host.cpuset_cpus
            .as_ref()
            .is_some_and(|cpus| !cpus.is_empty()),
    );
    let set = |number: Option<i64>| number.is_some_and(|number| number != 0);
    ignored("--cpu-shares", set(host.cpu_shares));
    ignored("--memory-reservation", set(host.memory_reservation));
    // There is no swap: -1 (as much as there is) and as much as the memory ask for nothing else.
    ignored(
        "--memory-swap",
        set(host.memory_swap) && host.memory_swap != Some(-1) && host.memory_swap != host.memory,
    );
    ignored("--oom-score-adj", set(host.oom_score_adj));
    ignored(
        "--blkio-weight",
        host.blkio_weight.is_some_and(|weight| weight != 0),
    );
}

#[cfg(test)]
mod tests {
    use bollard_stubs::models::DeviceMapping;

    use super::*;

    #[test]
    fn what_would_lose_data_or_safety_is_refused() {
        let some = |text: &str| Some(vec![text.to_owned()]);
        for host in [
            HostConfig {
                binds: some("/a:/b"),
                ..Default::default()
            },
            HostConfig {
                volumes_from: some("x"),
                ..Default::default()
            },
            HostConfig {
                links: some("x"),
                ..Default::default()
            },
            HostConfig {
                security_opt: some("no-new-privileges"),
                ..Default::default()
            },
            HostConfig {
                pid_mode: Some("host".into()),
                ..Default::default()
            },
            HostConfig {
                devices: Some(vec![DeviceMapping::default()]),
                ..Default::default()
            },
        ] {
            let error = refuse(&host).unwrap_err();
            assert!(
                error.message().contains("not supported by Hearth yet"),
                "{host:?}"
            );
        }
        assert!(refuse(&HostConfig::default()).is_ok());
    }

    #[test]
    fn harmless_options_are_told() {
        let mut warnings = Vec::new();
        warn(
            &HostConfig {
                init: Some(true),
                ..Default::default()
            },
            &mut warnings,
        );
        assert_eq!(warnings, ["--init has no effect on Hearth yet."]);
    }
}
