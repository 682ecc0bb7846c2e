//! Nodes by the values of the labels that something is spread over.

use std::collections::BTreeMap;

use super::Label;
use super::ledger::Slot;

/// A tree of domains, one level a label: zones, and the racks in each.
#[derive(Debug)]
pub(super) struct Topology {
    /// Its leaves: nodes that have all values in common.
    pub leaves: Vec<Leaf>,
    /// The leaf of each node, by its slot.
    pub leaf_of: Vec<u32>,
    /// How many domains of all levels there are.
    pub domains: usize,
}

/// Nodes that have all values in common.
#[derive(Debug)]
pub(super) struct Leaf {
    /// The domains that it lies in, the widest first.
    pub path: Vec<u32>,
    /// Places on the ring, ascending, and slots.
    pub nodes: Vec<(u64, u32)>,
}

impl Topology {
    /// `ring`: slots in the order of their places.
    pub fn new(labels: &[Label], slots: &[Slot], ring: &[u32]) -> Self {
        let mut domains: BTreeMap<Vec<&str>, u32> = BTreeMap::new();
        let mut leaf_numbers: BTreeMap<Vec<&str>, u32> = BTreeMap::new();
        let mut leaves: Vec<Leaf> = Vec::new();
        let mut leaf_of = vec![0; slots.len()];
        for &slot in ring {
            let node = &slots[slot as usize];
            let values: Vec<&str> = labels.iter().map(|label| label.of(&node.node)).collect();
            let leaf = *leaf_numbers.entry(values.clone()).or_insert_with(|| {
                let path = (1..=values.len()).map(|level| {
                    let next = domains.len() as u32;
                    *domains.entry(values[..level].to_vec()).or_insert(next)
                });
                leaves.push(Leaf {
                    path: path.collect(),
                    nodes: Vec::new(),
                });
                leaves.len() as u32 - 1
            });
            leaf_of[slot as usize] = leaf;
            leaves[leaf as usize].nodes.push((node.place, slot));
        }
        let domains = domains.len();
        Self {
            leaves,
            leaf_of,
            domains,
        }
    }

    /// The domains of a node, the widest first.
    pub fn path(&self, slot: u32) -> &[u32] {
        let leaf = self.leaf_of[slot as usize];
        &self.leaves[leaf as usize].path
    }
}
