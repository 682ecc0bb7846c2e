//! A container together with the pod that it is in: what most of those who ask want to know.

use std::ops::Deref;
use std::sync::Arc;

use super::{Container, ContainerId, ContainerName, Health, NodeId, PodId, State, Tenant};
use super::{Pod, containers::Containers};

/// A container and its pod, as they were at one moment. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// The container.
    pub container: Arc<Container>,
    /// Its pod.
    pub pod: Arc<Pod>,
}

impl Deref for Placed {
    type Target = Container;

    fn deref(&self) -> &Container {
        &self.container
    }
}

impl Placed {
    /// The node that it is on, or will be.
    pub fn node(&self) -> Option<NodeId> {
        self.pod.node
    }
}

impl State {
    /// Nobody would miss anything of it: no containers, no images, no other nodes.
    pub fn is_empty(&self) -> bool {
        self.containers.iter().next().is_none()
            && self.images.is_empty()
            && self.tags.is_empty()
            && self.nodes.size() <= 1
    }

    /// Why nothing of it can begin now, for the user; None: a node that is there has it.
    pub fn nowhere(&self, placed: &Placed) -> Option<String> {
        let pod = &placed.pod;
        let node = match (pod.previous, pod.node) {
            (Some(_), _) => {
                return Some("the node that had it last has yet to let go of it".to_owned());
            }
            (None, None) if pod.pending.is_empty() => {
                return Some("it has not been given to a node yet".to_owned());
            }
            (None, None) => return Some(pod.pending.clone()),
            (None, Some(node)) => node,
        };
        let health = self.nodes.get(&node).map(|node| &node.health);
        match health {
            Some(Health::Ready) => None,
            Some(Health::Down { reason }) => {
                let called = self.nodes.get(&node).map(|node| node.is.hostname.as_str());
                let called = called.filter(|name| !name.is_empty());
                let called = called.map_or_else(|| node.to_string(), str::to_owned);
                Some(format!("its node {called} is down: {reason}"))
            }
            None => Some("its node has left the cluster".to_owned()),
        }
    }

    fn with_pod(&self, container: &Arc<Container>) -> Option<Placed> {
        // A container's pod is there for as long as the container is.
        let pod = self.pods.get(&container.pod)?;
        Some(Placed {
            container: Arc::clone(container),
            pod: Arc::clone(pod),
        })
    }

    /// By id.
    pub fn placed(&self, id: &ContainerId) -> Option<Placed> {
        self.with_pod(self.containers.get(id)?)
    }

    /// The one that a tenant calls so.
    pub fn named(&self, tenant: &Tenant, name: &ContainerName) -> Option<Placed> {
        self.with_pod(self.containers.named(tenant, name)?)
    }

    /// The one of a tenant whose id begins so, if it is the only one.
    pub fn with_prefix(&self, tenant: &Tenant, prefix: &str) -> Option<Placed> {
        self.with_pod(self.containers.with_prefix(tenant, prefix)?)
    }

    /// A tenant's, in the order of their ids.
    pub fn of_tenant(&self, tenant: &Tenant) -> impl Iterator<Item = Placed> {
        self.all(Containers::of_tenant(&self.containers, tenant))
    }

    /// Those made of an image (`sha256:…`), whoever's.
    pub fn of_image(&self, image: &str) -> impl Iterator<Item = Placed> {
        self.all(self.containers.of_image(image))
    }

    fn all<'a>(
        &'a self,
        containers: impl Iterator<Item = &'a Arc<Container>>,
    ) -> impl Iterator<Item = Placed> {
        containers.filter_map(|container| self.with_pod(container))
    }

    /// Those of the pods that are assigned to a node.
    pub fn on_node(&self, node: NodeId) -> impl Iterator<Item = Placed> {
        self.pods.on(node).flat_map(|pod| self.in_pod(&pod.id))
    }

    /// Those of a pod.
    pub fn in_pod(&self, pod: &PodId) -> Vec<Placed> {
        let ids = self.pods.get(pod).map(|pod| pod.containers.iter());
        let ids = ids.into_iter().flatten();
        ids.filter_map(|id| self.placed(id)).collect()
    }
}
