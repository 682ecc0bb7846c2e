//! Pods: the microVMs of containers, and where they are.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{ContainerId, NodeId, PodId, PortBinding, Tenant};

/// A microVM: its addresses, its node, and the containers in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pod {
    /// Never reused.
    pub id: PodId,
    /// Whose it is.
    pub tenant: Tenant,
    /// In the order in which they came; never empty.
    pub containers: Vec<ContainerId>,
    /// Its address; from creation to removal, wherever it is. None: no network (`--network none`).
    pub address: Option<Ipv4Addr>,
    /// Forwarded ports, free ones filled in, while one of its containers is wanted or runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortBinding>,
    /// The node that it is given to; the scheduler's. None: to none, yet or any more.
    pub node: Option<NodeId>,
    /// Counts the times that it was given to a node.
    pub epoch: u64,
    /// The node that had it before, and has yet to let go of it: until then it may run nowhere else. Cleared by that node, or by the
    /// end of its lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<NodeId>,
    /// Why it is nowhere, in words for the user; the scheduler's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pending: String,
    /// The state's revision that changed it last.
    pub version: u64,
}

impl Pod {
    /// The node that may run it now: it has been given to it, and whoever had it before has let go.
    pub fn held(&self) -> Option<NodeId> {
        self.node.filter(|_| self.previous.is_none())
    }
}
