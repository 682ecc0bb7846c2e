//! A node, as far as it matters to placement.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Resources;
use crate::state::NodeId;

/// What is known of a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// Never reused.
    pub id: NodeId,
    /// What it is called in words to users.
    pub name: String,
    /// `node.hostname`.
    pub hostname: String,
    /// `node.role`.
    pub role: Role,
    /// `node.labels.*`.
    pub labels: BTreeMap<String, String>,
    /// `engine.labels.*`.
    pub engine_labels: BTreeMap<String, String>,
    /// `node.platform.*`.
    pub platform: Platform,
    /// For pods: what the node keeps for itself is not in it.
    pub capacity: Resources,
    /// What its owner wants of it.
    pub availability: Availability,
    /// Its lease holds.
    pub alive: bool,
    /// `node.ip`: where it is reached.
    pub addresses: BTreeSet<IpAddr>,
    /// Devices that it can give to pods, by path (`/dev/kvm`).
    pub devices: BTreeSet<String>,
    /// Images that it has, by id, and their sizes in bytes.
    pub images: BTreeMap<Arc<str>, u64>,
}

/// A node's part in the cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// May have a vote.
    #[default]
    Manager,
    /// Has none.
    Worker,
}

/// Whether a node takes pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Availability {
    /// It does.
    #[default]
    Active,
    /// It keeps those that it has.
    Pause,
    /// It gives away those that it has.
    Drain,
}

/// What programs a node runs, in Go's words as docker has them (`linux`, `amd64`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Platform {
    /// Operating system.
    pub os: String,
    /// Processor.
    pub arch: String,
}

impl Role {
    /// As in `node.role==manager`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Manager => "manager",
            Self::Worker => "worker",
        }
    }
}

/// A node's id as users see and write it.
pub(super) fn id(node: NodeId) -> String {
    format!("{:016x}", node.0)
}

impl Node {
    /// New pods may come to it.
    pub fn takes_pods(&self) -> bool {
        self.alive && self.availability == Availability::Active
    }

    /// It answers every constraint and preference as the other does, and has its devices.
    pub(super) fn is_described_as(&self, other: &Self) -> bool {
        let of = |node: &Self| {
            let platform = node.platform.clone();
            (node.id, node.role, platform, node.hostname.clone())
        };
        of(self) == of(other)
            && self.labels == other.labels
            && self.engine_labels == other.engine_labels
            && self.addresses == other.addresses
            && self.devices == other.devices
    }
}
