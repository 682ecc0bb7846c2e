//! What a node does for the others of its cluster, and for those who want to belong to it.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Mutex;

use super::discovery::Announced;
use super::join::{self, Reply};
use super::tenant::Tenant;
use crate::clock::now_ns;
use crate::lease::Answer;
use crate::peers::{RecvHalf, Refusal, RefusalKind, SendHalf, Service};
use crate::raft::Replica;
use crate::state::{Command, NodeId, Role, encoding};

/// Replicas among each other.
pub const RAFT: &str = "/raft";
/// A node asks the leader for its lease; an [`Answer`] comes back.
pub const LEASE: &str = "/lease";
/// A node asks for another certificate before its own is over.
pub const CERTIFICATE: &str = "/certificate";
/// A node asks another for the unlock key of the cluster's lock, as text.
pub const UNLOCK_KEY: &str = "/unlock-key";
/// What is asked of a node's agent is below this.
pub const AGENT: &str = "/agent/";
/// What is asked of a node's images is below this.
pub const IMAGE: &str = "/image/";

/// Tells who may join, and signs certificates.
pub trait Issues: Send + Sync + 'static {
    /// The token is this cluster's, and whether it lets a node have a vote; otherwise what to say.
    fn check_token(&self, token: &str) -> Result<bool, String>;
    /// A certificate of a node for the key in a request, with those between it and the owner's.
    fn sign(&self, node: NodeId, csr: &[u8]) -> Result<Vec<Vec<u8>>, String>;
    /// The unlock key that counts, for a member; None: this node doesn't have it, or there is none.
    fn unlock_key(&self) -> Option<String>;
}

/// Grants leases, where this node leads.
#[async_trait]
pub trait Grants: Send + Sync + 'static {
    /// A node asks for its lease, now.
    async fn grant(&self, node: NodeId) -> Answer;
}

/// What is asked over streams, and in single calls, of the parts of a node.
#[async_trait]
pub trait Part: Send + Sync + 'static {
    /// See [`Service::call`].
    async fn call(&self, from: NodeId, path: &str, body: Bytes) -> Result<Bytes, Refusal>;
    /// See [`Service::open`].
    async fn open(&self, from: NodeId, path: &str, first: Bytes, send: SendHalf, recv: RecvHalf);
}

/// What a node answers with once it has heard from its cluster.
pub struct Parts {
    /// Leases.
    pub leases: Arc<dyn Grants>,
    /// Its own lease, which has an end once there is a second node.
    pub tenant: Arc<Tenant>,
    /// Its agent.
    pub agent: Arc<dyn Part>,
    /// Its images.
    pub images: Arc<dyn Part>,
}

/// The service of a node.
#[derive(Clone)]
pub struct Node {
    issues: Arc<dyn Issues>,
    replica: Arc<OnceLock<Replica>>,
    parts: Arc<OnceLock<Parts>>,
    /// Held by whoever takes a node in here, and by this node while it joins another cluster: whoever comes into one that is being given up
    /// would be lost with it.
    pub door: Arc<Mutex<()>>,
}

impl Node {
    /// One that has nothing to answer with yet.
    pub fn new(issues: Arc<dyn Issues>) -> Self {
        Self {
            issues,
            replica: Arc::default(),
            parts: Arc::default(),
            door: Arc::default(),
        }
    }

    /// From now on it takes part in what the cluster decides. Called once.
    pub fn follow(&self, replica: Replica) {
        // A second call has no effect, which its caller would find out at once.
        let _ = self.replica.set(replica);
    }

    /// From now on it answers all. Called once.
    pub fn begin(&self, parts: Parts) {
        // As above.
        let _ = self.parts.set(parts);
    }

    fn replica(&self) -> Result<&Replica, Refusal> {
        self.replica.get().ok_or_else(starting)
    }

    fn parts(&self) -> Result<&Parts, Refusal> {
        self.parts.get().ok_or_else(starting)
    }

    fn check_token(&self, token: &str) -> Result<bool, Refusal> {
        self.issues
            .check_token(token)
            .map_err(|reason| Refusal::new(RefusalKind::Forbidden, reason))
    }

    /// Tells who has the token what this cluster is.
    fn hello(&self, body: &[u8]) -> Result<Bytes, Refusal> {
        let hello: join::Hello = encoding::decode(body).map_err(malformed)?;
        self.check_token(&hello.token)?;
        let replica = self.replica()?;
        let told = Announced::of(replica.node(), &replica.state());
        Ok(encoding::encode(&told).map_err(failed)?.into())
    }

    fn member(&self, from: NodeId) -> Result<(), Refusal> {
        if self.replica()?.state().nodes.contains_key(&from) {
            return Ok(());
        }
        let words = "this node is no member any more";
        Err(Refusal::new(RefusalKind::Forbidden, words))
    }

    async fn join(&self, body: &[u8]) -> Result<Bytes, Refusal> {
        let mut request: join::Request = encoding::decode(body).map_err(malformed)?;
        let _door = self.door.lock().await;
        if !self.check_token(&request.token)? {
            request.wanted.role = Role::Worker;
        }
        let replica = self.replica()?;
        let standing = replica.standing();
        let reply = match standing.leader {
            None => {
                return Err(failed("the cluster has no leader now: try again"));
            }
            Some(leader) if leader != replica.node() => Reply::Elsewhere {
                address: standing.members.get(&leader).cloned().unwrap_or_default(),
            },
            Some(_) => self.welcome(replica, request).await?,
        };
        Ok(encoding::encode(&reply).map_err(failed)?.into())
    }

    async fn welcome(&self, replica: &Replica, request: join::Request) -> Result<Reply, Refusal> {
        let node = request.node;
        let known = replica.state().nodes.contains_key(&node);
        if known {
            let words = "a node of this id is a member already: ids are never used again";
            return Err(Refusal::new(RefusalKind::Forbidden, words));
        }
        let Some(address) = request.is.address else {
            let words = "a node says where peers reach it";
            return Err(Refusal::new(RefusalKind::Malformed, words));
        };
        let chain = self.issues.sign(node, &request.csr).map_err(failed)?;
        let join = Command::Join {
            node,
            at_ns: now_ns(),
            is: Box::new(request.is),
            wanted: request.wanted,
        };
        let tenant = &self.parts()?.tenant;
        let admission = tenant.before_second_node().await.map_err(failed)?;
        let joined = replica.propose(join).await.map_err(failed)?;
        admission.settled();
        joined.map_err(failed)?;
        let admitted = replica.admit(node, address.to_string()).await;
        admitted.map_err(failed)?;
        tracing::info!(%node, %address, "a node has joined");
        let cluster = replica.state().cluster.id;
        Ok(Reply::Welcome { cluster, chain })
    }
}

fn starting() -> Refusal {
    Refusal::new(RefusalKind::Busy, "this node is starting: try again")
}

fn malformed(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(RefusalKind::Malformed, error.to_string())
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(RefusalKind::Failed, error.to_string())
}

#[async_trait]
impl Service for Node {
    fn is_for_strangers(&self, path: &str) -> bool {
        path == join::PATH || path == join::HELLO
    }

    async fn call(&self, from: Option<NodeId>, path: &str, body: Bytes) -> Result<Bytes, Refusal> {
        if path == join::PATH {
            return self.join(&body).await;
        }
        if path == join::HELLO {
            return self.hello(&body);
        }
        let Some(from) = from else {
            return Err(Refusal::unknown(path));
        };
        match path {
            RAFT => Ok(self.replica()?.answer(from, &body).await),
            LEASE => {
                let answer = self.parts()?.leases.grant(from).await;
                Ok(encoding::encode(&answer).map_err(failed)?.into())
            }
            CERTIFICATE => {
                self.member(from)?;
                let chain = self.issues.sign(from, &body).map_err(failed)?;
                Ok(encoding::encode(&chain).map_err(failed)?.into())
            }
            UNLOCK_KEY => {
                self.member(from)?;
                let key = self.issues.unlock_key();
                let key = key.ok_or_else(|| failed("this node doesn't have it"))?;
                Ok(encoding::encode(&key).map_err(failed)?.into())
            }
            _ if path.starts_with(AGENT) => self.parts()?.agent.call(from, path, body).await,
            _ if path.starts_with(IMAGE) => self.parts()?.images.call(from, path, body).await,
            _ => Err(Refusal::unknown(path)),
        }
    }

    async fn open(
        &self,
        from: Option<NodeId>,
        path: &str,
        first: Bytes,
        send: SendHalf,
        recv: RecvHalf,
    ) {
        let refusal = match (from, self.parts()) {
            (Some(from), Ok(parts)) if path.starts_with(AGENT) => {
                return parts.agent.open(from, path, first, send, recv).await;
            }
            (Some(from), Ok(parts)) if path.starts_with(IMAGE) => {
                return parts.images.open(from, path, first, send, recv).await;
            }
            (Some(_), Err(refusal)) => refusal,
            _ => Refusal::unknown(path),
        };
        // An error: nobody waits for it any more.
        let _ = send.fail(&refusal);
    }
}
