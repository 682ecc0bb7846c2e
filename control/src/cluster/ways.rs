//! The ways from this node to the others: where each is, by its id.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::leases::Leases;
use super::service::{Grants, LEASE, Part};
use super::tenant::Ask;
use crate::agent::remote::{self, RemoteAgent};
use crate::agent::{Agent, Reach};
use crate::lease::Answer;
use crate::peers::{Peers, RecvHalf, Refusal, SendHalf};
use crate::raft::Replica;
use crate::state::{NodeId, encoding};

/// A lease is granted within this, or asked for again: what a leader's question to the majority takes on busy machines.
const LEASE_PATIENCE: Duration = Duration::from_secs(2);

/// Cheap to clone.
#[derive(Clone)]
pub struct Ways {
    peers: Peers,
    replica: Replica,
}

impl Ways {
    /// Over these connections, to where the cluster's members are.
    pub fn new(peers: Peers, replica: Replica) -> Self {
        Self { peers, replica }
    }

    /// The connections.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Where a member is; empty: nobody has said so.
    pub fn address(&self, node: NodeId) -> String {
        let standing = self.replica.standing();
        standing.members.get(&node).cloned().unwrap_or_default()
    }
}

/// Asks whoever leads for this node's lease.
pub struct Asking {
    /// The way there.
    pub ways: Ways,
    /// Where this node leads.
    pub own: Arc<Leases>,
}

#[async_trait]
impl Ask for Asking {
    async fn ask(&self) -> Result<Answer, String> {
        let Ways { peers, replica } = &self.ways;
        let leader = replica.standing().leader.ok_or("no node leads")?;
        if leader == replica.node() {
            return Ok(self.own.grant(leader).await);
        }
        let address = self.ways.address(leader);
        let answer = peers
            .call(leader, &address, LEASE, Bytes::new(), LEASE_PATIENCE)
            .await
            .map_err(|e| e.to_string())?;
        encoding::decode(&answer).map_err(|e| e.to_string())
    }
}

impl Reach for Ways {
    fn agent(&self, node: NodeId) -> Arc<dyn Agent> {
        Arc::new(RemoteAgent {
            peers: self.peers.clone(),
            node,
            address: self.address(node),
        })
    }
}

/// This node's agent, as others ask it.
pub struct Asked(pub Arc<dyn Agent>);

#[async_trait]
impl Part for Asked {
    async fn call(&self, _: NodeId, path: &str, body: Bytes) -> Result<Bytes, Refusal> {
        match path {
            remote::ASK => remote::call(&*self.0, &body).await,
            path => Err(Refusal::unknown(path)),
        }
    }

    async fn open(&self, _: NodeId, path: &str, first: Bytes, send: SendHalf, recv: RecvHalf) {
        match path {
            remote::OPEN => remote::open(&*self.0, &first, send, recv).await,
            // An error: nobody waits for it any more.
            path => drop(send.fail(&Refusal::unknown(path))),
        }
    }
}
