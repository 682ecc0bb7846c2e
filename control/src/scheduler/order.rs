//! Orders that look random and are the same everywhere.
//!
//! Nodes stand on a ring, by a hash of their id. A class of requests looks at nodes from a place of its own onwards, and of nodes that are
//! equally good a pod takes the first from its own place onwards. So nobody flocks to the node with the least id, nothing depends on
//! the order in which nodes came, and no choice needs more than numbers that are there already.

use std::hash::{Hash, Hasher};

use crate::state::{NodeId, PodId};

/// A node's place. Different nodes have different ones, for the hash can be undone.
pub(super) fn place(node: NodeId) -> u64 {
    mix(node.0)
}

/// Where a pod begins.
pub(super) fn start(pod: &PodId) -> u64 {
    start_of(pod)
}

/// Where anything begins.
pub(super) fn start_of(what: &impl Hash) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    what.hash(&mut hasher);
    mix(hasher.0)
}

/// How far it is from a beginning to a place.
pub(super) fn distance(start: u64, place: u64) -> u64 {
    place.wrapping_sub(start)
}

/// SplitMix64's last step (Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014, variant 13).
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// FNV-1a: short, and known to spread what is short.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
