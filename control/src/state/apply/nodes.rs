//! The machines, and the cluster as a whole.

use std::sync::Arc;

use super::{Changes, Result};
use crate::state::command::FIRST_FEATURES;
use crate::state::{
    Cluster, Health, Node, NodeId, NodeIs, NodeWanted, Object, Outcome, Phase, Refusal, Role,
    State, What,
};

impl State {
    /// A node's lease holds: it may run pods, and answers for those that it has.
    pub fn is_ready(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(Node::is_ready)
    }

    fn node(&self, id: NodeId) -> Result<&Node> {
        let missing = || Refusal::NoSuchNode(id.to_string());
        self.nodes.get(&id).ok_or_else(missing)
    }

    pub(super) fn join(
        &mut self,
        id: NodeId,
        is: &NodeIs,
        wanted: &NodeWanted,
        changes: &mut Changes,
    ) -> Result {
        if self.cluster.removed.contains(&id) {
            return Err(Refusal::NoSuchNode(id.to_string()));
        }
        if is.features < self.cluster.features {
            return Err(Refusal::TooOld {
                cluster: self.cluster.features,
                node: is.features,
            });
        }
        let known = self.nodes.shared(&id).cloned();
        let node = match &known {
            Some(known) if known.is == *is => return Ok(Outcome::Unchanged),
            Some(known) => Node {
                is: is.clone(),
                version: self.revision,
                ..Node::clone(known)
            },
            None => Node {
                id,
                joined_ns: changes.at_ns,
                wanted: wanted.clone(),
                is: is.clone(),
                health: Health::Ready,
                tenure: self.revision,
                version: self.revision,
            },
        };
        let what = match known {
            Some(_) => What::Updated { from: known },
            None => What::Created,
        };
        let node = Arc::new(node);
        changes.tell(Object::Node(Arc::clone(&node)), what);
        self.nodes.insert_mut(id, node);
        // Otherwise it can't be the one that all have waited for; and in a large cluster looking at all takes a while.
        if is.features > self.cluster.features {
            self.raise_features();
        }
        Ok(Outcome::Done)
    }

    /// A node that is known is another now.
    fn replace(&mut self, node: Node, changes: &mut Changes) {
        let from = self.nodes.shared(&node.id).cloned();
        let node = Arc::new(node);
        changes.tell(Object::Node(Arc::clone(&node)), What::Updated { from });
        self.nodes.insert_mut(node.id, node);
    }

    pub(super) fn update_node(
        &mut self,
        id: NodeId,
        version: u64,
        wanted: &NodeWanted,
        changes: &mut Changes,
    ) -> Result {
        let node = self.node(id)?;
        if node.version != version {
            return Err(Refusal::OutOfSequence);
        }
        let manages = |node: &Node| node.wanted.role == Role::Manager;
        let others = || {
            self.nodes
                .values()
                .any(|other| other.id != id && manages(other))
        };
        if manages(node) && wanted.role != Role::Manager && !others() {
            return Err(Refusal::LastManager);
        }
        let node = Node {
            wanted: wanted.clone(),
            version: self.revision,
            ..node.clone()
        };
        self.replace(node, changes);
        Ok(Outcome::Done)
    }

    pub(super) fn node_health(
        &mut self,
        id: NodeId,
        health: &Health,
        tenure: u64,
        term: Option<u64>,
        changes: &mut Changes,
    ) -> Result {
        let node = self.node(id)?;
        if node.tenure != tenure || term.is_some_and(|term| term != self.term) {
            return Err(Refusal::OutOfSequence);
        }
        let down = *health != Health::Ready;
        if !down && self.cluster.leaving.contains(&id) {
            return Err(Refusal::NoSuchNode(id.to_string()));
        }
        if down && !node.is_ready() {
            // Whoever was first has said why.
            return Ok(Outcome::Unchanged);
        }
        let node = Node {
            health: health.clone(),
            tenure: if down { tenure } else { self.revision },
            version: self.revision,
            ..node.clone()
        };
        if down {
            self.free_from(id, changes)?;
        }
        self.replace(node, changes);
        Ok(Outcome::Done)
    }

    /// Of two leaders, the one that was elected later.
    pub(super) fn lead(&mut self, term: u64) -> Result {
        if self.term >= term {
            return Ok(Outcome::Unchanged);
        }
        self.term = term;
        Ok(Outcome::Done)
    }

    /// What waits for a node to let go need wait no longer.
    fn free_from(&mut self, node: NodeId, changes: &mut Changes) -> Result<(), Refusal> {
        let leaving: Vec<_> = self.pods.leaving(node).map(|pod| pod.id).collect();
        for id in leaving {
            let Some(mut pod) = self.pods.change(&id, self.revision) else {
                continue;
            };
            pod.previous = None;
            let containers = pod.containers.clone();
            drop(pod);
            self.lose_all(&containers, What::Wanted, changes)?;
        }
        Ok(())
    }

    /// Something runs on a node, or may: as far as is known, it is there, and nothing has told that it has ended.
    pub fn may_run_on(&self, node: NodeId) -> bool {
        let may = |it: &crate::state::Placed| {
            it.wanted.up || matches!(it.phase(), Phase::Running | Phase::Starting)
        };
        self.is_ready(node)
            && (self.pods.leaving(node).next().is_some()
                || self
                    .pods
                    .on(node)
                    .any(|pod| self.in_pod(&pod.id).iter().any(may)))
    }

    pub(super) fn remove_node(
        &mut self,
        id: NodeId,
        force: bool,
        empty: bool,
        changes: &mut Changes,
    ) -> Result {
        let node = self.node(id)?;
        if node.is_ready() && (!force || empty && self.may_run_on(id)) {
            return Err(Refusal::NodeIsUp(id.to_string()));
        }
        let gone = Arc::new(node.clone());
        self.nodes.remove_mut(&id);
        self.cluster.removed.insert(id);
        self.cluster.leaving.remove(&id);
        self.free_from(id, changes)?;
        let pods: Vec<_> = self.pods.on(id).map(|pod| pod.id).collect();
        for pod in pods {
            self.let_go(&pod, changes)?;
            if let Some(mut pod) = self.pods.change(&pod, self.revision) {
                pod.node = None;
                pod.pending = "its node has left the cluster".to_owned();
            }
            for placed in self.in_pod(&pod) {
                changes.of(&placed.container, What::Moved);
            }
        }
        let images: Vec<String> = self
            .stored
            .iter()
            .filter(|(_, stored)| stored.nodes.contains(&id))
            .map(|(image, _)| image.clone())
            .collect();
        for image in images {
            self.image_on(id, &image, &[], 0, false);
        }
        self.raise_features();
        changes.tell(Object::Node(gone), What::Removed);
        Ok(Outcome::Done)
    }

    /// All members understand the commands of this level.
    pub fn understands(&self, features: u32) -> bool {
        features <= self.cluster.features.max(FIRST_FEATURES)
    }

    /// What every member understands may be used from here on; never less than before, for it may have been used.
    fn raise_features(&mut self) {
        let all = self.nodes.values().map(|node| node.is.features).min();
        self.cluster.features = self.cluster.features.max(all.unwrap_or(0));
    }

    pub(super) fn set_cluster(
        &mut self,
        from: &Cluster,
        to: &Cluster,
        changes: &mut Changes,
    ) -> Result {
        if self.cluster != *from {
            return Err(Refusal::OutOfSequence);
        }
        self.cluster = to.clone();
        changes.tell(Object::Cluster, What::Updated { from: None });
        Ok(Outcome::Done)
    }

    /// A container of the state runs somewhere, as far as is known.
    pub fn runs(&self, id: &crate::state::ContainerId) -> bool {
        let container = self.containers.get(id);
        container.is_some_and(|container| container.status.phase == Phase::Running)
    }
}
