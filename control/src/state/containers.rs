//! All containers, and the ways by which they are looked up: none of them looks at more containers than it finds.
//!
//! The maps share what is equal between copies: a copy costs the same however many containers there are, and is made for each snapshot.

use std::ops::{Deref, DerefMut};

use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::address::Gaps;
use super::{Container, ContainerId, ContainerName, NodeId, Tenant, encoding};

/// Every container of every tenant.
#[derive(Debug, Clone, Default)]
pub struct Containers {
    all: RedBlackTreeMapSync<ContainerId, Container>,
    by_name: RedBlackTreeMapSync<(Tenant, ContainerName), ContainerId>,
    by_tenant: RedBlackTreeSetSync<(Tenant, ContainerId)>,
    usage: RedBlackTreeMapSync<Tenant, Usage>,
    by_image: RedBlackTreeSetSync<(String, ContainerId)>,
    by_node: RedBlackTreeSetSync<(NodeId, ContainerId)>,
    /// Those that start or run.
    up: RedBlackTreeSetSync<(NodeId, ContainerId)>,
    gaps: Gaps,
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
    pub fn get(&self, id: &ContainerId) -> Option<&Container> {
        self.all.get(id)
    }

    /// In the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Container> {
        self.all.values()
    }

    /// A tenant's, in the order of their ids.
    pub fn of_tenant(&self, tenant: &Tenant) -> impl Iterator<Item = &Container> {
        self.of_tenant_from(tenant, "")
    }

    fn of_tenant_from(&self, tenant: &Tenant, id: &str) -> impl Iterator<Item = &Container> {
        self.found(&self.by_tenant, tenant.clone(), id)
    }

    /// The one that a tenant calls so.
    pub fn named(&self, tenant: &Tenant, name: &ContainerName) -> Option<&Container> {
        let id = self.by_name.get(&(tenant.clone(), name.clone()))?;
        self.all.get(id)
    }

    /// The one of a tenant whose id begins so, if it is the only one.
    pub fn with_prefix(&self, tenant: &Tenant, prefix: &str) -> Option<&Container> {
        let mut found = self
            .of_tenant_from(tenant, prefix)
            .take_while(|container| container.id.as_str().starts_with(prefix));
        found.next().filter(|_| found.next().is_none())
    }

    /// Those made of an image (`sha256:…`), whoever's.
    pub fn of_image(&self, image: &str) -> impl Iterator<Item = &Container> {
        self.found(&self.by_image, image.to_owned(), "")
    }

    /// Those of a node.
    pub fn of_node(&self, node: NodeId) -> impl Iterator<Item = &Container> {
        self.found(&self.by_node, node, "")
    }

    /// Those that start or run on a node.
    pub fn up_on(&self, node: NodeId) -> impl Iterator<Item = &Container> {
        self.found(&self.up, node, "")
    }

    /// Those with this `key` in an index, from an id on.
    fn found<'a, K: Ord + Clone>(
        &'a self,
        index: &'a RedBlackTreeSetSync<(K, ContainerId)>,
        key: K,
        id: &str,
    ) -> impl Iterator<Item = &'a Container> {
        let from = (key.clone(), ContainerId::bound(id));
        index
            .range(from..)
            .take_while(move |(of, _)| *of == key)
            .filter_map(|(_, id)| self.all.get(id))
    }

    pub(super) fn usage(&self, tenant: &Tenant) -> Usage {
        self.usage.get(tenant).copied().unwrap_or_default()
    }

    pub(super) fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    /// Adds one; what had its id goes.
    pub fn insert(&mut self, container: Container) {
        self.remove(&container.id);
        let (tenant, id) = (&container.tenant, &container.id);
        self.by_tenant.insert_mut((tenant.clone(), id.clone()));
        self.by_image
            .insert_mut((container.image.clone(), id.clone()));
        self.by_node.insert_mut((container.node, id.clone()));
        let mut usage = self.usage(tenant);
        usage.containers += 1;
        usage.bytes += spec_bytes(&container);
        self.usage.insert_mut(tenant.clone(), usage);
        if let Some(address) = container.address {
            self.gaps.take(address);
        }
        self.index(&container);
        self.all.insert_mut(container.id.clone(), container);
    }

    /// Takes one away.
    pub fn remove(&mut self, id: &ContainerId) {
        let Some(container) = self.all.get(id).cloned() else {
            return;
        };
        self.by_tenant
            .remove_mut(&(container.tenant.clone(), id.clone()));
        self.by_image
            .remove_mut(&(container.image.clone(), id.clone()));
        self.by_node.remove_mut(&(container.node, id.clone()));
        let mut usage = self.usage(&container.tenant);
        usage.containers -= 1;
        usage.bytes -= spec_bytes(&container);
        if usage == Usage::default() {
            self.usage.remove_mut(&container.tenant);
        } else {
            self.usage.insert_mut(container.tenant.clone(), usage);
        }
        if let Some(address) = container.address {
            self.gaps.give_back(address);
        }
        self.unindex(&Changeable::of(&container), &container);
        self.all.remove_mut(id);
    }

    /// One to be changed: its name and status, and nothing else that it is looked up or counted by.
    pub fn change(&mut self, id: &ContainerId) -> Option<Change<'_>> {
        let before = Changeable::of(self.all.get(id)?);
        Some(Change {
            containers: self,
            id: id.clone(),
            before,
        })
    }

    fn index(&mut self, container: &Container) {
        let (tenant, id) = (&container.tenant, &container.id);
        self.by_name
            .insert_mut((tenant.clone(), container.name.clone()), id.clone());
        if container.is_up() {
            self.up.insert_mut((container.node, id.clone()));
        }
    }

    fn unindex(&mut self, was: &Changeable, container: &Container) {
        let (tenant, id) = (&container.tenant, &container.id);
        self.by_name.remove_mut(&(tenant.clone(), was.name.clone()));
        if was.is_up {
            self.up.remove_mut(&(container.node, id.clone()));
        }
    }
}

/// What a container is looked up by and may change.
#[derive(PartialEq)]
struct Changeable {
    name: ContainerName,
    is_up: bool,
}

impl Changeable {
    fn of(container: &Container) -> Self {
        Self {
            name: container.name.clone(),
            is_up: container.is_up(),
        }
    }
}

/// A container that is being changed; looked up by what it has become when this is dropped.
pub struct Change<'a> {
    containers: &'a mut Containers,
    id: ContainerId,
    before: Changeable,
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
        found.expect("it was there when the change began, and nobody else can take it away")
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if Changeable::of(self) == self.before {
            return;
        }
        let container = Container::clone(self);
        self.containers.unindex(&self.before, &container);
        self.containers.index(&container);
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
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Containers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
impl Containers {
    /// Every index as it would be, were it made anew.
    pub fn assert_indexed(&self) {
        let fresh: Self = self.iter().cloned().collect();
        assert_eq!(self.by_name, fresh.by_name);
        assert_eq!(self.by_tenant, fresh.by_tenant);
        assert_eq!(self.usage, fresh.usage);
        assert_eq!(self.by_image, fresh.by_image);
        assert_eq!(self.by_node, fresh.by_node);
        assert_eq!(self.up, fresh.up);
        assert_eq!(self.gaps, fresh.gaps);
    }
}
