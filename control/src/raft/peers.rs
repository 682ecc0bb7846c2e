//! Connections to other replicas: none yet. A cluster of one never asks for any; whoever does is told.

use openraft::error::{InstallSnapshotError, RPCError, RaftError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{BasicNode, RaftTypeConfig};

use super::Types;

type Id = <Types as RaftTypeConfig>::NodeId;
type Failure<E> = RPCError<Id, BasicNode, E>;

/// Makes connections that always fail.
pub(super) struct NoPeers;

#[derive(Debug, thiserror::Error)]
#[error("this cluster has one node: there is no peer to speak to")]
struct Alone;

fn alone<E: std::error::Error>() -> Failure<E> {
    RPCError::Unreachable(Unreachable::new(&Alone))
}

impl RaftNetworkFactory<Types> for NoPeers {
    type Network = Self;

    async fn new_client(&mut self, _target: Id, _node: &BasicNode) -> Self {
        Self
    }
}

impl RaftNetwork<Types> for NoPeers {
    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Id>, Failure<RaftError<Id>>> {
        Err(alone())
    }

    async fn install_snapshot(
        &mut self,
        _request: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<Id>, Failure<RaftError<Id, InstallSnapshotError>>> {
        Err(alone())
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<Id>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Id>, Failure<RaftError<Id>>> {
        Err(alone())
    }
}
