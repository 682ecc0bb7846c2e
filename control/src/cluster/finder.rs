//! A node whose own cluster is empty looks for one that it belongs to, and joins it.
//!
//! It asks those at the addresses that it was given, and those that it finds on its link, each for what its cluster is, and shows them its
//! token only once they have shown a certificate of the owner's issuer.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::discovery::{Announced, Discovery};
use super::identity::Identity;
use super::join::{self, Reply, Request, Welcomed, should_join};
use crate::entropy;
use crate::peers::Tcp;
use crate::raft::Replica;
use crate::state::{NodeId, NodeIs, NodeWanted};

/// Between two rounds where addresses were given: they may be those of machines that are switched on later.
const ROUND: Duration = Duration::from_secs(10);
/// After an attempt that has failed: whoever was asked was starting, or joining another itself.
const RETRY: Duration = Duration::from_secs(2);
/// From a change on the link to the next look: several nodes that are switched on together are found in one go.
const SETTLE: Duration = Duration::from_millis(500);

/// What it takes to find a cluster.
pub struct Finder {
    /// What the node shows.
    pub identity: Identity,
    /// Its own cluster.
    pub replica: Replica,
    /// `host:port` of those that its owner has named.
    pub addresses: Vec<String>,
    /// None: its owner doesn't want it.
    pub discovery: Option<Arc<Discovery>>,
    /// What the node is, once the address is known from which others are reached.
    pub is: NodeIs,
    /// What its owner wants of it.
    pub wanted: NodeWanted,
    /// See [`super::service::Node::door`].
    pub door: Arc<Mutex<()>>,
}

impl Finder {
    /// Announces this node for as long as this runs; returns once another cluster has taken it in, which is written down in `welcomed`.
    /// Of a node whose cluster is not empty: never.
    pub async fn run(mut self, welcomed: &Path) -> Result<(), join::JoinError> {
        let mut told = BTreeSet::new();
        loop {
            let mut again = false;
            let own = Announced::of(self.replica.node(), &self.replica.state());
            if let Some(discovery) = &self.discovery
                && let Err(error) = discovery.announce(&own)
            {
                tracing::warn!(%error, "announcing this node");
            }
            for address in self.candidates(&own) {
                let (greet, token) = (self.identity.stranger(), self.token());
                let other = match join::hello(&Tcp, &greet, &address, &token).await {
                    Ok(other) => other,
                    Err(error) => {
                        again = true;
                        if told.insert(address.clone()) {
                            tracing::info!(address, %error, "asking who is there");
                        }
                        continue;
                    }
                };
                if other.node == own.node || other.cluster == own.cluster {
                    continue;
                }
                let (mine, theirs) = ((own.cluster, own.empty), (other.cluster, other.empty));
                if !own.empty && !other.empty && told.insert(hex::encode(other.cluster)) {
                    tracing::error!(
                        address,
                        cluster = hex::encode(other.cluster),
                        "another cluster of the same token holds something, and so does this one: they are never merged; to have this node join the other, remove its containers and images first"
                    );
                }
                if should_join(mine, theirs) {
                    if self.join(address, welcomed).await? {
                        return Ok(());
                    }
                    again = true;
                }
            }
            match again && own.empty {
                true => tokio::time::sleep(RETRY).await,
                false => self.pause().await,
            }
        }
    }

    fn token(&self) -> String {
        self.identity.token().to_string()
    }

    fn candidates(&self, own: &Announced) -> Vec<String> {
        let found = self.discovery.as_ref().map(|discovery| discovery.found());
        let found = found.unwrap_or_default().into_iter();
        let found = found
            .filter(|found| found.announced.cluster != own.cluster)
            .flat_map(|found| found.addresses)
            .map(|address| address.to_string());
        // Those of a cluster that has others already are asked no more than what is needed to find the way back after a loss of all.
        let named = self.addresses.iter().filter(|_| own.empty).cloned();
        named.chain(found).collect()
    }

    /// Waits until there may be something else to see.
    async fn pause(&self) {
        let changed = async {
            match &self.discovery {
                Some(discovery) => discovery.changed().await,
                None => std::future::pending().await,
            }
        };
        let looks = !self.addresses.is_empty() && self.replica.state().is_empty();
        let round = async {
            match looks {
                true => tokio::time::sleep(ROUND).await,
                false => std::future::pending().await,
            }
        };
        // Whether it holds something is told to others, and changes with the state.
        let own = self.replica.state().is_empty();
        let emptiness = async {
            while self.replica.state().is_empty() == own {
                tokio::time::sleep(ROUND).await;
            }
        };
        tokio::select! {
            () = changed => tokio::time::sleep(SETTLE).await,
            () = round => {}
            () = emptiness => {}
        }
    }

    async fn join(&mut self, address: String, welcomed: &Path) -> Result<bool, join::JoinError> {
        let failed = |e: &dyn std::fmt::Display| join::JoinError::Refused(e.to_string());
        let door = Arc::clone(&self.door).lock_owned().await;
        if !self.replica.state().is_empty() {
            return Ok(false);
        }
        let node = NodeId(u64::from_le_bytes(entropy::random()));
        tracing::info!(address, "joining the cluster there");
        let request = Request {
            token: self.token(),
            node,
            csr: self.identity.request().map_err(|e| failed(&e))?,
            is: self.is.clone(),
            wanted: self.wanted.clone(),
        };
        let asked = join::ask(&Tcp, &self.identity.stranger(), &[address], &request).await;
        match asked {
            Ok(Reply::Welcome { chain, .. }) => {
                Welcomed { node, chain }.write(welcomed)?;
                // Nobody comes in here any more.
                std::mem::forget(door);
                Ok(true)
            }
            Ok(Reply::Elsewhere { .. }) => Ok(false),
            Err(error) => {
                tracing::warn!(%error, "joining has failed, and is tried again");
                Ok(false)
            }
        }
    }
}
