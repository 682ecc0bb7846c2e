//! What a tenant may have: checked when it asks, not when there is a place. What was admitted waits for room, and is not refused
//! because of others.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Band, Priority, Resource, Resources};
use crate::state::Tenant;

/// The most that a tenant may have at a time. None: no bound.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quota {
    /// Bytes.
    pub memory_bytes: Option<u64>,
    /// 1e-9 processors.
    pub nano_cpus: Option<u64>,
    /// Bytes.
    pub disk_bytes: Option<u64>,
    /// Pods, pending ones included.
    pub pods: Option<u64>,
    /// The highest band that it may ask for. None: production. Monitoring evicts production, anybody's.
    pub highest: Option<Band>,
}

/// What a tenant has: of all pods that were admitted, placed or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// What is counted for them.
    pub resources: Resources,
    /// How many.
    pub pods: u64,
}

/// A request that the tenant's quota doesn't allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverQuota {
    /// There would be too much of something.
    #[error(
        "{} quota exceeded: tenant {tenant} has {} of at most {}, and this asks for {} more; remove something, ask for less, or \
         have the owner raise the quota",
        .what, .what.shown(*.used), .what.shown(*.quota), .what.shown(*.asked)
    )]
    TooMuch {
        /// Whose.
        tenant: Tenant,
        /// Of what.
        what: Counted,
        /// What it has.
        used: u64,
        /// What this would add.
        asked: u64,
        /// What it may have.
        quota: u64,
    },
    /// It is bounded, and doesn't say what it takes at most.
    #[error("tenant {tenant} has a quota of {what}: say how much this container takes at most, by {}", .what.option())]
    Unlimited {
        /// Whose.
        tenant: Tenant,
        /// Of what.
        what: Counted,
    },
    /// It asked to go before others that it may not go before.
    #[error(
        "priority {priority} is not open to tenant {tenant}, whose highest is {}: ask for that, or have the owner raise it", .highest.name()
    )]
    Priority {
        /// Whose.
        tenant: Tenant,
        /// What was asked for.
        priority: Priority,
        /// What would have been taken.
        highest: Band,
    },
}

/// What a quota counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// One of the resources.
    Resource(Resource),
    /// Pods.
    Pods,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resource(resource) => resource.name(),
            Self::Pods => "containers",
        })
    }
}

impl Counted {
    /// docker's option for it.
    fn option(self) -> &'static str {
        match self {
            Self::Resource(Resource::Memory) => "--memory",
            Self::Resource(Resource::Processors) => "--cpus",
            Self::Resource(Resource::Disk) => "--storage-opt size=",
            Self::Pods => "nothing",
        }
    }

    fn shown(self, amount: u64) -> String {
        match self {
            Self::Resource(resource) => resource.shown(amount).to_string(),
            Self::Pods => amount.to_string(),
        }
    }
}

impl Usage {
    /// With one more pod.
    pub fn plus(self, asked: Resources) -> Self {
        Self {
            resources: self.resources.plus(asked),
            pods: self.pods.saturating_add(1),
        }
    }

    /// With one less.
    pub fn minus(self, asked: Resources) -> Self {
        Self {
            resources: self.resources.minus(asked),
            pods: self.pods.saturating_sub(1),
        }
    }
}

impl Quota {
    /// Whether a tenant that has this much may have one more pod.
    pub fn admits(
        &self,
        tenant: &Tenant,
        used: &Usage,
        asked: &Resources,
        priority: Priority,
    ) -> Result<(), OverQuota> {
        let highest = self.highest.unwrap_or(Band::Production);
        if priority.band() > highest {
            return Err(OverQuota::Priority {
                tenant: tenant.clone(),
                priority,
                highest,
            });
        }
        let bounds = [
            (Resource::Memory, self.memory_bytes),
            (Resource::Processors, self.nano_cpus),
            (Resource::Disk, self.disk_bytes),
        ];
        let amounts = bounds.into_iter().map(|(resource, quota)| {
            let (used, asked) = (used.resources.of(resource), asked.of(resource));
            (Counted::Resource(resource), used, asked, quota)
        });
        let over = amounts
            .chain([(Counted::Pods, used.pods, 1, self.pods)])
            .find(|(_, used, asked, quota)| {
                quota.is_some_and(|quota| used.saturating_add(*asked) > quota)
            });
        match over {
            Some((what, used, asked, Some(quota))) => Err(OverQuota::TooMuch {
                tenant: tenant.clone(),
                what,
                used,
                asked,
                quota,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_said_in_numbers() {
        let quota = Quota {
            memory_bytes: Some(8 << 30),
            pods: Some(2),
            ..Quota::default()
        };
        let tenant: Tenant = "acme".parse().unwrap();
        let asked = Resources {
            memory_bytes: 3 << 30,
            nano_cpus: u64::MAX,
            disk_bytes: u64::MAX,
        };
        let admits = |used: Usage, asked: Resources, priority: &str| {
            let priority = priority.parse().unwrap();
            quota
                .admits(&tenant, &used, &asked, priority)
                .map_err(|error| error.to_string())
        };
        let one = Usage::default().plus(asked);
        let two = one.plus(asked);
        assert_eq!(admits(one, asked, "production"), Ok(()));
        let error = admits(two, asked, "batch").unwrap_err();
        assert!(
            error.starts_with(
                "memory quota exceeded: tenant acme has 6 GiB of at most 8 GiB, and this asks for 3 GiB more"
            ),
            "{error}"
        );
        let error = admits(two, Resources::default(), "batch").unwrap_err();
        assert!(
            error.starts_with("containers quota exceeded: tenant acme has 2 of at most 2"),
            "{error}"
        );
        assert!(
            admits(one, asked, "monitoring")
                .unwrap_err()
                .contains("highest is production")
        );
        assert_eq!(two.minus(asked).minus(asked).pods, 0);
    }
}
