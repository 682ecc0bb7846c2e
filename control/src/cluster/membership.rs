//! This node's place in its cluster, as APIs ask for it: what it is, who may join, and how it comes and goes. What is wanted of members
//! (labels, role, availability) is in the state and needs nothing of this.

use std::net::SocketAddr;

use async_trait::async_trait;

use super::lock::LockError;
use crate::agent::NodeInfo;
use crate::raft::Standing;
use crate::state::{NodeId, NodeWanted, Refusal};
use crate::trust::UnlockKey;

/// Whether this node belongs to a cluster of several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Local {
    /// It has no `[cluster]`: it is alone, and nobody can join it.
    #[default]
    Inactive,
    /// It is about to be taken in, or waits for a leader since its start.
    Pending,
    /// It does.
    Active,
    /// It does, and what is secret on its disk waits for the unlock key.
    Locked,
    /// It does, and can't take part; why, for the user.
    Error(String),
}

/// See [`Membership::status`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether it belongs to a cluster.
    pub local: Local,
    /// This node.
    pub node: NodeId,
    /// Where peers reach it; None: it doesn't know yet.
    pub address: Option<SocketAddr>,
    /// Who leads, votes, and is a member: [`crate::raft::Replica::standing`].
    pub standing: Standing,
    /// The certificate of the cluster's issuer, PEM: what its nodes believe. Empty: it isn't known here.
    pub issuer: String,
}

/// Why a node could not come or go. Text is for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// There is no `[cluster]`.
    #[error(
        "this node's hearth.toml has no [cluster], without which it is alone: who is a node of a cluster is vouched for by its owner's CA, and only the owner can sign for that. Put token, issuer_certificate and issuer_key under [cluster], the same on every node, and boot again: nodes of one token find each other. docs/hearth-toml.md shows how to make the three"
    )]
    Alone,
    /// What was asked makes no sense, or somebody else refuses it: the token is wrong, a member says no.
    #[error("{0}")]
    Refused(String),
    /// The state machine refuses.
    #[error(transparent)]
    State(#[from] Refusal),
    /// Not at the moment: nobody leads, or nobody answers.
    #[error("{0}")]
    Unavailable(String),
}

/// What is to become of the lock on what nodes keep on their disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locking {
    /// There is one; if there was none, with a new key.
    On,
    /// There is none.
    Off,
    /// There is one with another key.
    Rotate,
}

/// What is asked of a node that is locked: it has no place in its cluster until it is opened. Quick but for writing two files.
pub trait Door: Send + Sync + 'static {
    /// What there is to say of the machine.
    fn info(&self) -> NodeInfo;

    /// It was opened, or has left, just now.
    fn is_open(&self) -> bool;

    /// Opens it; the node goes on to its cluster after that.
    fn unlock(&self, key: &UnlockKey) -> Result<(), LockError>;

    /// Gives up what is locked, and the node's place in the cluster with it.
    fn leave(&self) -> Result<(), LockError>;
}

/// What is asked of this node as a member of a cluster.
#[async_trait]
pub trait Membership: Send + Sync + 'static {
    /// What it is now, as far as it knows. Quick: nothing is asked of other nodes.
    fn status(&self) -> Status;

    /// The tokens by which others may join, as a worker and as a manager, in swarm's text (`SWMTKN-1-…`). None: it knows of none.
    fn join_tokens(&self) -> Option<[String; 2]>;

    /// Replaces a token, or both: from here on nobody joins with the old one. Returns when that is committed.
    async fn rotate(&self, worker: bool, manager: bool) -> Result<(), MembershipError>;

    /// The key of the cluster's lock, in swarm's text (`SWMKEY-1-…`). Empty: there is none. An error: this node doesn't have it yet.
    fn unlock_key(&self) -> Result<String, MembershipError>;

    /// Makes the lock another. Returns when that is committed, and what this node has on its disk is sealed accordingly; the others follow.
    async fn lock(&self, to: Locking) -> Result<(), MembershipError>;

    /// Founds a cluster of this node alone, which others may join. `wanted` is what is wanted of it there. Asked only while it is
    /// [`Local::Inactive`].
    async fn init(&self, wanted: NodeWanted) -> Result<(), MembershipError>;

    /// Joins the cluster of `token` (swarm's text, well-formed), asking its members at `remotes` (`host:port`) in their order. `wanted` is
    /// what is wanted of this node there; its role is the token's to say. Returns when it is taken in. Asked only while it is
    /// [`Local::Inactive`].
    async fn join(
        &self,
        remotes: Vec<String>,
        token: String,
        wanted: NodeWanted,
    ) -> Result<(), MembershipError>;

    /// Leaves the cluster, and stays out until it is told to join. Whether a manager may is asked before; `force`: even if the others
    /// can't be told.
    async fn leave(&self, force: bool) -> Result<(), MembershipError>;

    /// Takes another node out of the cluster: no certificate of its counts any more, and its id is never used again. Refused while its
    /// lease holds, unless `force`. Never asked for this node itself.
    async fn remove(&self, node: NodeId, force: bool) -> Result<(), MembershipError>;
}

/// A node without `[cluster]`.
#[derive(Debug, Clone, Copy)]
pub struct Alone;

#[async_trait]
impl Membership for Alone {
    fn status(&self) -> Status {
        Status::default()
    }

    fn join_tokens(&self) -> Option<[String; 2]> {
        None
    }

    async fn rotate(&self, _: bool, _: bool) -> Result<(), MembershipError> {
        Err(MembershipError::Alone)
    }

    fn unlock_key(&self) -> Result<String, MembershipError> {
        Err(MembershipError::Alone)
    }

    async fn lock(&self, _: Locking) -> Result<(), MembershipError> {
        Err(MembershipError::Alone)
    }

    async fn init(&self, _: NodeWanted) -> Result<(), MembershipError> {
        Err(MembershipError::Alone)
    }

    async fn join(&self, _: Vec<String>, _: String, _: NodeWanted) -> Result<(), MembershipError> {
        Err(MembershipError::Alone)
    }

    async fn leave(&self, _: bool) -> Result<(), MembershipError> {
        Err(MembershipError::Alone)
    }

    async fn remove(&self, _: NodeId, _: bool) -> Result<(), MembershipError> {
        Err(MembershipError::Alone)
    }
}
