//! Memory, processors, processes and disk, as `HostConfig` asks for them. What makes no sense is refused in docker's words (the rules are
//! in the descriptions of the Engine's specification, `Resources` and `HostConfig`).

use bollard_stubs::models::{HostConfig, ResourcesUlimits};

use crate::agent::NodeInfo;
use crate::api::docker::errors::ApiError;
use crate::state::{ContainerSpec, Ulimit};

/// The least memory that docker takes, bytes.
const MEMORY_MIN: i64 = 6 << 20;
/// The least share of a CPU that docker takes, in 1e-9 CPUs.
const NANO_CPUS_MIN: u64 = 10_000_000;
/// The period of a CPU quota where none is given, microseconds (Linux, cgroup v2 `cpu.max`).
const CPU_PERIOD_US: i64 = 100_000;
/// The periods that Linux takes, microseconds.
const CPU_PERIODS_US: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
/// The least quota that Linux takes, microseconds.
const CPU_QUOTA_MIN_US: i64 = 1_000;
/// Names of resource limits (setrlimit(2)) as docker has them.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Puts the limits into the specification.
pub fn apply(spec: &mut ContainerSpec, host: &HostConfig) -> Result<(), ApiError> {
    check_memory(host)?;
    check_shares(host)?;
    spec.memory_bytes = host.memory.unwrap_or_default().unsigned_abs();
    spec.nano_cpus = cpus(host)?;
    spec.pids_limit = host
        .pids_limit
        .and_then(|limit| u64::try_from(limit).ok())
        .unwrap_or_default();
    spec.shm_bytes = u64::try_from(host.shm_size.unwrap_or_default())
        .map_err(|_| ApiError::bad_request("SHM size can not be less than 0"))?;
    let adjustment = host.oom_score_adj.unwrap_or_default();
    if !(-1000..=1000).contains(&adjustment) {
        return Err(ApiError::bad_request(format!(
            "Invalid value {adjustment}, range for oom score adj is [-1000, 1000]"
        )));
    }
    // In range of both, as was just seen.
    spec.oom_score_adj = adjustment as i32;
    spec.ulimits = host
        .ulimits
        .iter()
        .flatten()
        .map(ulimit)
        .collect::<Result<_, _>>()?;
    for (name, value) in host.storage_opt.iter().flatten() {
        if name != "size" {
            return Err(ApiError::bad_request(format!("unknown option {name}")));
        }
        spec.storage_bytes = Some(bytes(value)?);
    }
    Ok(())
}

/// Asking for more than the node has can't come to anything; it is told at creation, where the client reads it.
pub fn check_against_node(
    spec: &ContainerSpec,
    host: &HostConfig,
    node: &NodeInfo,
) -> Result<(), ApiError> {
    let refused = |message: String| Err(ApiError::bad_request(message));
    let cpus = node.cpus;
    if cpus > 0 {
        if host.nano_cpus.is_some_and(|nano| nano != 0)
            && !(NANO_CPUS_MIN..=cpus as u64 * 1_000_000_000).contains(&spec.nano_cpus)
        {
            return refused(format!(
                "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
            ));
        }
        check_set("cpus", "CPUs", &host.cpuset_cpus, cpus)?;
        // A microVM has one memory node, whatever its machine has.
        check_set("mems", "memory nodes", &host.cpuset_mems, 1)?;
    }
    if node.memory_bytes > 0 && spec.memory_bytes > node.memory_bytes {
        return refused(format!(
            "{} MiB of memory were asked for (-m), and node {} has {} MiB",
            spec.memory_bytes >> 20,
            node.name,
            node.memory_bytes >> 20
        ));
    }
    if let Some(bytes) = spec.storage_bytes {
        let (least, most) = (node.layer_bytes_min, node.storage_total_bytes);
        if bytes < least {
            return refused(format!(
                "storage size of {bytes} bytes is less than a writable layer can have: {} MiB is the least",
                least >> 20
            ));
        }
        if most > 0 && bytes > most {
            return refused(format!(
                "storage size of {} GiB was asked for, and the disk of node {} has {} GiB",
                bytes >> 30,
                node.name,
                most >> 30
            ));
        }
    }
    Ok(())
}

fn check_memory(host: &HostConfig) -> Result<(), ApiError> {
    let refused = |message: &str| Err(ApiError::bad_request(message));
    let memory = host.memory.unwrap_or_default();
    let swap = host.memory_swap.unwrap_or_default();
    let reservation = host.memory_reservation.unwrap_or_default();
    if memory != 0 && memory < MEMORY_MIN {
        return refused("Minimum memory limit allowed is 6MB");
    }
    if memory > 0 && swap > 0 && swap < memory {
        return refused("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if memory == 0 && swap > 0 {
        return refused(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    // -1: the node's own, as if it weren't given.
    let swappiness = host.memory_swappiness.unwrap_or(-1);
    if swappiness != -1 && !(0..=100).contains(&swappiness) {
        return Err(ApiError::bad_request(format!(
            "Invalid value: {swappiness}, valid memory swappiness range is 0-100"
        )));
    }
    if reservation > 0 && reservation < MEMORY_MIN {
        return refused("Minimum memory reservation allowed is 6MB");
    }
    if memory > 0 && reservation > memory {
        return refused(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    Ok(())
}

/// Shares and weights, and what Linux has no such thing as.
fn check_shares(host: &HostConfig) -> Result<(), ApiError> {
    let refused = |message: &str| Err(ApiError::bad_request(message));
    let set = |number: Option<i64>| number.is_some_and(|number| number != 0);
    if let Some(shares) = host.cpu_shares.filter(|&shares| shares < 0) {
        return Err(ApiError::bad_request(format!(
            "invalid CPU shares ({shares}): value must be a positive integer"
        )));
    }
    if host
        .blkio_weight
        .is_some_and(|weight| weight != 0 && !(10..=1000).contains(&weight))
    {
        return refused("Range of blkio weight is from 10 to 1000");
    }
    if set(host.cpu_realtime_period) || set(host.cpu_realtime_runtime) {
        return refused("kernel does not support CPU real-time scheduler");
    }
    if set(host.io_maximum_bandwidth) {
        return refused(
            "invalid option: QoS maximum bandwidth configuration is not supported on linux",
        );
    }
    if set(host.io_maximum_iops) {
        return refused("invalid option: QoS maximum IOPs configuration is not supported on linux");
    }
    Ok(())
}

/// In 1e-9 CPUs; 0: no limit.
fn cpus(host: &HostConfig) -> Result<u64, ApiError> {
    let refused = |message: &str| Err(ApiError::bad_request(message));
    let nano = host.nano_cpus.unwrap_or_default();
    let period = host.cpu_period.unwrap_or_default();
    let quota = host.cpu_quota.unwrap_or_default();
    if nano > 0 && period > 0 {
        return refused("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if nano > 0 && quota > 0 {
        return refused("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    if period != 0 && !CPU_PERIODS_US.contains(&period) {
        return refused(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if quota > 0 && quota < CPU_QUOTA_MIN_US {
        return refused("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if quota <= 0 {
        return u64::try_from(nano)
            .map_err(|_| ApiError::bad_request("the number of CPUs can't be negative"));
    }
    let period = if period == 0 { CPU_PERIOD_US } else { period };
    let share = i128::from(quota) * 1_000_000_000 / i128::from(period);
    u64::try_from(share).map_err(|_| ApiError::bad_request("the CPU quota is too large"))
}

fn ulimit(asked: &ResourcesUlimits) -> Result<Ulimit, ApiError> {
    let name = asked.name.clone().unwrap_or_default();
    let (soft, hard) = (
        asked.soft.unwrap_or_default(),
        asked.hard.unwrap_or_default(),
    );
    if !ULIMITS.contains(&name.as_str()) {
        return Err(ApiError::bad_request(format!(
            "invalid ulimit type: {name}"
        )));
    }
    // -1: unlimited.
    let refused = |soft: &str| {
        Err(ApiError::bad_request(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft}"
        )))
    };
    match (soft, hard) {
        (_, -1) => {}
        (-1, hard) => return refused(&format!("soft: -1 (unlimited), hard: {hard}")),
        (soft, hard) if soft > hard => return refused(&format!("{soft} > {hard}")),
        _ => {}
    }
    Ok(Ulimit { name, soft, hard })
}

/// A list of numbers and ranges (`0-2,7`), each below `there`.
fn check_set(name: &str, what: &str, asked: &Option<String>, there: usize) -> Result<(), ApiError> {
    let Some(asked) = asked.as_ref().filter(|asked| !asked.is_empty()) else {
        return Ok(());
    };
    let invalid = || {
        ApiError::bad_request(format!(
            "Invalid value {asked} for cpuset {name}: invalid format: {asked}"
        ))
    };
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| invalid());
    for range in asked.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(invalid());
        }
        if last >= there {
            let available = match there {
                1 => "0".to_owned(),
                more => format!("0-{}", more - 1),
            };
            return Err(ApiError::bad_request(format!(
                "Requested {what} are not available - requested {asked}, available: {available}"
            )));
        }
    }
    Ok(())
}

/// Bytes as docker's options write them: `10G`, `1.5gb`, `512MiB`, `4096`; units are powers of 1024.
fn bytes(text: &str) -> Result<u64, ApiError> {
    let invalid = || ApiError::bad_request(format!("invalid size: '{text}'"));
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let unit = unit.trim_start().to_ascii_lowercase();
    let letter = unit.trim_end_matches('b').trim_end_matches('i');
    let shift = ["", "k", "m", "g", "t", "p"]
        .iter()
        .position(|known| *known == letter && unit.len() <= 3 && unit != "i" && unit != "ib")
        .ok_or_else(invalid)?;
    let bytes = number * 1024f64.powi(shift as i32);
    // Larger than any disk, and still exact enough as a float.
    if bytes < 1.0 || bytes > (1u64 << 60) as f64 {
        return Err(invalid());
    }
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(host: HostConfig) -> Result<ContainerSpec, String> {
        let mut spec = ContainerSpec::default();
        apply(&mut spec, &host).map_err(|error| error.message().to_owned())?;
        Ok(spec)
    }

    fn host(json: serde_json::Value) -> HostConfig {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_layer_is_no_smaller_than_the_smallest_and_no_larger_than_the_disk() {
        let node = NodeInfo {
            layer_bytes_min: 64 << 20,
            storage_total_bytes: 100 << 30,
            ..NodeInfo::default()
        };
        for (mib, taken) in [
            (63, false),
            (64, true),
            (100 << 10, true),
            (101 << 10, false),
        ] {
            let spec = ContainerSpec {
                storage_bytes: Some(mib << 20),
                ..ContainerSpec::default()
            };
            let checked = check_against_node(&spec, &HostConfig::default(), &node);
            assert_eq!(checked.is_ok(), taken, "{mib}");
        }
    }

    #[test]
    fn limits_are_read_in_both_ways() {
        let spec = applied(host(serde_json::json!({
            "CpuQuota": 50_000, "Memory": 64 << 20, "PidsLimit": -1, "ShmSize": 1 << 30,
            "StorageOpt": { "size": "20G" }, "Ulimits": [{ "Name": "nofile", "Soft": 5, "Hard": -1 }]
        })))
        .unwrap();
        assert_eq!(
            (spec.nano_cpus, spec.memory_bytes, spec.pids_limit),
            (500_000_000, 64 << 20, 0)
        );
        assert_eq!(
            (spec.shm_bytes, spec.storage_bytes),
            (1 << 30, Some(20 << 30))
        );
        assert_eq!(spec.ulimits[0].hard, -1);
    }

    #[test]
    fn nonsense_is_refused_in_dockers_words() {
        use serde_json::json;
        for (asked, words) in [
            (json!({"Memory": -1}), "Minimum memory limit allowed is 6MB"),
            (
                json!({"Memory": 1000}),
                "Minimum memory limit allowed is 6MB",
            ),
            (
                json!({"Memory": 64 << 20, "MemorySwap": 1000}),
                "Minimum memoryswap limit should be larger than memory limit, see usage",
            ),
            (
                json!({"MemorySwap": 64 << 20}),
                "You should always set the Memory limit when using Memoryswap limit, see usage",
            ),
            (
                json!({"MemorySwappiness": 101}),
                "Invalid value: 101, valid memory swappiness range is 0-100",
            ),
            (
                json!({"MemorySwappiness": -2}),
                "Invalid value: -2, valid memory swappiness range is 0-100",
            ),
            (
                json!({"MemoryReservation": 1000}),
                "Minimum memory reservation allowed is 6MB",
            ),
            (
                json!({"Memory": 64 << 20, "MemoryReservation": 65 << 20}),
                "Minimum memory limit can not be less than memory reservation limit, see usage",
            ),
            (
                json!({"NanoCpus": 1_000_000_000, "CpuQuota": 5000}),
                "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
            ),
            (
                json!({"NanoCpus": 1_000_000_000, "CpuPeriod": 5000}),
                "Conflicting options: Nano CPUs and CPU Period cannot both be set",
            ),
            (
                json!({"CpuPeriod": 10}),
                "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
            ),
            (
                json!({"CpuPeriod": -1}),
                "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
            ),
            (
                json!({"CpuQuota": 10}),
                "CPU cfs quota can not be less than 1ms (i.e. 1000)",
            ),
            (
                json!({"CpuShares": -1}),
                "invalid CPU shares (-1): value must be a positive integer",
            ),
            (
                json!({"BlkioWeight": 5}),
                "Range of blkio weight is from 10 to 1000",
            ),
            (
                json!({"BlkioWeight": 1001}),
                "Range of blkio weight is from 10 to 1000",
            ),
            (
                json!({"CpuRealtimePeriod": 1000}),
                "kernel does not support CPU real-time scheduler",
            ),
            (
                json!({"IOMaximumIOps": 1}),
                "invalid option: QoS maximum IOPs configuration is not supported on linux",
            ),
            (
                json!({"IOMaximumBandwidth": 1}),
                "invalid option: QoS maximum bandwidth configuration is not supported on linux",
            ),
            (json!({"ShmSize": -1}), "SHM size can not be less than 0"),
            (
                json!({"OomScoreAdj": 1001}),
                "Invalid value 1001, range for oom score adj is [-1000, 1000]",
            ),
            (
                json!({"Ulimits": [{"Name": "nosuch", "Soft": 1, "Hard": 1}]}),
                "invalid ulimit type: nosuch",
            ),
            (
                json!({"Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 3}]}),
                "ulimit soft limit must be less than or equal to hard limit: 5 > 3",
            ),
            (
                json!({"Ulimits": [{"Name": "nofile", "Soft": -1, "Hard": 3}]}),
                "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: 3",
            ),
            (json!({"StorageOpt": {"size": "x"}}), "invalid size: 'x'"),
            (json!({"StorageOpt": {"foo": "1"}}), "unknown option foo"),
        ] {
            assert_eq!(applied(host(asked.clone())).unwrap_err(), words, "{asked}");
        }
    }

    #[test]
    fn more_than_the_node_has_is_refused() {
        use serde_json::json;
        let node = NodeInfo {
            cpus: 2,
            memory_bytes: 2 << 30,
            name: "n".into(),
            ..Default::default()
        };
        let checked = |asked: serde_json::Value| {
            let host = host(asked);
            let mut spec = ContainerSpec::default();
            apply(&mut spec, &host)
                .and_then(|()| check_against_node(&spec, &host, &node))
                .map_err(|error| error.message().to_owned())
        };
        checked(json!({ "Memory": 2i64 << 30, "NanoCpus": 2_000_000_000, "CpusetCpus": "0-1", "CpusetMems": "0" })).unwrap();
        for (asked, words) in [
            (
                json!({ "Memory": 3i64 << 30 }),
                "3072 MiB of memory were asked for (-m), and node n has 2048 MiB",
            ),
            (
                json!({ "NanoCpus": 3_000_000_000i64 }),
                "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
            ),
            (
                json!({ "NanoCpus": 1 }),
                "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
            ),
            (
                json!({ "CpusetCpus": "x" }),
                "Invalid value x for cpuset cpus: invalid format: x",
            ),
            (
                json!({ "CpusetCpus": "0-99" }),
                "Requested CPUs are not available - requested 0-99, available: 0-1",
            ),
            (
                json!({ "CpusetMems": "5" }),
                "Requested memory nodes are not available - requested 5, available: 0",
            ),
        ] {
            assert_eq!(checked(asked.clone()).unwrap_err(), words, "{asked}");
        }
    }

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, size) in [
            ("4096", 4096),
            ("10G", 10 << 30),
            ("10gb", 10 << 30),
            ("1.5GiB", 3 << 29),
            ("512 m", 512 << 20),
            ("7b", 7),
        ] {
            assert_eq!(bytes(text).unwrap(), size, "{text}");
        }
        for text in [
            "",
            "G",
            "-1",
            "0",
            "1x",
            "1i",
            "1ib",
            "1bb1",
            "9999999999p",
            "1.2.3",
        ] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_size_and_any_set_is_read_or_refused(text in "[0-9., kmgib-]{0,12}|.{0,8}") {
            let _ = (bytes(&text), check_set("cpus", "CPUs", &Some(text), 4));
        }
    }
}
