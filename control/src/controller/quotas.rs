//! What each tenant may have, as hearth.toml says: asked when a container is created.
//!
//! All nodes of a cluster boot with one file, so there is nothing to replicate; a change of it takes a boot, as all changes of it do. What a
//! tenant has is counted from the state, and its creations on one node take their turns, so that none is counted too late. Asked at
//! several nodes in the same instant, it may come to as many containers too much as there are other nodes.

use std::collections::BTreeMap;

use tokio::sync::{Mutex, MutexGuard};

use crate::scheduler::{
    Band, Counted, OverQuota, PRIORITY, Quota, Resource, Resources, Usage, Wishes,
};
use crate::state::{ContainerSpec, State, Tenant};

/// See the module's page.
#[derive(Default)]
pub struct Quotas {
    /// With the turn of those who create.
    of: BTreeMap<Tenant, (Quota, Mutex<()>)>,
    /// Bytes of a writable layer where nothing is said.
    layer_bytes: u64,
}

impl Quotas {
    /// Of tenants that have bounds. `layer_bytes`: of a writable layer of which a container says nothing.
    pub fn new(of: BTreeMap<Tenant, Quota>, layer_bytes: u64) -> Self {
        let of = of.into_iter();
        Self {
            of: of
                .map(|(tenant, quota)| (tenant, (quota, Mutex::default())))
                .collect(),
            layer_bytes,
        }
    }

    /// Gives a container that says nothing of its priority the highest that its tenant may have, where that is below what it would have without
    /// a word.
    pub fn grade(&self, tenant: &Tenant, spec: &mut ContainerSpec) {
        let highest = self.of.get(tenant).and_then(|(quota, _)| quota.highest);
        if let Some(highest) = highest.filter(|highest| *highest < Band::Production) {
            let label = spec.labels.entry(PRIORITY.to_owned());
            label.or_insert_with(|| highest.name().to_owned());
        }
    }

    /// Whether a tenant may have one more container; others of it wait until what this returns is dropped. `state` is asked after their turn.
    pub async fn admit<S: std::ops::Deref<Target = State>>(
        &self,
        tenant: &Tenant,
        spec: &ContainerSpec,
        state: impl Fn() -> S,
    ) -> Result<Option<MutexGuard<'_, ()>>, OverQuota> {
        let bounds = self.of.get(tenant);
        let turn = match bounds {
            Some((_, turn)) => Some(turn.lock().await),
            None => None,
        };
        let mut quota = bounds.map(|(quota, _)| quota.clone()).unwrap_or_default();
        if quota.highest.is_none() && tenant.as_str() == Tenant::OWNER {
            // What evicts production, anybody's, is the owner's.
            quota.highest = Some(Band::Monitoring);
        }
        // Labels that can't be followed were refused before.
        let priority = Wishes::from_labels(&spec.labels)
            .unwrap_or_default()
            .priority;
        let asked = self.counted(spec);
        let used = match bounds {
            Some(_) => self.used(&state(), tenant),
            None => Usage::default(),
        };
        for (resource, bound) in [
            (Resource::Memory, quota.memory_bytes),
            (Resource::Processors, quota.nano_cpus),
        ] {
            if bound.is_some() && asked.of(resource) == 0 {
                return Err(OverQuota::Unlimited {
                    tenant: tenant.clone(),
                    what: Counted::Resource(resource),
                });
            }
        }
        quota.admits(tenant, &used, &asked, priority)?;
        Ok(turn)
    }

    /// The most that it may take. A container that has ended counts as one that runs: it may be started again at any time.
    fn counted(&self, spec: &ContainerSpec) -> Resources {
        Resources {
            memory_bytes: spec.memory_bytes,
            nano_cpus: spec.nano_cpus,
            disk_bytes: spec.storage_bytes.unwrap_or(self.layer_bytes),
        }
    }

    fn used(&self, state: &State, tenant: &Tenant) -> Usage {
        let own = state.containers.of_tenant(tenant);
        own.fold(Usage::default(), |used, container| {
            used.plus(self.counted(&container.spec))
        })
    }
}
