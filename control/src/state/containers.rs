//! All containers, and the ways by which they are looked up: none of them looks at more containers than it finds.
//!
//! The maps share what is equal between copies: a copy costs the same however many containers there are, and is made for each snapshot.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Container, ContainerId, ContainerName, Tenant, encoding};

/// Every container of every tenant.
#[derive(Debug, Clone, Default)]
pub struct Containers {
    all: RedBlackTreeMapSync<ContainerId, Arc<Container>>,
    by_name: RedBlackTreeMapSync<(Tenant, ContainerName), ContainerId>,
    /// And what its spec counts ([`spec_bytes`], which takes as long as all else that is done for a new container).
    by_tenant: RedBlackTreeMapSync<(Tenant, ContainerId), u64>,
    usage: RedBlackTreeMapSync<Tenant, Usage>,
    by_image: RedBlackTreeMapSync<(String, ContainerId), ()>,
}

/// What a tenant's containers take of the state.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    pub containers: u64,
    /// Bytes of their specs.
    pub bytes: u64,
}

/// Bytes that a container's spec takes, as it is written.
pub(super) fn spec_bytes(container: &Container) -> u64 {
    // What was decoded, or will be encoded, can be; a container that could not would be refused with its command.
    encoding::size(&container.spec).unwrap_or(0) as u64
}

impl Containers {
    /// By id.
    pub fn get(&self, id: &ContainerId) -> Option<&Arc<Container>> {
        self.all.get(id)
    }

    /// In the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Container>> {
        self.all.values()
    }

    /// A tenant's, in the order of their ids.
    pub fn of_tenant(&self, tenant: &Tenant) -> impl Iterator<Item = &Arc<Container>> {
        self.found(&self.by_tenant, tenant.clone(), LEAST)
    }

    /// The one that a tenant calls so.
    pub fn named(&self, tenant: &Tenant, name: &ContainerName) -> Option<&Arc<Container>> {
        let id = self.by_name.get(&(tenant.clone(), name.clone()))?;
        self.all.get(id)
    }

    /// The one of a tenant whose id begins so, if it is the only one.
    pub fn with_prefix(&self, tenant: &Tenant, prefix: &str) -> Option<&Arc<Container>> {
        let least = ContainerId::least_with(prefix)?;
        let mut found = self
            .found(&self.by_tenant, tenant.clone(), least)
            .take_while(|container| container.id.begins_with(prefix));
        found.next().filter(|_| found.next().is_none())
    }

    /// Those made of an image (`sha256:…`), whoever's.
    pub fn of_image(&self, image: &str) -> impl Iterator<Item = &Arc<Container>> {
        self.found(&self.by_image, image.to_owned(), LEAST)
    }

    /// Those with this `key` in an index, from an id on.
    fn found<'a, K: Ord + Clone, V>(
        &'a self,
        index: &'a RedBlackTreeMapSync<(K, ContainerId), V>,
        key: K,
        id: ContainerId,
    ) -> impl Iterator<Item = &'a Arc<Container>> {
        let from = (key.clone(), id);
        index
            .range(from..)
            .take_while(move |((of, _), _)| *of == key)
            .filter_map(|((_, id), _)| self.all.get(id))
    }

    pub(super) fn usage(&self, tenant: &Tenant) -> Usage {
        self.usage.get(tenant).copied().unwrap_or_default()
    }

    /// Adds one; what had its id goes.
    pub fn insert(&mut self, container: Container) {
        let bytes = spec_bytes(&container);
        self.insert_counted(container, bytes);
    }

    /// As above, for one whose [`spec_bytes`] are known.
    pub(super) fn insert_counted(&mut self, container: Container, bytes: u64) {
        self.remove(&container.id);
        let (tenant, id) = (&container.tenant, container.id);
        self.by_tenant.insert_mut((tenant.clone(), id), bytes);
        self.by_image.insert_mut((container.image.clone(), id), ());
        let mut usage = self.usage(tenant);
        usage.containers += 1;
        usage.bytes += bytes;
        self.usage.insert_mut(tenant.clone(), usage);
        self.by_name
            .insert_mut((tenant.clone(), container.name.clone()), id);
        self.all.insert_mut(id, Arc::new(container));
    }

    /// Takes one away.
    pub fn remove(&mut self, id: &ContainerId) -> Option<Arc<Container>> {
        let container = Arc::clone(self.all.get(id)?);
        let tenant = &container.tenant;
        let key = (tenant.clone(), *id);
        let bytes = self.by_tenant.get(&key).copied().unwrap_or_default();
        self.by_tenant.remove_mut(&key);
        self.by_image.remove_mut(&(container.image.clone(), *id));
        let mut usage = self.usage(tenant);
        usage.containers -= 1;
        usage.bytes -= bytes;
        if usage == Usage::default() {
            self.usage.remove_mut(tenant);
        } else {
            self.usage.insert_mut(tenant.clone(), usage);
        }
        self.by_name
            .remove_mut(&(tenant.clone(), container.name.clone()));
        self.all.remove_mut(id);
        Some(container)
    }

    /// One to be changed by the command of a revision: what it is looked up or counted by stays as it is, but for its name.
    pub fn change(&mut self, id: &ContainerId, revision: u64) -> Option<Change<'_>> {
        let before = self.all.get(id)?.name.clone();
        Some(Change {
            containers: self,
            id: *id,
            name: before,
            revision,
        })
    }
}

/// Where an index begins.
const LEAST: ContainerId = ContainerId::LEAST;

/// A container that is being changed; looked up by what it has become when this is dropped.
pub struct Change<'a> {
    containers: &'a mut Containers,
    id: ContainerId,
    name: ContainerName,
    revision: u64,
}

impl Deref for Change<'_> {
    type Target = Container;

    fn deref(&self) -> &Container {
        let found = self.containers.all.get(&self.id);
        found.expect("it was there when the change began, and nobody else can take it away")
    }
}

impl DerefMut for Change<'_> {
    fn deref_mut(&mut self) -> &mut Container {
        let found = self.containers.all.get_mut(&self.id);
        let found =
            found.expect("it was there when the change began, and nobody else can take it away");
        let container = Arc::make_mut(found);
        container.version = self.revision;
        container
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let container: &Container = self;
        if self.name == container.name {
            return;
        }
        let (tenant, name) = (container.tenant.clone(), container.name.clone());
        let by_name = &mut self.containers.by_name;
        by_name.remove_mut(&(tenant.clone(), self.name.clone()));
        by_name.insert_mut((tenant, name), self.id);
    }
}

impl PartialEq for Containers {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl FromIterator<Container> for Containers {
    fn from_iter<I: IntoIterator<Item = Container>>(all: I) -> Self {
        let mut containers = Self::default();
        all.into_iter()
            .for_each(|container| containers.insert(container));
        containers
    }
}

impl Serialize for Containers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|container| &**container))
    }
}

impl<'de> Deserialize<'de> for Containers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Container>::deserialize(deserializer)?
            .into_iter()
            .collect())
    }
}

#[cfg(test)]
impl Containers {
    /// Every index as it would be, were it made anew.
    pub fn assert_indexed(&self) {
        let fresh: Self = self.iter().map(|it| Container::clone(it)).collect();
        assert_eq!(self.by_name, fresh.by_name);
        assert_eq!(self.by_tenant, fresh.by_tenant);
        assert_eq!(self.usage, fresh.usage);
        assert_eq!(self.by_image, fresh.by_image);
    }
}
