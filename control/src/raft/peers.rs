//! What replicas say to each other, over a transport that is handed in.
//!
//! One request, one answer, both CBOR ([`encoding`]). Who asks is known from the transport, and may speak for itself only: a vote, a
//! leader's entries and proposals name the node that they come from.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use openraft::error::{
    InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable,
};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{BasicNode, SnapshotMeta, Vote};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Types;
use super::batch::{Batch, Committed, NotNow};
use super::election::Behind;
use super::rest::Rest;
use crate::state::{NodeId, encoding};

/// How a replica reaches another one.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Has the replica of `node`, at `address`, answer a request ([`super::Replica::answer`]). After an error nobody knows whether it
    /// arrived.
    async fn call(
        &self,
        node: NodeId,
        address: &str,
        request: Bytes,
    ) -> Result<Bytes, TransportError>;
}

/// The words of whatever went wrong on the way.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct TransportError(pub String);

/// Of a cluster of one, which never asks for any.
pub struct NoPeers;

#[async_trait]
impl Transport for NoPeers {
    async fn call(&self, _: NodeId, _: &str, _: Bytes) -> Result<Bytes, TransportError> {
        Err(TransportError(
            "this cluster has one node: there is no peer to speak to".into(),
        ))
    }
}

/// A part of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Chunk {
    vote: Vote<u64>,
    meta: SnapshotMeta<u64, BasicNode>,
    offset: u64,
    data: Bytes,
    done: bool,
}

impl From<InstallSnapshotRequest<Types>> for Chunk {
    fn from(request: InstallSnapshotRequest<Types>) -> Self {
        Self {
            vote: request.vote,
            meta: request.meta,
            offset: request.offset,
            data: request.data.into(),
            done: request.done,
        }
    }
}

impl From<Chunk> for InstallSnapshotRequest<Types> {
    fn from(chunk: Chunk) -> Self {
        Self {
            vote: chunk.vote,
            meta: chunk.meta,
            offset: chunk.offset,
            data: chunk.data.into(),
            done: chunk.done,
        }
    }
}

/// What one replica asks of another.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// And whether the leader rests.
    Append(AppendEntriesRequest<Types>, bool),
    Vote(VoteRequest<u64>),
    Snapshot(Chunk),
    /// A node has started, and waits for signs of a leader.
    Started,
    /// Of a voter: look whether the leader still answers. Whoever asks this has no answer, and no vote.
    Look,
    /// Of the leader: commit this.
    Propose(Batch),
    /// Of the leader: up to where the log is committed now.
    Committed,
}

impl Request {
    /// The node that a request says it is of; None: of whoever sends it.
    pub fn speaks_for(&self) -> Option<u64> {
        let leader = |vote: &Vote<u64>| vote.leader_id().voted_for();
        match self {
            Self::Append(request, _) => leader(&request.vote),
            Self::Vote(request) => leader(&request.vote),
            Self::Snapshot(chunk) => leader(&chunk.vote),
            Self::Propose(batch) => Some(batch.proposer.0),
            Self::Committed | Self::Started | Self::Look => None,
        }
    }
}

type Answered<T, E = openraft::error::Infallible> = Result<T, RaftError<u64, E>>;

/// The answer to each request, in the same order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Append(Answered<AppendEntriesResponse<u64>>),
    Vote(Answered<VoteResponse<u64>>),
    Snapshot(Answered<InstallSnapshotResponse<u64>, InstallSnapshotError>),
    Proposed(Result<Committed, NotNow>),
    Committed(Result<u64, NotNow>),
    /// Nothing else is to be said to [`Request::Started`] and [`Request::Look`].
    Heard,
    /// The request made no sense.
    Refused(String),
}

/// The way to all peers.
#[derive(Clone)]
pub(super) struct Peers {
    transport: Arc<dyn Transport>,
    behind: Behind,
    rest: Arc<Rest>,
}

/// The way to one.
#[derive(Clone)]
pub(super) struct Peer {
    transport: Arc<dyn Transport>,
    node: NodeId,
    address: String,
    behind: Behind,
    rest: Arc<Rest>,
}

impl Peers {
    pub fn new(transport: Arc<dyn Transport>, behind: Behind, rest: Arc<Rest>) -> Self {
        Self {
            transport,
            behind,
            rest,
        }
    }

    pub fn peer(&self, node: u64, at: &BasicNode) -> Peer {
        Peer {
            transport: Arc::clone(&self.transport),
            node: NodeId(node),
            address: at.addr.clone(),
            behind: Arc::clone(&self.behind),
            rest: Arc::clone(&self.rest),
        }
    }
}

impl Peer {
    pub async fn ask(&self, request: &Request) -> Result<Reply, TransportError> {
        let failed = |e: encoding::EncodingError| TransportError(e.to_string());
        let request = encoding::encode(request).map_err(failed)?;
        let reply = self
            .transport
            .call(self.node, &self.address, request.into())
            .await?;
        match decode(&reply)? {
            Reply::Refused(reason) => Err(TransportError(format!(
                "node {:x} has refused the request: {reason}",
                self.node.0
            ))),
            reply => Ok(reply),
        }
    }

    async fn rpc<T, E: std::error::Error>(
        &self,
        request: Request,
        take: impl FnOnce(Reply) -> Option<Answered<T, E>>,
    ) -> Result<T, RPCError<u64, BasicNode, RaftError<u64, E>>> {
        let reply = self.ask(&request).await.map_err(|e| Unreachable::new(&e))?;
        match take(reply) {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(RemoteError::new(self.node.0, error).into()),
            None => Err(NetworkError::new(&odd(self.node)).into()),
        }
    }
}

/// A reply to another question.
pub(super) fn odd(node: NodeId) -> TransportError {
    TransportError(format!("node {:x} has answered something else", node.0))
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, TransportError> {
    encoding::decode(bytes).map_err(|e| TransportError(e.to_string()))
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        self.peer(target, node)
    }
}

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, BasicNode, RaftError<u64>>> {
        self.rest.gives_sign();
        let request = Request::Append(request, self.rest.rests());
        self.rpc(request, |reply| match reply {
            Reply::Append(answer) => Some(answer),
            _ => None,
        })
        .await
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        _: RPCOption,
    ) -> Result<
        InstallSnapshotResponse<u64>,
        RPCError<u64, BasicNode, RaftError<u64, InstallSnapshotError>>,
    > {
        self.rpc(Request::Snapshot(request.into()), |reply| match reply {
            Reply::Snapshot(answer) => Some(answer),
            _ => None,
        })
        .await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        _: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, BasicNode, RaftError<u64>>> {
        let own = request.last_log_id;
        let asked = self.rpc(Request::Vote(request), |reply| match reply {
            Reply::Vote(answer) => Some(answer),
            _ => None,
        });
        let answer = asked.await?;
        if answer.last_log_id > own {
            self.behind.store(true, Ordering::Relaxed);
        }
        Ok(answer)
    }
}
