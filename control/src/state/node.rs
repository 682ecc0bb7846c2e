//! The machines of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::NodeId;

/// A machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Never reused: a machine that has lost its disk is another node.
    pub id: NodeId,
    /// Nanoseconds since the Unix epoch.
    pub joined_ns: u64,
    /// What its owner wants of it.
    pub wanted: NodeWanted,
    /// What it says of itself, at each of its starts.
    pub is: NodeIs,
    /// Whether it may run pods, as far as the leader knows.
    pub health: Health,
    /// Which lease of its own it has: the state's revision by which it came in last. What was decided about an earlier one is refused.
    #[serde(default)]
    pub tenure: u64,
    /// The state's revision that changed it last.
    pub version: u64,
}

/// What is wanted of a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeWanted {
    /// A name beside its host name; mostly empty.
    pub name: String,
    /// `docker node update --label-add`.
    pub labels: BTreeMap<String, String>,
    /// Whether it takes pods.
    pub availability: Availability,
    /// Whether it may have a vote.
    pub role: Role,
}

/// Whether a node takes pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// It does.
    #[default]
    Active,
    /// It keeps those that it has.
    Pause,
    /// It gives away those that it has.
    Drain,
}

/// Whether a node may have a vote. Which of those that may do is chosen by the leader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It may.
    #[default]
    Manager,
    /// It never does.
    Worker,
}

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeIs {
    /// Host name.
    pub hostname: String,
    /// Of Hearth.
    pub version: String,
    /// The commands that it understands ([`super::FEATURES`]).
    pub features: u32,
    /// Where peers reach it.
    pub address: Option<SocketAddr>,
    /// `[cluster] labels` and facts of the machine: what is matched by `engine.labels`.
    pub labels: BTreeMap<String, String>,
    /// Logical processors.
    pub cpus: u64,
    /// For pods, bytes.
    pub memory_bytes: u64,
    /// For layers and images, bytes.
    pub disk_bytes: u64,
    /// WireGuard's public key.
    pub wireguard: Option<[u8; 32]>,
}

/// Whether a node may run pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Its lease holds.
    #[default]
    Ready,
    /// Its lease is over, or it has gone in order: whatever may run elsewhere has ended there.
    Down {
        /// Why, for the user.
        reason: String,
    },
}

impl Node {
    /// Its lease holds.
    pub fn is_ready(&self) -> bool {
        self.health == Health::Ready
    }

    /// New pods may come to it.
    pub fn takes_pods(&self) -> bool {
        self.is_ready() && self.wanted.availability == Availability::Active
    }
}

impl Cluster {
    /// It has what the commands' level 2 has brought.
    pub(super) fn is_of_2(&self) -> bool {
        self.lock.is_some() || !self.crls.is_empty() || !self.leaving.is_empty()
    }
}

/// What the cluster as a whole has been told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// Names it for ever, random; zeros: not founded yet.
    pub id: [u8; 16],
    /// Nanoseconds since the Unix epoch.
    pub created_ns: u64,
    /// The certificate authority of its nodes, sealed.
    pub issuer: Vec<u8>,
    /// Tokens by which a node may join, sealed: a worker's, a manager's.
    pub tokens: [Vec<u8>; 2],
    /// The level of commands that every member understands. A command of a later one is refused until then.
    pub features: u32,
    /// SHA-256 of clients' certificates that are let in no more.
    pub revoked: BTreeSet<[u8; 32]>,
    /// Nodes that were members and are let in no more. Ids are never used again.
    pub removed: BTreeSet<NodeId>,
    /// Nodes that are to be removed though they are there: they are granted no lease any more, and don't come in.
    pub leaving: BTreeSet<NodeId>,
    /// What clients' certificates the owner's CAs have taken back ([`crate::trust::revocation`]), DER: the latest list of each.
    pub crls: Vec<Vec<u8>>,
    /// Nodes' disks and the secrets above are sealed by an unlock key, which is known by this ([`crate::trust::UnlockKey::check`]). None:
    /// they aren't locked.
    pub lock: Option<[u8; 32]>,
}
