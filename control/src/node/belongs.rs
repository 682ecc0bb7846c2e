//! How this node comes into a cluster and goes, as its API asks for it.
//!
//! A node with `[cluster]` is in a cluster from its first start, if need be in one of its own. It counts as a member of a swarm once there
//! are others, or its owner has said `docker swarm init`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use async_trait::async_trait;
use tokio::sync::{Mutex, Notify};

use super::removed::HAND_OVER;
use crate::clock::now_ns;
use crate::cluster::identity::Identity;
use crate::cluster::join::{self, Reply, Request, Welcomed};
use crate::cluster::membership::{Local, Locking, Membership, MembershipError, Status};
use crate::cluster::moves;
use crate::entropy;
use crate::peers::{Peers, Server, Tcp};
use crate::raft::Replica;
use crate::state::{
    Availability, Cluster, Command, ContainerId, NodeId, NodeIs, NodeWanted, Phase, Refusal, Signal,
};
use crate::trust::UnlockKey;

/// Its owner has said that it is a swarm of one.
const FOUNDED: &str = "founded";
/// Its owner has said that it leaves: it joins none by itself.
const LEFT: &str = "left";
/// Pods leave a node that is to be removed within this: each is stopped first, which may take a minute.
const DRAIN_PATIENCE: Duration = Duration::from_secs(90);
/// From the answer to who has told this node to join or to leave, to the end of this process: the docker CLI asks what has come of it.
const ANSWERED: Duration = Duration::from_secs(1);
/// Until a lease that isn't renewed is over, and its node called out: twice that, and an election.
const LEASE_PATIENCE: Duration = Duration::from_secs(30);
/// From SIGTERM to SIGKILL of what goes with its node: docker's own.
const STOP_SECONDS: u64 = 10;
/// Removals of a node on which something was started at the last moment.
const REMOVALS_TRIED: usize = 3;
/// Between two looks at what is left of them.
const DRAIN_LOOK: Duration = Duration::from_millis(200);

/// See the module's page.
pub struct Belongs {
    pub identity: Identity,
    pub replica: Replica,
    pub peers: Peers,
    pub server: Option<Server>,
    /// `/data/cluster`.
    pub dir: PathBuf,
    /// [`Welcomed`]'s file.
    pub welcomed: PathBuf,
    /// What others are told of this node.
    pub is: NodeIs,
    /// See [`crate::cluster::service::Node::door`].
    pub door: Arc<Mutex<()>>,
    /// Rung when this process is to begin anew in another cluster.
    pub another: Arc<Notify>,
}

fn refused(error: impl std::fmt::Display) -> MembershipError {
    MembershipError::Refused(error.to_string())
}

fn unavailable(error: impl std::fmt::Display) -> MembershipError {
    MembershipError::Unavailable(error.to_string())
}

/// The node that has left its cluster last, at its owner's word; it is to give up what it had there.
pub fn left(dir: &Path) -> Option<NodeId> {
    let text = fs::read_to_string(dir.join(LEFT)).ok()?;
    let id = u64::from_str_radix(text.trim(), 16).ok()?;
    Some(NodeId(id))
}

/// Of a node that has left without a word.
pub fn mark_left(dir: &Path, node: NodeId) -> io::Result<()> {
    // An error: it isn't there.
    let _ = fs::remove_file(dir.join(FOUNDED));
    fs::write(dir.join(LEFT), format!("{:x}", node.0))
}

impl Belongs {
    /// This process ends, once whoever asked has heard the answer.
    fn begin_anew(&self) {
        let another = Arc::clone(&self.another);
        tokio::spawn(async move {
            tokio::time::sleep(ANSWERED).await;
            another.notify_one();
        });
    }

    fn mark(&self, file: &str, text: &str) -> Result<(), MembershipError> {
        fs::write(self.dir.join(file), text).map_err(refused)
    }

    fn unmark(&self, file: &str) {
        // An error: it isn't there.
        let _ = fs::remove_file(self.dir.join(file));
    }

    async fn propose(&self, command: Command) -> Result<(), MembershipError> {
        let verdict = self.replica.propose(command).await.map_err(unavailable)?;
        verdict.map(drop).map_err(MembershipError::State)
    }

    /// Changes what the cluster as a whole has been told, whatever else changes it at the same time.
    async fn change(
        &self,
        change: impl Fn(&Cluster) -> Result<Cluster, MembershipError>,
    ) -> Result<(), MembershipError> {
        loop {
            let from = self.replica.state().cluster.clone();
            let to = change(&from)?;
            if to == from {
                return Ok(());
            }
            let command = Command::SetCluster {
                from: Box::new(from),
                to: Box::new(to),
            };
            match self.propose(command).await {
                Err(MembershipError::State(Refusal::OutOfSequence)) => {}
                done => return done,
            }
        }
    }

    async fn want(
        &self,
        node: NodeId,
        change: impl Fn(&mut NodeWanted),
    ) -> Result<(), MembershipError> {
        loop {
            let known = self.replica.state().nodes.get(&node).cloned();
            let known = known.ok_or_else(|| Refusal::NoSuchNode(node.to_string()))?;
            let mut wanted = known.wanted.clone();
            change(&mut wanted);
            if wanted == known.wanted {
                return Ok(());
            }
            let command = Command::UpdateNode {
                at_ns: now_ns(),
                node,
                version: known.version,
                wanted,
            };
            match self.propose(command).await {
                Err(MembershipError::State(Refusal::OutOfSequence)) => {}
                done => return done,
            }
        }
    }

    /// Has the pods of a node that may run elsewhere leave it in order, and ends the others, so that none runs there while another has
    /// begun. Of a node that does none of it in time the lease is no longer renewed: what others may start has ended when it is over.
    async fn empty(&self, node: NodeId) -> Result<(), MembershipError> {
        self.want(node, |wanted| wanted.availability = Availability::Drain)
            .await?;
        self.end_what_stays(node).await?;
        let empty = |replica: &Replica| !replica.state().may_run_on(node);
        if self.becomes(DRAIN_PATIENCE, empty).await {
            return Ok(());
        }
        let leaves = |leaves: bool| {
            move |cluster: &Cluster| {
                let mut to = cluster.clone();
                match leaves {
                    true => to.leaving.insert(node),
                    false => to.leaving.remove(&node),
                };
                Ok(to)
            }
        };
        tracing::warn!(%node, "it doesn't end what it runs: its lease is renewed no more");
        self.change(leaves(true)).await?;
        if self.becomes(LEASE_PATIENCE, empty).await {
            return Ok(());
        }
        self.change(leaves(false)).await?;
        Err(refused(format!(
            "node {node} still runs something, and there is no leader who could end its lease: try again"
        )))
    }

    /// What doesn't go elsewhere is stopped where it is.
    async fn end_what_stays(&self, node: NodeId) -> Result<(), MembershipError> {
        let stays: Vec<ContainerId> = {
            let state = self.replica.state();
            let on = state.pods.on(node).flat_map(|pod| state.in_pod(&pod.id));
            on.filter(|it| {
                !moves::may_move(it) && (it.wanted.up || it.status.phase == Phase::Running)
            })
            .map(|it| it.id)
            .collect()
        };
        for id in stays {
            let stop = Command::Stop {
                id,
                at_ns: now_ns(),
                signal: Signal::TERM,
                timeout_s: Some(STOP_SECONDS),
                tell: false,
            };
            match self.propose(stop).await {
                // It has ended by itself.
                Err(MembershipError::State(_)) => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// Whoever leads expels a node that was removed; one that leads itself hands over first, by the connections that it has. Returns then, or
    /// after some time: the others find out by themselves.
    async fn handed_over(&self, node: NodeId) {
        let handed_over = async {
            loop {
                let now = self.replica.standing();
                if now.leader != Some(node) && !now.voters.contains(&node) {
                    break;
                }
                self.replica.standing_other_than(&now).await;
            }
        };
        // An error: see above.
        let _ = tokio::time::timeout(HAND_OVER, handed_over).await;
    }

    async fn becomes(&self, within: Duration, is_so: impl Fn(&Replica) -> bool) -> bool {
        let waited = async {
            while !is_so(&self.replica) {
                tokio::time::sleep(DRAIN_LOOK).await;
            }
        };
        tokio::time::timeout(within, waited).await.is_ok()
    }

    /// Takes a node out once nothing may run there; what is started there meanwhile is ended first.
    async fn remove_empty(&self, node: NodeId) -> Result<(), MembershipError> {
        for _ in 0..REMOVALS_TRIED {
            self.empty(node).await?;
            let remove = Command::RemoveNode {
                node,
                at_ns: now_ns(),
                force: true,
                empty: true,
            };
            match self.propose(remove).await {
                Err(MembershipError::State(Refusal::NodeIsUp(_))) => {}
                done => return done,
            }
        }
        Err(refused(format!(
            "something is started on node {node} again and again: stop that first"
        )))
    }
}

#[async_trait]
impl Membership for Belongs {
    fn status(&self) -> Status {
        let standing = self.replica.standing();
        let local = match standing.leader {
            _ if standing.members.len() <= 1 && !self.dir.join(FOUNDED).exists() => Local::Inactive,
            None => Local::Pending,
            Some(_) => Local::Active,
        };
        Status {
            local,
            node: self.replica.node(),
            address: self.is.address,
            standing,
            issuer: self.identity.issuer_certificate().to_owned(),
        }
    }

    fn join_tokens(&self) -> Option<[String; 2]> {
        let tokens = self.identity.tokens()?;
        Some(tokens.map(|token| token.to_string()))
    }

    async fn rotate(&self, worker: bool, manager: bool) -> Result<(), MembershipError> {
        self.change(|cluster| {
            let new = || self.identity.new_token(cluster).map_err(unavailable);
            let new = [new()?, new()?];
            let mut to = cluster.clone();
            for ((token, new), replace) in to.tokens.iter_mut().zip(new).zip([worker, manager]) {
                if replace {
                    *token = new;
                }
            }
            Ok(to)
        })
        .await
    }

    fn unlock_key(&self) -> Result<String, MembershipError> {
        let Some(check) = self.replica.state().cluster.lock else {
            return Ok(String::new());
        };
        let key = self.identity.lock().key(&check);
        let key = key.ok_or_else(|| unavailable("this node has yet to be told the key"))?;
        Ok(key.to_string())
    }

    async fn lock(&self, to: Locking) -> Result<(), MembershipError> {
        let new = UnlockKey::random();
        if to != Locking::Off {
            let held = self.identity.lock().hold(new.clone());
            held.map_err(unavailable)?;
        }
        let changed = self.change(|cluster| {
            let key = match (to, cluster.lock) {
                (Locking::Off, None) | (Locking::On, Some(_)) => return Ok(cluster.clone()),
                (Locking::Off, Some(_)) => None,
                (Locking::On, None) | (Locking::Rotate, _) => Some(&new),
            };
            let relocked = self.identity.relock(cluster, key);
            relocked.map_err(unavailable)
        });
        let changed = changed.await;
        // Whatever has become of it: a key that doesn't count is forgotten.
        let settled = self.identity.settle_lock().map_err(unavailable);
        changed?;
        self.identity.keep_door();
        settled.map(drop)
    }

    async fn init(&self, wanted: NodeWanted) -> Result<(), MembershipError> {
        if self.replica.state().cluster.id == [0; 16] {
            return Err(refused(
                "this node has no issuer_key under [cluster] in its hearth.toml: it can join a cluster, and can't found one",
            ));
        }
        self.want(self.replica.node(), |now| {
            now.availability = wanted.availability;
        })
        .await?;
        self.unmark(LEFT);
        self.mark(FOUNDED, "")
    }

    async fn join(
        &self,
        remotes: Vec<String>,
        token: String,
        wanted: NodeWanted,
    ) -> Result<(), MembershipError> {
        let door = Arc::clone(&self.door).lock_owned().await;
        if !self.replica.state().is_empty() {
            return Err(refused(
                "this node has containers or images, which it would lose: remove them first",
            ));
        }
        let node = NodeId(u64::from_le_bytes(entropy::random()));
        let request = Request {
            token,
            node,
            csr: self.identity.request().map_err(refused)?,
            is: self.is.clone(),
            wanted,
        };
        let greet = self.identity.stranger();
        match join::ask(&Tcp, &greet, &remotes, &request).await {
            Ok(Reply::Welcome { chain, .. }) => {
                let welcomed = Welcomed { node, chain };
                welcomed.write(&self.welcomed).map_err(refused)?;
                // Nobody comes in here any more.
                std::mem::forget(door);
                self.unmark(LEFT);
                self.begin_anew();
                Ok(())
            }
            Ok(Reply::Elsewhere { .. }) => Err(unavailable("nobody leads that cluster now")),
            Err(error) => Err(refused(error)),
        }
    }

    async fn leave(&self, force: bool) -> Result<(), MembershipError> {
        let own = self.replica.node();
        let standing = self.replica.standing();
        if standing.members.len() > 1 {
            let gone = async {
                self.remove_empty(own).await?;
                self.handed_over(own).await;
                Ok::<(), MembershipError>(())
            };
            match gone.await {
                Err(error) if force => tracing::warn!(%error, "leaving without a word"),
                gone => gone?,
            }
        }
        self.unmark(FOUNDED);
        self.mark(LEFT, &format!("{:x}", own.0))?;
        self.begin_anew();
        Ok(())
    }

    async fn remove(&self, node: NodeId, force: bool) -> Result<(), MembershipError> {
        let ready = self.replica.state().is_ready(node);
        match ready && force {
            true => self.remove_empty(node).await?,
            false => {
                self.propose(Command::RemoveNode {
                    node,
                    at_ns: now_ns(),
                    force: false,
                    empty: false,
                })
                .await?;
            }
        }
        self.handed_over(node).await;
        if let Some(server) = &self.server {
            server.close(node);
        }
        self.peers.forget(node);
        Ok(())
    }
}
