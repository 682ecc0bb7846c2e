//! All pods, and the ways by which they are looked up; as [`super::Containers`].

use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use serde::ser::SerializeSeq as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::address::Gaps;
use super::tree::Tree;
use super::{NodeId, Pod, PodId, PortBinding, Protocol};

/// Who has a port: on one of the nodes' addresses, or on all.
type Holders = Tree<(Option<IpAddr>, PodId), ()>;

/// Every pod of every tenant.
#[derive(Debug, Clone, Default)]
pub struct Pods {
    all: Tree<PodId, Arc<Pod>>,
    /// Those that are assigned to a node, by that; and those that aren't, by None. None of them is empty, here and below.
    by_node: Tree<Option<NodeId>, Tree<PodId, ()>>,
    /// Those that a node has yet to let go of.
    leaving: Tree<NodeId, Tree<PodId, ()>>,
    /// Forwarded ports, which every node of the cluster answers on.
    ports: Tree<(Protocol, u16), Holders>,
    gaps: Gaps,
}

impl Pods {
    /// By id.
    pub fn get(&self, id: &PodId) -> Option<&Arc<Pod>> {
        self.all.get(id)
    }

    /// In the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.all.values()
    }

    /// Those that are assigned to a node.
    pub fn on(&self, node: NodeId) -> impl Iterator<Item = &Arc<Pod>> {
        self.assigned(Some(node))
    }

    /// Those that are assigned to none.
    pub fn unassigned(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.assigned(None)
    }

    fn assigned(&self, node: Option<NodeId>) -> impl Iterator<Item = &Arc<Pod>> {
        self.found(self.by_node.get(&node))
    }

    /// Those that a node has yet to let go of.
    pub fn leaving(&self, node: NodeId) -> impl Iterator<Item = &Arc<Pod>> {
        self.found(self.leaving.get(&node))
    }

    fn found<'a>(&'a self, ids: Option<&'a Tree<PodId, ()>>) -> impl Iterator<Item = &'a Arc<Pod>> {
        let ids = ids.into_iter().flat_map(|ids| ids.keys());
        ids.filter_map(|id| self.all.get(id))
    }

    /// Who holds a port, and on which address of the nodes.
    pub(super) fn holders(
        &self,
        protocol: Protocol,
        port: u16,
    ) -> impl Iterator<Item = (Option<IpAddr>, PodId)> {
        let holders = self.ports.get(&(protocol, port)).into_iter();
        holders.flat_map(|holders| holders.keys().copied())
    }

    pub(super) fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    /// As if others had all but the last few addresses. Returns how many there were.
    #[cfg(test)]
    pub fn leave_addresses(&mut self, few: u32) -> u32 {
        self.gaps.leave(few)
    }

    /// Adds one; what had its id goes.
    pub fn insert(&mut self, pod: Pod) {
        let pod = Arc::new(pod);
        let before = self.all.insert(pod.id, Arc::clone(&pod));
        self.replaced(pod.id, before.as_deref(), Some(&pod));
    }

    /// Takes one away.
    pub fn remove(&mut self, id: &PodId) -> Option<Arc<Pod>> {
        let pod = self.all.remove(id)?;
        self.replaced(*id, Some(&pod), None);
        Some(pod)
    }

    fn replaced(&mut self, id: PodId, before: Option<&Pod>, after: Option<&Pod>) {
        if let Some(address) = before.and_then(|pod| pod.address) {
            self.gaps.give_back(address);
        }
        if let Some(address) = after.and_then(|pod| pod.address) {
            self.gaps.take(address);
        }
        let indexed = |pod: Option<&Pod>| pod.map(Indexed::of).unwrap_or_default();
        self.index(id, &indexed(before), &indexed(after));
    }

    /// One to be changed by the command of a revision; its address stays.
    pub fn change(&mut self, id: &PodId, revision: u64) -> Option<PodChange<'_>> {
        let before = Indexed::of(self.all.get(id)?);
        Some(PodChange {
            pods: self,
            id: *id,
            before,
            revision,
        })
    }

    /// A pod was looked up by some things, and is by others.
    fn index(&mut self, pod: PodId, before: &Indexed, after: &Indexed) {
        if before.node != after.node {
            take(&mut self.by_node, before.node, &pod);
            add(&mut self.by_node, after.node, pod);
        }
        if before.previous != after.previous {
            take(&mut self.leaving, before.previous, &pod);
            add(&mut self.leaving, after.previous, pod);
        }
        if before.ports != after.ports {
            for binding in &before.ports {
                take(
                    &mut self.ports,
                    Some(port(binding)),
                    &(binding.host_ip, pod),
                );
            }
            for binding in &after.ports {
                add(&mut self.ports, Some(port(binding)), (binding.host_ip, pod));
            }
        }
    }
}

/// Adds to what is found by a key, if that is one.
fn add<K: Ord + Clone, T: Ord + Clone>(index: &mut Tree<K, Tree<T, ()>>, key: Option<K>, what: T) {
    if let Some(key) = key {
        index.or_default(&key).insert(what, ());
    }
}

/// Takes away from it.
fn take<K: Ord + Clone, T: Ord + Clone>(
    index: &mut Tree<K, Tree<T, ()>>,
    key: Option<K>,
    what: &T,
) {
    if let Some(key) = key
        && let Some(found) = index.get_mut(&key)
    {
        found.remove(what);
        if found.is_empty() {
            index.remove(&key);
        }
    }
}

/// What a pod is looked up by; by default nothing, as before it is there.
#[derive(Default, PartialEq)]
struct Indexed {
    node: Option<Option<NodeId>>,
    previous: Option<NodeId>,
    ports: Vec<PortBinding>,
}

impl Indexed {
    fn of(pod: &Pod) -> Self {
        Self {
            node: Some(pod.node),
            previous: pod.previous,
            ports: pod.ports.clone(),
        }
    }
}

fn port(binding: &PortBinding) -> (Protocol, u16) {
    (binding.protocol, binding.host_port)
}

/// A pod that is being changed; looked up by what it has become when this is dropped.
pub struct PodChange<'a> {
    pods: &'a mut Pods,
    id: PodId,
    before: Indexed,
    revision: u64,
}

impl Deref for PodChange<'_> {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        let found = self.pods.all.get(&self.id);
        found.expect("it was there when the change began, and nobody else can take it away")
    }
}

impl DerefMut for PodChange<'_> {
    fn deref_mut(&mut self) -> &mut Pod {
        let found = self.pods.all.get_mut(&self.id);
        let found =
            found.expect("it was there when the change began, and nobody else can take it away");
        let pod = Arc::make_mut(found);
        pod.version = self.revision;
        pod
    }
}

impl Drop for PodChange<'_> {
    fn drop(&mut self) {
        let after = Indexed::of(self);
        self.pods.index(self.id, &self.before, &after);
    }
}

impl PartialEq for Pods {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl FromIterator<Pod> for Pods {
    fn from_iter<I: IntoIterator<Item = Pod>>(all: I) -> Self {
        let mut pods = Self::default();
        all.into_iter().for_each(|pod| pods.insert(pod));
        pods
    }
}

impl Serialize for Pods {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut all = serializer.serialize_seq(Some(self.all.size()))?;
        for pod in self.iter() {
            all.serialize_element(&**pod)?;
        }
        all.end()
    }
}

impl<'de> Deserialize<'de> for Pods {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Pod>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
impl Pods {
    /// Every index as it would be, were it made anew.
    pub fn assert_indexed(&self) {
        let fresh: Self = self.iter().map(|pod| Pod::clone(pod)).collect();
        assert_eq!(self.by_node, fresh.by_node);
        assert_eq!(self.leaving, fresh.leaving);
        assert_eq!(self.ports, fresh.ports);
        assert_eq!(self.gaps, fresh.gaps);
    }
}
