//! All containers, and the ways by which they are looked up: none of them looks at more containers than it finds.
//!
//! The maps share what is equal between copies: a copy costs the same however many containers there are, and is made for each snapshot.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use serde::ser::SerializeSeq as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::tree::Tree;
use super::{Container, ContainerId, ContainerName, Tenant, encoding};

/// Every container of every tenant.
#[derive(Debug, Clone, Default)]
pub struct Containers {
    all: Tree<ContainerId, Arc<Container>>,
    /// What belongs to each tenant that has any.
    owned: Tree<Tenant, Owned>,
    /// None of them is empty.
    by_image: Tree<String, Tree<ContainerId, ()>>,
}

/// A tenant's containers.
#[derive(Debug, Clone, Default, PartialEq)]
struct Owned {
    /// And what the spec of each counts ([`spec_bytes`], which takes as long as all else that is done for a new container).
    ids: Tree<ContainerId, u64>,
    names: Tree<ContainerName, ContainerId>,
    /// What they count together.
    bytes: u64,
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
        let owned = self.owned.get(tenant).into_iter();
        self.found(owned.flat_map(|owned| owned.ids.keys()))
    }

    /// The one that a tenant calls so.
    pub fn named(&self, tenant: &Tenant, name: &ContainerName) -> Option<&Arc<Container>> {
        let id = self.owned.get(tenant)?.names.get(name)?;
        self.all.get(id)
    }

    /// The one of a tenant whose id begins so, if it is the only one.
    pub fn with_prefix(&self, tenant: &Tenant, prefix: &str) -> Option<&Arc<Container>> {
        let least = ContainerId::least_with(prefix)?;
        let from = self.owned.get(tenant)?.ids.from(&least);
        let mut found = self
            .found(from.map(|(id, _)| id))
            .take_while(|container| container.id.begins_with(prefix));
        found.next().filter(|_| found.next().is_none())
    }

    /// Those made of an image (`sha256:…`), whoever's.
    pub fn of_image(&self, image: &str) -> impl Iterator<Item = &Arc<Container>> {
        let ids = self.by_image.get(image).into_iter();
        self.found(ids.flat_map(|ids| ids.keys()))
    }

    fn found<'a>(
        &'a self,
        ids: impl Iterator<Item = &'a ContainerId>,
    ) -> impl Iterator<Item = &'a Arc<Container>> {
        ids.filter_map(|id| self.all.get(id))
    }

    pub(super) fn usage(&self, tenant: &Tenant) -> Usage {
        let owned = self.owned.get(tenant);
        owned.map_or_else(Usage::default, |owned| Usage {
            containers: owned.ids.size() as u64,
            bytes: owned.bytes,
        })
    }

    /// Adds one; what had its id goes.
    pub fn insert(&mut self, container: Container) {
        let bytes = spec_bytes(&container);
        self.insert_counted(container.into(), bytes);
    }

    /// As above, for one whose [`spec_bytes`] are known.
    pub(super) fn insert_counted(&mut self, container: Arc<Container>, bytes: u64) {
        let id = container.id;
        if let Some(before) = self.all.insert(id, Arc::clone(&container)) {
            self.unindex(&before);
        }
        let owned = self.owned.or_default(&container.tenant);
        owned.ids.insert(id, bytes);
        owned.names.insert(container.name.clone(), id);
        owned.bytes += bytes;
        self.by_image.or_default(&container.image).insert(id, ());
    }

    /// Takes one away.
    pub fn remove(&mut self, id: &ContainerId) -> Option<Arc<Container>> {
        let container = self.all.remove(id)?;
        self.unindex(&container);
        Some(container)
    }

    fn unindex(&mut self, container: &Container) {
        let tenant = &container.tenant;
        if let Some(owned) = self.owned.get_mut(tenant) {
            owned.bytes -= owned.ids.remove(&container.id).unwrap_or_default();
            owned.names.remove(&container.name);
            if owned.ids.is_empty() {
                self.owned.remove(tenant);
            }
        }
        if let Some(ids) = self.by_image.get_mut(&container.image) {
            ids.remove(&container.id);
            if ids.is_empty() {
                self.by_image.remove(&container.image);
            }
        }
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
        let owned = self.containers.owned.or_default(&tenant);
        owned.names.remove(&self.name);
        owned.names.insert(name, self.id);
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
        let mut all = serializer.serialize_seq(Some(self.all.size()))?;
        for container in self.iter() {
            all.serialize_element(&**container)?;
        }
        all.end()
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
        assert_eq!(self.owned, fresh.owned);
        assert_eq!(self.by_image, fresh.by_image);
    }
}
