//! What pods ask for and nodes have.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Band, Priority};

/// Amounts that are used up.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(default)]
pub struct Resources {
    /// Bytes.
    pub memory_bytes: u64,
    /// 1e-9 processors.
    pub nano_cpus: u64,
    /// Bytes of the data disk.
    pub disk_bytes: u64,
}

/// One of the [`Resources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Memory.
    Memory,
    /// Processors.
    Processors,
    /// The data disk.
    Disk,
}

/// One of the amounts that a user may name: what is to be there for the pod, and what it may not exceed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// `--memory-reservation`, or a service's reservation. 0: none.
    pub reservation: u64,
    /// `-m`, `--cpus`, `--storage-opt size=`. 0: none.
    pub limit: u64,
}

/// All that a user may name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AskedFor {
    /// Bytes.
    pub memory: Bounds,
    /// 1e-9 processors.
    pub processors: Bounds,
    /// Bytes.
    pub disk: Bounds,
}

/// What is counted where nothing was named, as in most of docker's containers: memory is what a pod touches, and an idle one costs its
/// node less than this (`docs/BENCHMARKS.md`, its budget). Disk: a layer is a reflink, and mostly logs are written to it. Processors are
/// shared by weight; a twentieth keeps a node from hundreds of pods that nobody has estimated.
pub const UNNAMED: Resources = Resources {
    memory_bytes: 64 << 20,
    nano_cpus: 50_000_000,
    disk_bytes: 64 << 20,
};

/// How many times over the limits of pods may promise what there is. A reservation is a promise and counts in full. A limit is a
/// ceiling: docker's users set it with room to spare, and a node whose pods touch more than it has takes from the largest
/// (`agent/local/shortage`). Borg, likewise, counts production in full and gives what production doesn't use to others; they may be
/// evicted, so theirs count for half of what they would in production.
const MEMORY_OVERCOMMIT: u64 = 2;
/// As [`MEMORY_OVERCOMMIT`]; more, since a processor that is short makes a pod slow and ends none.
const PROCESSOR_OVERCOMMIT: u64 = 4;
/// As [`MEMORY_OVERCOMMIT`]: a full disk stops writers, and layers are quotas that few reach.
const DISK_OVERCOMMIT: u64 = 2;
/// By how much less a limit counts below production.
const BELOW_PRODUCTION: u64 = 2;

impl Bounds {
    fn counted(self, unnamed: u64, overcommit: u64) -> u64 {
        match self {
            Self {
                reservation: 1..,
                limit: _,
            } => self.reservation,
            Self {
                reservation: 0,
                limit: 0,
            } => unnamed,
            // A low limit is no reason to count less than is touched, nor more than can be.
            Self {
                reservation: 0,
                limit,
            } => (limit / overcommit).max(unnamed.min(limit)),
        }
    }
}

impl AskedFor {
    /// What is counted for a pod of this priority.
    pub fn counted(&self, priority: Priority) -> Resources {
        let more = match priority.band() {
            Band::BestEffort | Band::Batch => BELOW_PRODUCTION,
            Band::Production | Band::Monitoring => 1,
        };
        Resources {
            memory_bytes: self
                .memory
                .counted(UNNAMED.memory_bytes, MEMORY_OVERCOMMIT * more),
            nano_cpus: self
                .processors
                .counted(UNNAMED.nano_cpus, PROCESSOR_OVERCOMMIT * more),
            disk_bytes: self
                .disk
                .counted(UNNAMED.disk_bytes, DISK_OVERCOMMIT * more),
        }
    }
}

impl Resources {
    /// Both together; the largest number where that is none.
    pub fn plus(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            nano_cpus: self.nano_cpus.saturating_add(other.nano_cpus),
            disk_bytes: self.disk_bytes.saturating_add(other.disk_bytes),
        }
    }

    /// What is left; nothing where there is less.
    pub fn minus(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            nano_cpus: self.nano_cpus.saturating_sub(other.nano_cpus),
            disk_bytes: self.disk_bytes.saturating_sub(other.disk_bytes),
        }
    }

    /// At least as much of each.
    pub fn holds(&self, other: &Self) -> bool {
        self.lacks(other).is_none()
    }

    /// The first of which there is less than in `other`.
    pub fn lacks(&self, other: &Self) -> Option<Resource> {
        Resource::ALL
            .into_iter()
            .find(|resource| self.of(*resource) < other.of(*resource))
    }

    /// One of the amounts.
    pub fn of(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Memory => self.memory_bytes,
            Resource::Processors => self.nano_cpus,
            Resource::Disk => self.disk_bytes,
        }
    }
}

impl Resource {
    /// In the order in which they are looked at.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Processors, Self::Disk];

    /// As in "it lacks …".
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Processors => "processors",
            Self::Disk => "disk space",
        }
    }

    /// An amount of it, for people.
    pub fn shown(self, amount: u64) -> impl fmt::Display {
        struct Shown(Resource, u64);
        impl fmt::Display for Shown {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    Resource::Processors => write_tenths(f, self.1, 1_000_000_000, ""),
                    Resource::Memory | Resource::Disk => {
                        const UNITS: [(u32, &str); 4] =
                            [(40, " TiB"), (30, " GiB"), (20, " MiB"), (10, " KiB")];
                        match UNITS.iter().find(|(shift, _)| self.1 >> shift > 0) {
                            Some((shift, unit)) => write_tenths(f, self.1, 1 << shift, unit),
                            None => write!(f, "{} bytes", self.1),
                        }
                    }
                }
            }
        }
        Shown(self, amount)
    }
}

/// Rounded down, so that a gap never looks larger than it is.
fn write_tenths(f: &mut fmt::Formatter<'_>, amount: u64, unit: u64, name: &str) -> fmt::Result {
    let (whole, tenths) = (amount / unit, amount % unit / (unit / 10).max(1));
    match tenths.min(9) {
        0 => write!(f, "{whole}{name}"),
        tenths => write!(f, "{whole}.{tenths}{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_counts_in_full_and_a_limit_in_part() {
        let memory = |reservation, limit, priority: &str| {
            let asked = AskedFor {
                memory: Bounds { reservation, limit },
                ..AskedFor::default()
            };
            asked.counted(priority.parse().unwrap()).memory_bytes
        };
        assert_eq!(memory(0, 0, "production"), UNNAMED.memory_bytes);
        assert_eq!(memory(1 << 30, 4 << 30, "batch"), 1 << 30);
        assert_eq!(memory(0, 4 << 30, "production"), 2 << 30);
        assert_eq!(memory(0, 4 << 30, "batch"), 1 << 30);
        assert_eq!(memory(0, 6 << 20, "production"), 6 << 20);
        assert_eq!(memory(0, 96 << 20, "production"), 64 << 20);
    }

    #[test]
    fn amounts_are_shown_as_people_write_them() {
        let shown = |resource: Resource, amount| resource.shown(amount).to_string();
        assert_eq!(shown(Resource::Memory, 8 << 30), "8 GiB");
        assert_eq!(shown(Resource::Memory, (3 << 30) + (200 << 20)), "3.1 GiB");
        assert_eq!(shown(Resource::Disk, u64::MAX), "16777215.9 TiB");
        assert_eq!(shown(Resource::Disk, 12), "12 bytes");
        assert_eq!(shown(Resource::Processors, 1_500_000_000), "1.5");
    }
}
