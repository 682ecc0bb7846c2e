//! Who belongs to the cluster, who votes and who leads, as a replica knows it and as the leader's changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{BasicNode, ChangeMembers};
use tokio::time::Instant;

use super::{ENTRIES_KEPT, LEADER_PATIENCE, Replica, ReplicaError};
use crate::state::NodeId;

/// Between two tries to change the members while another change is under way: two commits.
const CHANGE_PAUSE: Duration = Duration::from_millis(50);

/// See [`Replica::standing`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Who leads. None: nobody, or unknown.
    pub leader: Option<NodeId>,
    /// The term of the vote that this node has seen last.
    pub term: u64,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// All members, and where they are reached.
    pub members: BTreeMap<NodeId, String>,
}

impl Replica {
    /// Takes a node in, or tells where it is now: it gets everything, and has no vote. Only where this node leads.
    pub async fn admit(&self, node: NodeId, address: String) -> Result<(), ReplicaError> {
        let deadline = Instant::now() + LEADER_PATIENCE;
        loop {
            let at = BasicNode::new(address.clone());
            let admitted = self.leader.raft.add_learner(node.0, at, false).await;
            match admitted {
                Ok(_) => return Ok(()),
                // One change at a time; whoever joins comes once.
                Err(error) if is_in_progress(&error) && Instant::now() < deadline => {
                    tokio::time::sleep(CHANGE_PAUSE).await;
                }
                Err(error) => return Err(ReplicaError::Unavailable(error.to_string())),
            }
        }
    }

    /// A member is somewhere else now. Only where this node leads.
    pub async fn moved(&self, node: NodeId, address: String) -> Result<(), ReplicaError> {
        let moved = BTreeMap::from([(node.0, BasicNode::new(address))]);
        let changed = self
            .leader
            .raft
            .change_membership(ChangeMembers::SetNodes(moved), true);
        changed
            .await
            .map(drop)
            .map_err(|e| ReplicaError::Unavailable(e.to_string()))
    }

    /// Whether a member has what this node, which leads, has committed, or nearly so.
    pub fn follows(&self, node: NodeId) -> bool {
        let metrics = self.leader.raft.metrics();
        let now = metrics.borrow();
        let matched = now.replication.as_ref().and_then(|all| all.get(&node.0));
        let matched = matched.copied().flatten().map(|id| id.index);
        let last = now.last_applied.map_or(0, |id| id.index);
        matched.is_some_and(|index| index + ENTRIES_KEPT >= last)
    }

    /// Gives these members, and nobody else, a vote. Only where this node leads.
    pub async fn set_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), ReplicaError> {
        let voters: BTreeSet<u64> = voters.into_iter().map(|node| node.0).collect();
        let changed = self.leader.raft.change_membership(voters, true);
        changed
            .await
            .map(drop)
            .map_err(|e| ReplicaError::Unavailable(e.to_string()))
    }

    /// Who leads, votes and belongs to the cluster, as far as this node knows.
    pub fn standing(&self) -> Standing {
        let metrics = self.leader.raft.server_metrics();
        let now = metrics.borrow();
        let membership = now.membership_config.membership();
        Standing {
            leader: now.current_leader.map(NodeId),
            term: now.vote.leader_id().term,
            voters: membership.voter_ids().map(NodeId).collect(),
            members: membership
                .nodes()
                .map(|(id, node)| (NodeId(*id), node.addr.clone()))
                .collect(),
        }
    }

    /// Waits until [`Replica::standing`] is another than `known`. Never, once this replica has stopped.
    pub async fn standing_other_than(&self, known: &Standing) {
        let mut metrics = self.leader.raft.server_metrics();
        while self.standing() == *known {
            if metrics.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Throws a node without a vote out. Its id is never used again. Only where this node leads.
    pub async fn expel(&self, node: NodeId) -> Result<(), ReplicaError> {
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
        let changed = self.leader.raft.change_membership(change, true);
        changed
            .await
            .map(drop)
            .map_err(|e| ReplicaError::Unavailable(e.to_string()))
    }
}

/// Another change of the members is under way.
fn is_in_progress(error: &RaftError<u64, ClientWriteError<u64, BasicNode>>) -> bool {
    matches!(
        error,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::InProgress(_)
        ))
    )
}
