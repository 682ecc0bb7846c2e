//! Nodes and what is allocated on them, and how it changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::class::Matching;
use super::topology::Topology;
use super::{Constraint, Group, Label, Node, Priority, Resources, Wants, order};
use crate::state::{NodeId, PodId};

/// A node, and what is allocated on it.
#[derive(Debug)]
pub(super) struct Slot {
    pub node: Node,
    /// On the ring.
    pub place: u64,
    pub used: Resources,
    /// The lowest priorities first.
    pub held: Vec<Held>,
}

/// A pod on a node.
#[derive(Debug)]
pub(super) struct Held {
    pub priority: Priority,
    pub pod: PodId,
    pub wants: Arc<Wants>,
}

/// Pods of one group.
#[derive(Debug, Default)]
struct Members {
    total: u32,
    on: BTreeMap<NodeId, u32>,
    /// By the labels that they are spread over: how many are in each domain. Empty after each change of the nodes' descriptions.
    spread: BTreeMap<Vec<Label>, Vec<u32>>,
}

/// All of it. Slots are numbered as nodes came, so no decision may depend on these numbers.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub slots: Vec<Slot>,
    by_id: BTreeMap<NodeId, u32>,
    /// Slots in the order of their places.
    pub ring: Vec<u32>,
    pods: BTreeMap<PodId, NodeId>,
    groups: BTreeMap<Group, Members>,
    topologies: BTreeMap<Vec<Label>, Topology>,
    matching: BTreeMap<Matching, Arc<[bool]>>,
    /// Grows when nodes come, go or are described anew: what was derived from that is void.
    pub epoch: u64,
    /// Grows with everything by which a request could fit that didn't.
    pub eased: u64,
    /// Slots that have changed otherwise, and how many changes there were before the first of these.
    log: Vec<u32>,
    forgotten: u64,
}

/// How many changes are remembered. A class that has slept through more is cheaper made anew.
const LOG_MAX: usize = 1024;
/// How many sets of labels, or of constraints, are remembered; strangers choose them. Zones and a few services' own are a dozen.
const DERIVED_MAX: usize = 256;

impl Ledger {
    pub fn slot(&self, node: NodeId) -> Option<u32> {
        self.by_id.get(&node).copied()
    }

    pub fn at(&self, slot: u32) -> &Slot {
        &self.slots[slot as usize]
    }

    pub fn node_of(&self, pod: &PodId) -> Option<NodeId> {
        self.pods.get(pod).copied()
    }

    pub fn set_node(&mut self, node: Node) {
        self.eased += 1;
        if let Some(slot) = self.slot(node.id) {
            let known = &mut self.slots[slot as usize].node;
            let described_anew = !known.is_described_as(&node);
            *known = node;
            if described_anew {
                self.describe_anew();
            } else {
                self.touch(slot);
            }
            return;
        }
        let slot = self.slots.len() as u32;
        let place = order::place(node.id);
        let before = self
            .ring
            .partition_point(|other| self.at(*other).place < place);
        self.ring.insert(before, slot);
        self.by_id.insert(node.id, slot);
        self.slots.push(Slot {
            node,
            place,
            used: Resources::default(),
            held: Vec::new(),
        });
        self.describe_anew();
    }

    pub fn set_image(&mut self, node: NodeId, image: &Arc<str>, bytes: Option<u64>) {
        let Some(slot) = self.slot(node) else {
            return;
        };
        let images = &mut self.slots[slot as usize].node.images;
        match bytes {
            Some(bytes) => drop(images.insert(Arc::clone(image), bytes)),
            None => drop(images.remove(image)),
        }
        self.touch(slot);
    }

    /// The pods that were on it are released.
    pub fn remove_node(&mut self, node: NodeId) -> Vec<PodId> {
        let Some(slot) = self.slot(node) else {
            return Vec::new();
        };
        let pods: Vec<PodId> = self.at(slot).held.iter().map(|held| held.pod).collect();
        for pod in &pods {
            self.release(pod);
        }
        self.by_id.remove(&node);
        self.slots.swap_remove(slot as usize);
        let last = self.slots.len() as u32;
        self.ring.retain(|other| *other != slot);
        if slot != last {
            let moved = self.at(slot).node.id;
            self.by_id.insert(moved, slot);
            self.ring
                .iter_mut()
                .filter(|other| **other == last)
                .for_each(|other| *other = slot);
        }
        self.describe_anew();
        pods
    }

    pub fn assign(&mut self, slot: u32, pod: PodId, wants: &Arc<Wants>) {
        let known = self.at(slot).held.iter().find(|held| held.pod == pod);
        if known.is_some_and(|held| held.wants == *wants) {
            return;
        }
        self.release(&pod);
        let at = &mut self.slots[slot as usize];
        let node = at.node.id;
        let key = (wants.priority, pod);
        let before = at
            .held
            .partition_point(|held| (held.priority, held.pod) < key);
        let held = Held {
            priority: wants.priority,
            pod,
            wants: Arc::clone(wants),
        };
        at.held.insert(before, held);
        at.used = at.used.plus(wants.resources);
        self.pods.insert(pod, node);
        let members = self.groups.entry(wants.group.clone()).or_default();
        members.total += 1;
        *members.on.entry(node).or_default() += 1;
        for (labels, counts) in &mut members.spread {
            if let Some(topology) = self.topologies.get(labels) {
                topology
                    .path(slot)
                    .iter()
                    .for_each(|domain| counts[*domain as usize] += 1);
            }
        }
        self.touch(slot);
    }

    /// Whether there was such a pod.
    pub fn release(&mut self, pod: &PodId) -> bool {
        let Some(slot) = self.pods.remove(pod).and_then(|node| self.slot(node)) else {
            return false;
        };
        let at = &mut self.slots[slot as usize];
        let Some(index) = at.held.iter().position(|held| held.pod == *pod) else {
            return false;
        };
        let wants = at.held.remove(index).wants;
        // Not by subtraction: a sum that was too large for its number is right again once it isn't.
        at.used = sum(&at.held);
        let node = at.node.id;
        if let Some(members) = self.groups.get_mut(&wants.group) {
            members.total -= 1;
            if let Some(count) = members.on.get_mut(&node) {
                *count -= 1;
                if *count == 0 {
                    members.on.remove(&node);
                }
            }
            for (labels, counts) in &mut members.spread {
                if let Some(topology) = self.topologies.get(labels) {
                    topology
                        .path(slot)
                        .iter()
                        .for_each(|domain| counts[*domain as usize] -= 1);
                }
            }
            if members.total == 0 {
                self.groups.remove(&wants.group);
            }
        }
        self.eased += 1;
        self.touch(slot);
        true
    }

    fn touch(&mut self, slot: u32) {
        if self.log.len() >= LOG_MAX {
            let old = LOG_MAX / 2;
            self.log.drain(..old);
            self.forgotten += old as u64;
        }
        self.log.push(slot);
    }

    fn describe_anew(&mut self) {
        self.epoch += 1;
        self.topologies.clear();
        self.matching.clear();
        for members in self.groups.values_mut() {
            members.spread.clear();
        }
    }

    /// How many changes there have been.
    pub fn changes(&self) -> u64 {
        self.forgotten + self.log.len() as u64
    }

    /// Slots that have changed since there had been so many changes. None: that is forgotten.
    pub fn changed_since(&self, changes: u64) -> Option<&[u32]> {
        let from = changes.checked_sub(self.forgotten)?;
        self.log.get(from as usize..)
    }

    /// How many pods of a group there are, and how many on a node.
    pub fn members(&self, group: &Group) -> (u32, Option<&BTreeMap<NodeId, u32>>) {
        self.groups
            .get(group)
            .map_or((0, None), |members| (members.total, Some(&members.on)))
    }

    /// Makes what [`Self::topology`], [`Self::matching`] and [`Self::spread`] answer from. May begin an epoch.
    pub fn prepare(&mut self, wants: &Wants) {
        if self.topologies.len() >= DERIVED_MAX && !self.topologies.contains_key(&wants.spread) {
            self.describe_anew();
        }
        if !self.topologies.contains_key(&wants.spread) {
            let topology = Topology::new(&wants.spread, &self.slots, &self.ring);
            self.topologies.insert(wants.spread.clone(), topology);
        }
        if let Some(members) = self.groups.get_mut(&wants.group)
            && !members.spread.contains_key(&wants.spread)
            && let Some(topology) = self.topologies.get(&wants.spread)
        {
            let mut counts = vec![0; topology.domains];
            for (node, count) in &members.on {
                for domain in self
                    .by_id
                    .get(node)
                    .map_or(&[][..], |slot| topology.path(*slot))
                {
                    counts[*domain as usize] += count;
                }
            }
            members.spread.insert(wants.spread.clone(), counts);
        }
    }

    /// Of labels that were prepared.
    pub fn topology(&self, labels: &[Label]) -> Option<&Topology> {
        self.topologies.get(labels)
    }

    /// How many pods of a group are in each domain of labels that were prepared; none where there is none at all.
    pub fn spread(&self, group: &Group, labels: &[Label]) -> &[u32] {
        self.groups
            .get(group)
            .and_then(|members| members.spread.get(labels))
            .map_or(&[], Vec::as_slice)
    }

    /// By slot, whether a node's description does. None: any does.
    pub fn matching(&mut self, wants: &Wants) -> Option<Arc<[bool]>> {
        if wants.constraints.is_empty() && wants.devices.is_empty() {
            return None;
        }
        let key = Matching {
            constraints: wants.constraints.clone(),
            devices: wants.devices.clone(),
        };
        if let Some(matching) = self.matching.get(&key) {
            return Some(Arc::clone(matching));
        }
        if self.matching.len() >= DERIVED_MAX {
            self.matching.clear();
        }
        let matching: Arc<[bool]> = self
            .slots
            .iter()
            .map(|slot| wants.suit(&slot.node))
            .collect();
        self.matching.insert(key, Arc::clone(&matching));
        Some(matching)
    }
}

fn sum(held: &[Held]) -> Resources {
    held.iter().fold(Resources::default(), |sum, held| {
        sum.plus(held.wants.resources)
    })
}

impl Slot {
    /// What could still be promised.
    pub fn free(&self) -> Resources {
        self.node.capacity.minus(self.used)
    }
}

impl Wants {
    /// Whether a node's description does, whatever is on it.
    pub(super) fn suit(&self, node: &Node) -> bool {
        let met = |constraint: &Constraint| constraint.is_met_by(node);
        self.devices.is_subset(&node.devices) && self.constraints.iter().all(met)
    }
}
