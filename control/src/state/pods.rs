//! All pods, and the ways by which they are looked up; as [`super::Containers`].

use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::address::Gaps;
use super::{NodeId, Pod, PodId, PortBinding, Protocol};

/// Every pod of every tenant.
#[derive(Debug, Clone, Default)]
pub struct Pods {
    all: RedBlackTreeMapSync<PodId, Arc<Pod>>,
    /// Those that are assigned to a node, by that; and those that aren't, by None.
    by_node: RedBlackTreeSetSync<(Option<NodeId>, PodId)>,
    /// Those that a node has yet to let go of.
    leaving: RedBlackTreeSetSync<(NodeId, PodId)>,
    /// Forwarded ports, which every node of the cluster answers on.
    ports: RedBlackTreeSetSync<(Protocol, u16, Option<IpAddr>, PodId)>,
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
        self.by_node
            .range((node, PodId::LEAST)..)
            .take_while(move |(of, _)| *of == node)
            .filter_map(|(_, id)| self.all.get(id))
    }

    /// Those that a node has yet to let go of.
    pub fn leaving(&self, node: NodeId) -> impl Iterator<Item = &Arc<Pod>> {
        self.leaving
            .range((node, PodId::LEAST)..)
            .take_while(move |(of, _)| *of == node)
            .filter_map(|(_, id)| self.all.get(id))
    }

    /// Who holds a port, and on which address of the nodes.
    pub(super) fn holders(
        &self,
        protocol: Protocol,
        port: u16,
    ) -> impl Iterator<Item = (Option<IpAddr>, PodId)> {
        self.ports
            .range((protocol, port, None, PodId::LEAST)..)
            .take_while(move |(p, n, ..)| (*p, *n) == (protocol, port))
            .map(|(_, _, address, pod)| (*address, *pod))
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
        self.remove(&pod.id);
        if let Some(address) = pod.address {
            self.gaps.take(address);
        }
        self.index(&pod);
        self.all.insert_mut(pod.id, Arc::new(pod));
    }

    /// Takes one away.
    pub fn remove(&mut self, id: &PodId) -> Option<Arc<Pod>> {
        let pod = Arc::clone(self.all.get(id)?);
        if let Some(address) = pod.address {
            self.gaps.give_back(address);
        }
        self.unindex(&Indexed::of(&pod));
        self.all.remove_mut(id);
        Some(pod)
    }

    /// One to be changed by the command of a revision; its address stays.
    pub fn change(&mut self, id: &PodId, revision: u64) -> Option<PodChange<'_>> {
        let before = Indexed::of(self.all.get(id)?);
        Some(PodChange {
            pods: self,
            before,
            revision,
        })
    }

    fn index(&mut self, pod: &Pod) {
        self.by_node.insert_mut((pod.node, pod.id));
        if let Some(node) = pod.previous {
            self.leaving.insert_mut((node, pod.id));
        }
        for binding in &pod.ports {
            self.ports.insert_mut(key(binding, pod.id));
        }
    }

    fn unindex(&mut self, was: &Indexed) {
        self.by_node.remove_mut(&(was.node, was.id));
        if let Some(node) = was.previous {
            self.leaving.remove_mut(&(node, was.id));
        }
        for binding in &was.ports {
            self.ports.remove_mut(&key(binding, was.id));
        }
    }
}

/// What a pod is looked up by.
#[derive(PartialEq)]
struct Indexed {
    id: PodId,
    node: Option<NodeId>,
    previous: Option<NodeId>,
    ports: Vec<PortBinding>,
}

impl Indexed {
    fn of(pod: &Pod) -> Self {
        Self {
            id: pod.id,
            node: pod.node,
            previous: pod.previous,
            ports: pod.ports.clone(),
        }
    }
}

fn key(binding: &PortBinding, pod: PodId) -> (Protocol, u16, Option<IpAddr>, PodId) {
    (binding.protocol, binding.host_port, binding.host_ip, pod)
}

/// A pod that is being changed; looked up by what it has become when this is dropped.
pub struct PodChange<'a> {
    pods: &'a mut Pods,
    before: Indexed,
    revision: u64,
}

impl Deref for PodChange<'_> {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        let found = self.pods.all.get(&self.before.id);
        found.expect("it was there when the change began, and nobody else can take it away")
    }
}

impl DerefMut for PodChange<'_> {
    fn deref_mut(&mut self) -> &mut Pod {
        let found = self.pods.all.get_mut(&self.before.id);
        let found =
            found.expect("it was there when the change began, and nobody else can take it away");
        let pod = Arc::make_mut(found);
        pod.version = self.revision;
        pod
    }
}

impl Drop for PodChange<'_> {
    fn drop(&mut self) {
        let pod = Arc::clone(&self.pods.all[&self.before.id]);
        if Indexed::of(&pod) != self.before {
            self.pods.unindex(&self.before);
            self.pods.index(&pod);
        }
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
        serializer.collect_seq(self.iter().map(|pod| &**pod))
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
