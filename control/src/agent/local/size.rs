//! How large a microVM is made.

use crate::agent::AgentError;
use crate::state::ContainerSpec;

const MIB: u64 = 1 << 20;

/// Memory where no `-m` is given. Only what is touched is taken from the node, but the guest kernel touches 1/64 of it for its
/// page descriptors while it boots: twice the memory is milliseconds of every start and megabytes of every idle container. Half the
/// node's at most, so that one container alone can't push the node itself out.
const DEFAULT_MEMORY_MIB: u64 = 1024;
/// What a guest needs beside the container's limit: kernel, guest init, page tables; plus [`DESCRIPTORS`] of the limit.
const GUEST_OWN_MIB: u64 = 64;
/// 64 bytes for each page of 4 KiB.
const DESCRIPTORS: u64 = 64;
/// Smallest guest that boots with room for a process.
const SMALLEST_MIB: u64 = 128;
/// Virtual CPUs where no `--cpus` is given: one more than one, so that a busy process doesn't starve the guest's own work; each further
/// one costs start time.
const DEFAULT_VCPUS: usize = 2;
/// The monitor's own limit.
const MOST_VCPUS: u64 = 32;

/// What the monitor is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Guest memory.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub vcpus: u8,
}

/// The size for a container on a node with so much.
pub fn size(
    spec: &ContainerSpec,
    node_memory_bytes: u64,
    node_cpus: usize,
) -> Result<Size, AgentError> {
    if spec.memory_bytes > node_memory_bytes {
        return Err(AgentError::Exhausted(format!(
            "{} MiB of memory asked for, and the node has {} MiB: ask for less with -m, or run it on a larger node",
            spec.memory_bytes.div_ceil(MIB),
            node_memory_bytes / MIB
        )));
    }
    let memory_mib = match spec.memory_bytes {
        0 => DEFAULT_MEMORY_MIB.min(node_memory_bytes / MIB / 2),
        limit => limit.div_ceil(MIB) + limit.div_ceil(MIB).div_ceil(DESCRIPTORS) + GUEST_OWN_MIB,
    };
    let vcpus = match spec.nano_cpus {
        0 => DEFAULT_VCPUS.min(node_cpus) as u64,
        nano => nano.div_ceil(1_000_000_000),
    };
    Ok(Size {
        memory_mib: u32::try_from(memory_mib.max(SMALLEST_MIB)).unwrap_or(u32::MAX),
        vcpus: vcpus.min(node_cpus as u64).clamp(1, MOST_VCPUS) as u8,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(memory_mib: u64, nano_cpus: u64) -> ContainerSpec {
        ContainerSpec {
            memory_bytes: memory_mib * MIB,
            nano_cpus,
            ..Default::default()
        }
    }

    #[test]
    fn a_limit_leaves_the_container_all_of_it() {
        let size = size(&spec(512, 0), 4096 * MIB, 8).unwrap();
        assert!(size.memory_mib >= 512 + 512 / 64 + 40);
    }

    #[test]
    fn more_than_the_node_has_is_refused_with_both_numbers() {
        let error = size(&spec(8192, 0), 4096 * MIB, 8).unwrap_err().to_string();
        assert!(error.contains("8192") && error.contains("4096"), "{error}");
    }

    #[test]
    fn virtual_cpus_round_up_and_stay_within_the_node() {
        let vcpus = |nano, node| size(&spec(0, nano), 4096 * MIB, node).unwrap().vcpus;
        assert_eq!(vcpus(500_000_000, 8), 1);
        assert_eq!(vcpus(1_500_000_000, 8), 2);
        assert_eq!(vcpus(64_000_000_000, 4), 4);
        assert_eq!(vcpus(0, 1), 1);
    }
}
