//! What is to be placed.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Constraint, Label, Priority, Resources, Wishes};
use crate::state::{NodeId, PodId, Tenant};

/// A pod that wants a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which one.
    pub pod: PodId,
    /// What it wants of its node. Requests that want the same are best given the same one: they are placed at the cost of one.
    pub wants: Arc<Wants>,
    /// It may run on this node only.
    pub pinned: Option<NodeId>,
    /// Where it was before, and its layer still is: it goes back there if there is room, however well others would do.
    pub home: Option<NodeId>,
    /// Where it has failed of late: it goes there only if nowhere else.
    pub avoid: Vec<NodeId>,
}

/// What requests of one equivalence class have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wants {
    /// What is counted for it on its node ([`super::AskedFor::counted`]).
    pub resources: Resources,
    /// When it is its turn, and whom it may evict.
    pub priority: Priority,
    /// Whom it is kept apart from.
    pub group: Group,
    /// All are to be met.
    pub constraints: Vec<Constraint>,
    /// What the pods of its group are spread over, the widest first.
    pub spread: Vec<Label>,
    /// The image's id.
    pub image: Arc<str>,
    /// Devices that its node must have.
    pub devices: BTreeSet<String>,
}

/// Pods that stand in for each other: one machine's or zone's end should not be that of all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// Whose they are.
    pub tenant: Tenant,
    /// What makes them alike.
    pub of: Alike,
}

/// What makes pods alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alike {
    /// They are of one service.
    Service(Arc<str>),
    /// They are of no service, and of one image.
    Image(Arc<str>),
}

impl Wants {
    /// What a container with these wishes wants.
    pub fn new(tenant: Tenant, image: Arc<str>, wishes: Wishes, resources: Resources) -> Self {
        let of = match wishes.service {
            Some(service) => Alike::Service(service),
            None => Alike::Image(Arc::clone(&image)),
        };
        Self {
            resources,
            priority: wishes.priority,
            group: Group { tenant, of },
            constraints: wishes.constraints,
            spread: wishes.spread,
            image,
            devices: BTreeSet::new(),
        }
    }
}

impl Request {
    /// One that may go anywhere.
    pub fn new(pod: PodId, wants: Arc<Wants>) -> Self {
        Self {
            pod,
            wants,
            pinned: None,
            home: None,
            avoid: Vec::new(),
        }
    }
}
