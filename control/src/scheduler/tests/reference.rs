//! The rules of placement written down once more, slowly: everything is computed from nodes and pods for each question, and nothing is
//! remembered.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::class::{Bounds, share};
use super::super::score::score;
use super::super::{Node, Priority, Request, Resources, Wants, order};
use crate::state::{NodeId, PodId};

#[derive(Debug, Clone, Default)]
pub(super) struct Reference {
    pub nodes: BTreeMap<NodeId, Node>,
    pub pods: BTreeMap<PodId, (NodeId, Arc<Wants>)>,
    pub bounds: Bounds,
}

/// A node, and who must leave it.
pub(super) type Answer = Option<(NodeId, Vec<PodId>)>;

impl Reference {
    pub fn used(&self, node: NodeId) -> Resources {
        let held = self.pods.values().filter(|(on, _)| *on == node);
        held.fold(Resources::default(), |sum, (_, wants)| {
            sum.plus(wants.resources)
        })
    }

    pub fn free(&self, node: &Node) -> Resources {
        node.capacity.minus(self.used(node.id))
    }

    pub fn does(&self, node: &Node, wants: &Wants) -> bool {
        suits(node, wants) && self.free(node).holds(&wants.resources)
    }

    fn members(&self, wants: &Wants, among: impl Fn(&Node) -> bool) -> u32 {
        let of_group = self.pods.values().filter(|(on, other)| {
            other.group == wants.group && self.nodes.get(on).is_some_and(&among)
        });
        of_group.count() as u32
    }

    pub fn remove_node(&mut self, node: NodeId) {
        self.nodes.remove(&node);
        self.pods.retain(|_, (on, _)| *on != node);
    }

    pub fn place(&self, request: &Request) -> Answer {
        let wants = &request.wants;
        if let Some(pinned) = request.pinned {
            let node = self.nodes.get(&pinned)?;
            if self.does(node, wants) {
                return Some((pinned, Vec::new()));
            }
            return self.victims(node, wants).map(|victims| (pinned, victims));
        }
        if let Some(home) = request.home.and_then(|home| self.nodes.get(&home))
            && !request.avoid.contains(&home.id)
            && self.does(home, wants)
        {
            return Some((home.id, Vec::new()));
        }
        self.candidates(wants)
            .into_iter()
            .min_by_key(|node| self.rank(node, request))
            .map(|node| (node.id, Vec::new()))
            .or_else(|| self.evict(request))
    }

    /// Of each leaf, the first nodes of the ring that do.
    fn candidates(&self, wants: &Wants) -> Vec<&Node> {
        let mut leaves: BTreeMap<Vec<&str>, Vec<&Node>> = BTreeMap::new();
        for node in self.nodes.values() {
            let values = wants.spread.iter().map(|label| label.of(node)).collect();
            leaves.entry(values).or_default().push(node);
        }
        let enough = share(&self.bounds, leaves.len(), self.members(wants, |_| true));
        let start = order::start_of(wants);
        let mut candidates = Vec::new();
        for mut leaf in leaves.into_values() {
            leaf.sort_by_key(|node| order::distance(start, order::place(node.id)));
            let doing = leaf.into_iter().filter(|node| self.does(node, wants));
            candidates.extend(doing.take(enough));
        }
        candidates
    }

    fn rank(&self, node: &Node, request: &Request) -> impl Ord + use<> {
        let wants = &request.wants;
        let levels = 1..=wants.spread.len();
        let in_domains: Vec<u32> = levels
            .map(|level| {
                self.members(wants, |other| {
                    wants.spread[..level]
                        .iter()
                        .all(|label| label.of(other) == label.of(node))
                })
            })
            .collect();
        (
            request.avoid.contains(&node.id),
            in_domains,
            self.members(wants, |other| other.id == node.id),
            Reverse(score(
                node,
                &self.used(node.id),
                &wants.resources,
                &wants.image,
            )),
            order::distance(order::start(&request.pod), order::place(node.id)),
        )
    }

    fn evict(&self, request: &Request) -> Answer {
        let wants = &request.wants;
        let start = order::start_of(&**wants);
        let mut nodes: Vec<&Node> = self.nodes.values().collect();
        nodes.sort_by_key(|node| order::distance(start, order::place(node.id)));
        nodes
            .into_iter()
            .filter_map(|node| Some((node, self.victims(node, wants)?)))
            .take(self.bounds.evictions)
            .min_by_key(|(node, victims)| {
                let wants = || victims.iter().map(|pod| &self.pods[pod].1);
                let highest: Option<Priority> = wants().map(|wants| wants.priority).max();
                let memory: u64 = wants().map(|wants| wants.resources.memory_bytes).sum();
                let distance = order::distance(order::start(&request.pod), order::place(node.id));
                let avoided = request.avoid.contains(&node.id);
                (avoided, highest, victims.len(), memory, distance)
            })
            .map(|(node, victims)| (node.id, victims))
    }

    /// The lowest until it fits; then whoever need not go stays, the highest first.
    fn victims(&self, node: &Node, wants: &Wants) -> Option<Vec<PodId>> {
        if !suits(node, wants) {
            return None;
        }
        let mut held: Vec<(Priority, Reverse<Resources>, PodId)> = self
            .pods
            .iter()
            .filter(|(_, (on, other))| {
                *on == node.id && other.priority < wants.priority.evicts_below()
            })
            .map(|(pod, (_, other))| (other.priority, Reverse(other.resources), *pod))
            .collect();
        held.sort();
        let held: Vec<PodId> = held.into_iter().map(|(.., pod)| pod).collect();
        let fits_without = |victims: &[PodId]| {
            let mut rest = self.clone();
            rest.pods.retain(|pod, _| !victims.contains(pod));
            rest.free(node).holds(&wants.resources)
        };
        let enough = (0..=held.len()).find(|count| fits_without(&held[..*count]))?;
        let mut victims = held[..enough].to_vec();
        for candidate in held[..enough].iter().rev() {
            let mut fewer = victims.clone();
            fewer.retain(|pod| pod != candidate);
            if fits_without(&fewer) {
                victims = fewer;
            }
        }
        Some(victims)
    }
}

pub(super) fn suits(node: &Node, wants: &Wants) -> bool {
    node.takes_pods()
        && wants.devices.is_subset(&node.devices)
        && wants
            .constraints
            .iter()
            .all(|constraint| constraint.is_met_by(node))
}
