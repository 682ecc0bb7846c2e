//! Equivalence classes of requests, and for each the nodes that are known to do.
//!
//! As Borg, a class is looked at once for all of its requests, what was found out is kept until a node changes, and of a large cluster
//! only a part is looked at: from the class's own place on the ring, until enough nodes were found that do (EuroSys 2015, section 3.4:
//! score caching, equivalence classes, relaxed randomization). From every leaf of the topology it takes its share, so that the narrowest
//! zone has its candidates.
//!
//! A class is a function of the ledger: which nodes it holds doesn't depend on when it was asked before. It holds, for each leaf, the
//! first nodes of the ring that do, as many as [`share`] says. `tests/reference` says the same without remembering anything.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ledger::Ledger;
use super::score::score;
use super::topology::Leaf;
use super::{Constraint, Priority, Request, Resources, Wants, order};
use crate::state::NodeId;

/// How much is looked at and remembered; the tests' is small.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Candidates that a class has at least, over all leaves, if so many nodes do. Clusters of no more nodes are looked at in whole. The
    /// best of 128 at random is in the best fiftieth with a probability of 92 %.
    pub candidates: usize,
    /// Classes that are kept; those used least recently go. Each takes some KiB.
    pub classes: usize,
    /// Nodes at which evictions are weighed up before the best of them is taken.
    pub evictions: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            candidates: 128,
            classes: 2048,
            evictions: 32,
        }
    }
}

/// Candidates from a leaf. A group that grows looks at more: else it would fill the nodes that it knows, rather than spread on.
pub(super) fn share(bounds: &Bounds, leaves: usize, members: u32) -> usize {
    let all = bounds.candidates + 2 * members as usize;
    all.div_ceil(leaves.max(1))
}

/// All of a request by which a node does or doesn't, with or without evictions; the rest is by how well.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Needs {
    pub matching: Matching,
    pub resources: Resources,
    pub priority: Priority,
}

impl Needs {
    pub fn of(wants: &Wants) -> Self {
        Self {
            matching: Matching {
                constraints: wants.constraints.clone(),
                devices: wants.devices.clone(),
            },
            resources: wants.resources,
            priority: wants.priority,
        }
    }
}

/// Needs that no node meets, until something eases.
#[derive(Debug, Default)]
pub(super) struct Hopeless {
    known: BTreeSet<Needs>,
    /// [`Ledger::eased`] at that time.
    eased: u64,
}

/// How many of these are remembered; strangers choose them.
const HOPELESS_MAX: usize = 2048;

impl Hopeless {
    pub fn contains(&self, needs: &Needs, ledger: &Ledger) -> bool {
        self.eased == ledger.eased && self.known.contains(needs)
    }

    pub fn insert(&mut self, needs: Needs, ledger: &Ledger) {
        if self.eased != ledger.eased || self.known.len() >= HOPELESS_MAX {
            self.known.clear();
            self.eased = ledger.eased;
        }
        self.known.insert(needs);
    }
}

/// What a request demands of a node's description.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Matching {
    pub constraints: Vec<Constraint>,
    pub devices: BTreeSet<String>,
}

/// How good a candidate is; the smaller, the better: pods of the group that are there, and the score.
pub(super) type Rank = (u32, std::cmp::Reverse<i32>);

#[derive(Debug)]
struct Candidate {
    /// How many nodes of the leaf come before it.
    step: u32,
    slot: u32,
    place: u64,
    rank: Rank,
}

/// The candidates of a leaf.
#[derive(Debug, Default)]
struct Pool {
    /// All that do among the first `seen`, by step.
    found: Vec<Candidate>,
    /// How many of the leaf's nodes were looked at.
    seen: usize,
}

/// A class and its candidates.
#[derive(Debug)]
pub(super) struct Class {
    wants: Arc<Wants>,
    start: u64,
    pools: Vec<Pool>,
    matching: Option<Arc<[bool]>>,
    epoch: u64,
    changes: u64,
    last_used: u64,
}

/// Classes by what they want.
#[derive(Debug, Default)]
pub(super) struct Classes {
    known: BTreeMap<Arc<Wants>, Class>,
    uses: u64,
}

impl Classes {
    /// The class of a request, as the ledger is now.
    pub fn current(
        &mut self,
        ledger: &mut Ledger,
        wants: &Arc<Wants>,
        bounds: &Bounds,
    ) -> &mut Class {
        self.uses += 1;
        if self.known.len() >= bounds.classes && !self.known.contains_key(wants) {
            self.forget_half();
        }
        let class = self
            .known
            .entry(Arc::clone(wants))
            .or_insert_with(|| Class::new(wants));
        class.last_used = self.uses;
        class.catch_up(ledger, bounds);
        class
    }

    fn forget_half(&mut self) {
        let mut uses: Vec<u64> = self.known.values().map(|class| class.last_used).collect();
        let middle = uses.len() / 2;
        let (_, median, _) = uses.select_nth_unstable(middle);
        let median = *median;
        self.known.retain(|_, class| class.last_used > median);
    }
}

/// What ranks nodes for a class.
struct Judge<'a> {
    ledger: &'a Ledger,
    wants: &'a Wants,
    matching: Option<&'a [bool]>,
    members: Option<&'a BTreeMap<NodeId, u32>>,
}

impl Judge<'_> {
    /// None: it doesn't do.
    fn rank(&self, slot: u32) -> Option<Rank> {
        let at = self.ledger.at(slot);
        let does = at.node.takes_pods()
            && at.free().holds(&self.wants.resources)
            && self.matching.is_none_or(|matching| matching[slot as usize]);
        does.then(|| {
            let members = self.members.and_then(|members| members.get(&at.node.id));
            let score = score(&at.node, &at.used, &self.wants.resources, &self.wants.image);
            (members.copied().unwrap_or(0), std::cmp::Reverse(score))
        })
    }
}

impl Class {
    fn new(wants: &Arc<Wants>) -> Self {
        Self {
            wants: Arc::clone(wants),
            start: order::start_of(&**wants),
            pools: Vec::new(),
            matching: None,
            epoch: 0,
            changes: 0,
            last_used: 0,
        }
    }

    /// Where it begins on the ring.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Whether a node's description does.
    pub fn suits(&self, slot: u32) -> bool {
        self.matching
            .as_ref()
            .is_none_or(|matching| matching[slot as usize])
    }

    fn catch_up(&mut self, ledger: &mut Ledger, bounds: &Bounds) {
        ledger.prepare(&self.wants);
        if self.epoch != ledger.epoch || self.pools.is_empty() {
            self.matching = ledger.matching(&self.wants);
        }
        let ledger = &*ledger;
        let Some(topology) = ledger.topology(&self.wants.spread) else {
            return;
        };
        let (total, members) = ledger.members(&self.wants.group);
        let judge = Judge {
            ledger,
            wants: &self.wants,
            matching: self.matching.as_deref(),
            members,
        };
        let changed = (self.epoch == ledger.epoch)
            .then(|| ledger.changed_since(self.changes))
            .flatten();
        match changed {
            Some(slots) => {
                for &slot in slots {
                    let leaf = topology.leaf_of[slot as usize] as usize;
                    self.pools[leaf].look_again(&judge, &topology.leaves[leaf], self.start, slot);
                }
            }
            None => {
                self.pools.clear();
                self.pools.resize_with(topology.leaves.len(), Pool::default);
            }
        }
        let enough = share(bounds, topology.leaves.len(), total);
        for (pool, leaf) in self.pools.iter_mut().zip(&topology.leaves) {
            pool.fill(&judge, leaf, self.start, enough);
        }
        self.epoch = ledger.epoch;
        self.changes = ledger.changes();
    }

    /// The best node for a request of this class.
    pub fn best(&self, ledger: &Ledger, request: &Request) -> Option<u32> {
        let topology = ledger.topology(&self.wants.spread)?;
        let counts = ledger.spread(&self.wants.group, &self.wants.spread);
        let start = order::start(&request.pod);
        let among = |does: &dyn Fn(&Candidate) -> bool| {
            self.pools
                .iter()
                .zip(&topology.leaves)
                .filter_map(|(pool, leaf)| Some((leaf, pool.best(start, does)?)))
                .min_by(|(leaf, one), (other_leaf, other)| {
                    by_domains(counts, leaf, other_leaf)
                        .then_with(|| one.key(start).cmp(&other.key(start)))
                })
                .map(|(_, candidate)| candidate.slot)
        };
        if request.avoid.is_empty() {
            return among(&|_| true);
        }
        let avoided = |candidate: &Candidate| {
            let id = ledger.at(candidate.slot).node.id;
            request.avoid.contains(&id)
        };
        among(&|candidate| !avoided(candidate)).or_else(|| among(&|_| true))
    }
}

/// The fewer pods of the group in the widest domain, the better; then in the next.
fn by_domains(counts: &[u32], one: &Leaf, other: &Leaf) -> Ordering {
    let count = |domain: &u32| counts.get(*domain as usize).copied().unwrap_or(0);
    one.path.iter().map(count).cmp(other.path.iter().map(count))
}

impl Candidate {
    fn key(&self, start: u64) -> (Rank, u64) {
        (self.rank, order::distance(start, self.place))
    }
}

impl Pool {
    fn best(&self, start: u64, does: &dyn Fn(&Candidate) -> bool) -> Option<&Candidate> {
        self.found
            .iter()
            .filter(|candidate| does(candidate))
            .min_by_key(|candidate| candidate.key(start))
    }

    /// A node has changed.
    fn look_again(&mut self, judge: &Judge<'_>, leaf: &Leaf, start: u64, slot: u32) {
        let place = judge.ledger.at(slot).place;
        let index = leaf.nodes.partition_point(|(other, _)| *other < place);
        let step = (index + leaf.nodes.len() - leaf.first(start)) % leaf.nodes.len();
        if step >= self.seen {
            return;
        }
        let step = step as u32;
        let rank = judge.rank(slot);
        match self
            .found
            .binary_search_by_key(&step, |candidate| candidate.step)
        {
            Ok(index) => match rank {
                Some(rank) => self.found[index].rank = rank,
                None => {
                    self.found.remove(index);
                }
            },
            Err(index) => {
                if let Some(rank) = rank {
                    let candidate = Candidate {
                        step,
                        slot,
                        place,
                        rank,
                    };
                    self.found.insert(index, candidate);
                }
            }
        }
    }

    /// Takes in nodes until there are enough, and lets go of what is more.
    fn fill(&mut self, judge: &Judge<'_>, leaf: &Leaf, start: u64, enough: usize) {
        if self.found.len() > enough {
            self.found.truncate(enough);
            self.seen = self.found.last().map_or(0, |last| last.step as usize + 1);
        }
        let first = leaf.first(start);
        while self.found.len() < enough && self.seen < leaf.nodes.len() {
            let (place, slot) = leaf.nodes[(first + self.seen) % leaf.nodes.len()];
            if let Some(rank) = judge.rank(slot) {
                self.found.push(Candidate {
                    step: self.seen as u32,
                    slot,
                    place,
                    rank,
                });
            }
            self.seen += 1;
        }
    }
}

impl Leaf {
    /// The index of the node that is the first from a place on; that of the first of all may be the number of nodes, which is the same.
    fn first(&self, start: u64) -> usize {
        self.nodes.partition_point(|(place, _)| *place < start)
    }
}
