//! The options of `HostConfig`: those that a microVM gives a meaning, those that mean nothing here, and those that nobody may think
//! are in force when they are not.

use bollard_stubs::models::{
    HostConfig, Mount, MountType, NetworkingConfig, RestartPolicy as AskedPolicy,
    RestartPolicyNameEnum,
};

use super::{out_of_force, ports};
use crate::agent::NodeInfo;
use crate::api::docker::errors::ApiError;
use crate::api::docker::networks;
use crate::state::{ContainerSpec, RestartPolicy};

/// The least memory that docker takes, bytes.
const MEMORY_MIN: i64 = 6 << 20;
/// The least share of a CPU that docker takes, in 1e-9 CPUs.
const NANO_CPUS_MIN: u64 = 10_000_000;
/// The period of a CPU quota where none is given, microseconds (Linux, cgroup v2 `cpu.max`).
const CPU_PERIOD_US: i64 = 100_000;
/// docker's size for /dev/shm, bytes; the guest makes it of this size by itself.
const SHM_SIZE: i64 = 64 << 20;
/// What `--add-host name:host-gateway` means.
const HOST_GATEWAY: &str = "host-gateway";

/// Puts the options into the specification. Warnings are what is not in force and does no harm.
pub fn apply(
    spec: &mut ContainerSpec,
    host: HostConfig,
    networking: Option<&NetworkingConfig>,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    out_of_force::refuse(&host)?;
    out_of_force::warn(&host, warnings);

    let mode = host.network_mode.unwrap_or_default();
    networks::check_asked_for(&mode, networking)?;
    if !mode.is_empty() {
        spec.network_mode = mode;
    } else if spec.network_mode.is_empty() {
        spec.network_mode = "default".to_owned();
    }
    spec.ports = ports::bindings(&host.port_bindings.unwrap_or_default())?;
    for binding in &spec.ports {
        let port = format!(
            "{}/{}",
            binding.container_port,
            if binding.protocol == crate::state::Protocol::Tcp {
                "tcp"
            } else {
                "udp"
            }
        );
        spec.exposed_ports.insert(port);
    }
    spec.publish_all = host.publish_all_ports.unwrap_or_default();
    spec.auto_remove = host.auto_remove.unwrap_or_default();
    spec.restart = restart_policy(host.restart_policy.unwrap_or_default())?;
    if spec.auto_remove && spec.restart != RestartPolicy::No {
        return Err(ApiError::bad_request(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    spec.memory_bytes = memory(host.memory.unwrap_or_default())?;
    spec.nano_cpus = cpus(host.nano_cpus, host.cpu_period, host.cpu_quota)?;
    spec.pids_limit = host
        .pids_limit
        .and_then(|limit| u64::try_from(limit).ok())
        .unwrap_or_default();
    spec.read_only = host.readonly_rootfs.unwrap_or_default();
    spec.privileged = host.privileged.unwrap_or_default();
    spec.cap_add = host.cap_add.unwrap_or_default();
    spec.cap_drop = host.cap_drop.unwrap_or_default();
    spec.groups = host.group_add.unwrap_or_default();
    spec.dns = host.dns.unwrap_or_default();
    for server in &spec.dns {
        if server.parse::<std::net::IpAddr>().is_err() {
            return Err(ApiError::bad_request(format!(
                "invalid IP address: {server}"
            )));
        }
    }
    spec.dns_search = host.dns_search.unwrap_or_default();
    spec.dns_options = host.dns_options.unwrap_or_default();
    spec.extra_hosts = host
        .extra_hosts
        .iter()
        .flatten()
        .map(|entry| extra_host(entry))
        .collect::<Result<_, _>>()?;
    spec.tmpfs = host.tmpfs.unwrap_or_default().into_iter().collect();
    for mount in host.mounts.iter().flatten() {
        let (target, options) = tmpfs(mount)?;
        spec.tmpfs.insert(target, options);
    }
    for target in spec.tmpfs.keys() {
        if !target.starts_with('/') {
            return Err(ApiError::bad_request(format!(
                "invalid mount path: '{target}' mount path must be absolute"
            )));
        }
    }
    match host.shm_size {
        Some(size) if size < 0 => {
            return Err(ApiError::bad_request("SHM size can not be less than 0"));
        }
        Some(size) if size > 0 && size != SHM_SIZE => {
            spec.tmpfs
                .entry("/dev/shm".to_owned())
                .or_insert_with(|| format!("nosuid,nodev,noexec,mode=1777,size={size}"));
        }
        _ => {}
    }
    Ok(())
}

/// Asking for more than the node has can't come to anything; it is told at creation, where the client reads it.
pub fn check_against_node(spec: &ContainerSpec, node: &NodeInfo) -> Result<(), ApiError> {
    let cpus = node.cpus as u64;
    if spec.nano_cpus > 0
        && cpus > 0
        && !(NANO_CPUS_MIN..=cpus * 1_000_000_000).contains(&spec.nano_cpus)
    {
        return Err(ApiError::bad_request(format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )));
    }
    if node.memory_bytes > 0 && spec.memory_bytes > node.memory_bytes {
        return Err(ApiError::bad_request(format!(
            "{} MiB of memory were asked for (-m), and node {} has {} MiB",
            spec.memory_bytes >> 20,
            node.name,
            node.memory_bytes >> 20
        )));
    }
    if let Some(bytes) = spec.storage_bytes {
        let (least, most) = (node.layer_bytes_min, node.storage_total_bytes);
        if bytes < least {
            return Err(ApiError::bad_request(format!(
                "storage size of {bytes} bytes is less than a writable layer can have: {} GiB is the least",
                least >> 30
            )));
        }
        if most > 0 && bytes > most {
            return Err(ApiError::bad_request(format!(
                "storage size of {} GiB was asked for, and the disk of node {} has {} GiB",
                bytes >> 30,
                node.name,
                most >> 30
            )));
        }
    }
    Ok(())
}

fn restart_policy(asked: AskedPolicy) -> Result<RestartPolicy, ApiError> {
    let retries = asked.maximum_retry_count.unwrap_or_default();
    let maximum_retries = u32::try_from(retries)
        .map_err(|_| ApiError::bad_request("maximum retry count cannot be negative"))?;
    let name = asked.name.unwrap_or(RestartPolicyNameEnum::EMPTY);
    if maximum_retries > 0 && name != RestartPolicyNameEnum::ON_FAILURE {
        return Err(ApiError::bad_request(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ));
    }
    Ok(match name {
        RestartPolicyNameEnum::EMPTY | RestartPolicyNameEnum::NO => RestartPolicy::No,
        RestartPolicyNameEnum::ALWAYS => RestartPolicy::Always,
        RestartPolicyNameEnum::UNLESS_STOPPED => RestartPolicy::UnlessStopped,
        RestartPolicyNameEnum::ON_FAILURE => RestartPolicy::OnFailure { maximum_retries },
    })
}

fn memory(bytes: i64) -> Result<u64, ApiError> {
    if bytes != 0 && bytes < MEMORY_MIN {
        return Err(ApiError::bad_request("Minimum memory limit allowed is 6MB"));
    }
    Ok(bytes.unsigned_abs())
}

fn cpus(nano: Option<i64>, period_us: Option<i64>, quota_us: Option<i64>) -> Result<u64, ApiError> {
    let (nano, period, quota) = (
        nano.unwrap_or(0),
        period_us.unwrap_or(0),
        quota_us.unwrap_or(0),
    );
    if nano < 0 || period < 0 {
        return Err(ApiError::bad_request(
            "the number of CPUs and the CPU period can't be negative",
        ));
    }
    if nano > 0 && (period > 0 || quota > 0) {
        return Err(ApiError::bad_request(
            "conflicting options: Nano CPUs and CPU quota or period cannot both be set",
        ));
    }
    if quota <= 0 {
        return Ok(nano.unsigned_abs());
    }
    let period = if period == 0 { CPU_PERIOD_US } else { period };
    let share = i128::from(quota) * 1_000_000_000 / i128::from(period);
    u64::try_from(share).map_err(|_| ApiError::bad_request("the CPU quota is too large"))
}

fn extra_host(entry: &str) -> Result<String, ApiError> {
    let (name, address) = entry.split_once([':', '=']).unwrap_or((entry, ""));
    let address = if address == HOST_GATEWAY {
        networks::GATEWAY
    } else {
        address.trim_matches(['[', ']'])
    };
    if name.is_empty() || address.parse::<std::net::IpAddr>().is_err() {
        return Err(ApiError::bad_request(format!(
            "invalid IP address in add-host: {entry:?}"
        )));
    }
    Ok(format!("{name}:{address}"))
}

fn tmpfs(mount: &Mount) -> Result<(String, String), ApiError> {
    if mount.typ != Some(MountType::TMPFS) {
        return Err(ApiError::unsupported(
            "bind mounts and volumes (-v, --mount) are",
        ));
    }
    let target = mount.target.clone().unwrap_or_default();
    let asked = mount.tmpfs_options.clone().unwrap_or_default();
    let mut options = vec!["nosuid".to_owned(), "nodev".to_owned(), "noexec".to_owned()];
    if mount.read_only == Some(true) {
        options.push("ro".to_owned());
    }
    options.extend(
        asked
            .size_bytes
            .filter(|&size| size > 0)
            .map(|size| format!("size={size}")),
    );
    options.extend(
        asked
            .mode
            .filter(|&mode| mode > 0)
            .map(|mode| format!("mode={mode:o}")),
    );
    Ok((target, options.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(host: HostConfig) -> Result<(ContainerSpec, Vec<String>), String> {
        let (mut spec, mut warnings) = (ContainerSpec::default(), Vec::new());
        apply(&mut spec, host, None, &mut warnings).map_err(|e| e.message().to_owned())?;
        Ok((spec, warnings))
    }

    #[test]
    fn a_layer_is_no_smaller_than_the_smallest_and_no_larger_than_the_disk() {
        let node = NodeInfo {
            layer_bytes_min: 10 << 30,
            storage_total_bytes: 100 << 30,
            ..NodeInfo::default()
        };
        for (gib, taken) in [(9, false), (10, true), (100, true), (101, false)] {
            let spec = ContainerSpec {
                storage_bytes: Some(gib << 30),
                ..ContainerSpec::default()
            };
            assert_eq!(check_against_node(&spec, &node).is_ok(), taken, "{gib}");
        }
    }

    #[test]
    fn only_memory_is_mounted() {
        let volume = Mount {
            typ: Some(MountType::VOLUME),
            ..Default::default()
        };
        let host = HostConfig {
            mounts: Some(vec![volume]),
            ..Default::default()
        };
        assert!(
            applied(host)
                .unwrap_err()
                .contains("not supported by Hearth yet")
        );
    }

    #[test]
    fn limits_are_read_in_both_ways() {
        let host = HostConfig {
            cpu_quota: Some(50_000),
            memory: Some(64 << 20),
            pids_limit: Some(-1),
            ..Default::default()
        };
        let (spec, _) = applied(host).unwrap();
        assert_eq!(
            (spec.nano_cpus, spec.memory_bytes, spec.pids_limit),
            (500_000_000, 64 << 20, 0)
        );
        assert!(
            applied(HostConfig {
                memory: Some(1 << 20),
                ..Default::default()
            })
            .unwrap_err()
            .contains("6MB")
        );
        assert!(
            applied(HostConfig {
                memory: Some(-1),
                ..Default::default()
            })
            .is_err()
        );
    }

    #[test]
    fn more_than_the_node_has_is_refused() {
        let node = NodeInfo {
            cpus: 2,
            memory_bytes: 2 << 30,
            name: "n".into(),
            ..Default::default()
        };
        let spec = |memory_bytes, nano_cpus| ContainerSpec {
            memory_bytes,
            nano_cpus,
            ..Default::default()
        };
        assert!(check_against_node(&spec(2 << 30, 2_000_000_000), &node).is_ok());
        assert!(
            check_against_node(&spec(3 << 30, 0), &node)
                .unwrap_err()
                .message()
                .contains("2048 MiB")
        );
        assert!(
            check_against_node(&spec(0, 3_000_000_000), &node)
                .unwrap_err()
                .message()
                .contains("only 2 CPUs")
        );
    }

    #[test]
    fn an_automatic_removal_and_a_restart_policy_exclude_each_other() {
        let always = AskedPolicy {
            name: Some(RestartPolicyNameEnum::ALWAYS),
            ..Default::default()
        };
        let host = HostConfig {
            auto_remove: Some(true),
            restart_policy: Some(always),
            ..Default::default()
        };
        assert!(applied(host).unwrap_err().contains("AutoRemove"));
    }

    #[test]
    fn a_larger_dev_shm_is_a_tmpfs() {
        let (spec, _) = applied(HostConfig {
            shm_size: Some(1 << 30),
            ..Default::default()
        })
        .unwrap();
        assert!(spec.tmpfs["/dev/shm"].contains("size=1073741824"));
    }

    #[test]
    fn the_node_has_a_name_for_containers() {
        assert_eq!(
            extra_host("docker:host-gateway").unwrap(),
            "docker:10.88.0.1"
        );
        assert_eq!(extra_host("six:[::1]").unwrap(), "six:::1");
        assert!(extra_host("nothing").is_err());
    }
}
