//! Placement: which node a pod goes to. A pure function of what is known: no clock, no chance, no I/O.
//!
//! ```text
//! state ──deltas──▶ Cluster (nodes, and what is allocated on them)
//!                      │ place, pass
//!        Request ──────┴──────▶ Decision: on a node · on a node once others have gone · nowhere, and why
//! ```
//!
//! A pod goes to a node that takes pods, meets its constraints, and has room for what is counted for it ([`AskedFor::counted`]). Of
//! these: where it was before, if its layer is still there; else not where it failed of late, then where the fewest pods of its group are,
//! in its zone and then on its node, then where the score is best (`score`), then the first on a ring of hashes (`order`). Where nothing
//! is free, a higher band evicts from a lower one (`preempt`).
//!
//! **Invariant:** an answer depends on what is in the cluster and not on the order in which it came, nor on what was asked before:
//! whatever is remembered (`class`) is derived, and a slow search that remembers nothing says the same (`tests`).

mod class;
mod constraint;
mod decision;
mod ledger;
mod node;
mod order;
mod preempt;
mod priority;
mod queue;
mod quota;
mod request;
mod resources;
mod score;
#[cfg(test)]
mod tests;
mod topology;
mod wishes;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use constraint::{Constraint, ConstraintError, InvalidLabel, Label};
pub use decision::{Decision, Reasons};
pub use node::{Availability, Node, Platform, Role};
pub use priority::{Band, InvalidPriority, Priority};
pub use quota::{Counted, OverQuota, Quota, Usage};
pub use request::{Alike, Group, Request, Wants};
pub use resources::{AskedFor, Bounds, Resource, Resources, UNNAMED};
pub use wishes::{PRIORITY, WishError, Wishes, default_spread, is_wish};

use crate::state::{NodeId, PodId};
use class::{Classes, Hopeless, Needs};
use ledger::Ledger;

/// The nodes and what is allocated on them, kept up by deltas.
#[derive(Debug, Default)]
pub struct Cluster {
    ledger: Ledger,
    classes: Classes,
    hopeless: Hopeless,
    bounds: class::Bounds,
}

/// A pod can't be accounted for on a node that isn't known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no node {} in the scheduler's view: tell of nodes before their pods", node::id(*.0))]
pub struct UnknownNode(pub NodeId);

impl Cluster {
    /// A node has come, or is another than it was.
    pub fn set_node(&mut self, node: Node) {
        self.ledger.set_node(node);
    }

    /// A node has gone; the pods that were on it are nowhere now, and are returned.
    pub fn remove_node(&mut self, node: NodeId) -> Vec<PodId> {
        self.ledger.remove_node(node)
    }

    /// A node has an image of so many bytes, or None: has it no more.
    pub fn set_image(&mut self, node: NodeId, image: &Arc<str>, bytes: Option<u64>) {
        self.ledger.set_image(node, image, bytes);
    }

    /// Grows with everything by which a pod could fit that didn't: while it stays the same, so does [`Decision::Nowhere`].
    pub fn eased(&self) -> u64 {
        self.ledger.eased
    }

    /// A pod is on a node, whether there is room or not; it is on no other then.
    pub fn assign(
        &mut self,
        pod: PodId,
        node: NodeId,
        wants: &Arc<Wants>,
    ) -> Result<(), UnknownNode> {
        let slot = self.ledger.slot(node).ok_or(UnknownNode(node))?;
        self.ledger.assign(slot, pod, wants);
        Ok(())
    }

    /// A pod is nowhere any more.
    pub fn release(&mut self, pod: &PodId) {
        self.ledger.release(pod);
    }

    /// Where a pod is.
    pub fn node_of(&self, pod: &PodId) -> Option<NodeId> {
        self.ledger.node_of(pod)
    }

    /// Where a pod would go. Nothing is allocated by that. A pod that moves is to be released before.
    pub fn place(&mut self, request: &Request) -> Decision {
        let decision = self.search(request);
        decision
            .unwrap_or_else(|| Decision::Nowhere(Arc::new(Reasons::find(&self.ledger, request))))
    }

    /// Where all that wait would go, each given what those before it have left: the highest priority first, and tenants in turn. What is
    /// decided is allocated, and who is evicted is released, as if it had happened already: telling of it again changes nothing, and what
    /// comes to nothing after all is to be released. Who is evicted isn't placed anew in the same pass. Those that stay pending come last.
    pub fn pass(&mut self, waiting: impl IntoIterator<Item = Request>) -> Vec<(PodId, Decision)> {
        let mut decisions = Vec::new();
        let mut pending = Vec::new();
        for request in queue::order(waiting) {
            match self.search(&request) {
                Some(decision) => {
                    self.allocate(&request, &decision);
                    decisions.push((request.pod, decision));
                }
                None => pending.push(request),
            }
        }
        // Once all have had their turn, so that the words are true of what is left, and found once for all that are equal.
        let mut reasons: BTreeMap<(Needs, Option<NodeId>), Arc<Reasons>> = BTreeMap::new();
        for request in pending {
            let reasons = reasons
                .entry((Needs::of(&request.wants), request.pinned))
                .or_insert_with(|| Arc::new(Reasons::find(&self.ledger, &request)));
            decisions.push((request.pod, Decision::Nowhere(Arc::clone(reasons))));
        }
        decisions
    }

    fn allocate(&mut self, request: &Request, decision: &Decision) {
        let (node, victims): (_, &[PodId]) = match decision {
            Decision::On(node) => (*node, &[]),
            Decision::Preempting { node, victims } => (*node, victims),
            Decision::Nowhere(_) => return,
        };
        for victim in victims {
            self.ledger.release(victim);
        }
        if let Some(slot) = self.ledger.slot(node) {
            self.ledger.assign(slot, request.pod, &request.wants);
        }
    }

    fn search(&mut self, request: &Request) -> Option<Decision> {
        let Self {
            ledger,
            classes,
            hopeless,
            bounds,
        } = self;
        let decided = |slot: u32, ledger: &Ledger| Decision::On(ledger.at(slot).node.id);
        let preempting = |slot: u32, victims, ledger: &Ledger| Decision::Preempting {
            node: ledger.at(slot).node.id,
            victims,
        };
        let fits = |slot: &u32, ledger: &Ledger| {
            let at = ledger.at(*slot);
            at.node.takes_pods()
                && at.free().holds(&request.wants.resources)
                && request.wants.suit(&at.node)
        };
        if let Some(pinned) = request.pinned {
            let slot = ledger.slot(pinned)?;
            if fits(&slot, ledger) {
                return Some(decided(slot, ledger));
            }
            let victims = preempt::at(ledger, slot, request)?;
            return Some(preempting(slot, victims, ledger));
        }
        let home = request
            .home
            .filter(|home| !request.avoid.contains(home))
            .and_then(|home| ledger.slot(home))
            .filter(|slot| fits(slot, ledger));
        if let Some(slot) = home {
            return Some(decided(slot, ledger));
        }
        let needs = Needs::of(&request.wants);
        if hopeless.contains(&needs, ledger) {
            return None;
        }
        let class = classes.current(ledger, &request.wants, bounds);
        if let Some(slot) = class.best(ledger, request) {
            return Some(decided(slot, ledger));
        }
        match preempt::anywhere(ledger, class, request, bounds) {
            Some((slot, victims)) => Some(preempting(slot, victims, ledger)),
            None => {
                hopeless.insert(needs, ledger);
                None
            }
        }
    }
}
