//! Keeps what is secret on this node's disk sealed as the state says, by the unlock key that the cluster has now.
//!
//! The key is in no state and on no disk in clear: who changes it has it, and the others ask those who have it, as members of the cluster.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::cluster::identity::Identity;
use crate::cluster::service::UNLOCK_KEY;
use crate::cluster::ways::Ways;
use crate::raft::{Observer, Replica};
use crate::state::{Change, NodeId, Object, State, encoding};
use crate::trust::UnlockKey;

/// A member answers this at once, or is asked again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two rounds of asking: nobody who has the key was there, or the disk has failed.
const RETRY: Duration = Duration::from_secs(1);

/// Who has replaced the key answers with it once the change is applied there: not worth a word before that.
const TOLD_AFTER: u32 = 3;

/// Wakes the task when the cluster as a whole is another.
pub struct Waker(pub Arc<Notify>);

impl Observer for Waker {
    fn applied(&self, _: &State, changes: &[Change]) {
        if changes
            .iter()
            .any(|change| change.object == Object::Cluster)
        {
            self.0.notify_one();
        }
    }

    fn replaced(&self, _: &State) {
        self.0.notify_one();
    }
}

/// See the module's page. Cheap to clone.
#[derive(Clone)]
pub struct Keeping {
    pub identity: Identity,
    pub replica: Replica,
    pub ways: Ways,
}

impl Keeping {
    /// Returns once the disk is as the state says now, and this node has the key that counts. That may need others.
    pub async fn settle(&self) {
        let mut rounds: u32 = 0;
        loop {
            let why = match self.identity.settle_lock() {
                Ok(true) => return,
                Ok(false) => "no member that is there has its key".to_owned(),
                Err(error) => error.to_string(),
            };
            if self.ask().await {
                continue;
            }
            rounds = rounds.saturating_add(1);
            if rounds == TOLD_AFTER {
                tracing::warn!(
                    why,
                    "the cluster's lock is another, and this node waits for its key"
                );
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Asks the members for the key that counts; true: one of them has given it.
    async fn ask(&self) -> bool {
        let Some(check) = self.replica.state().cluster.lock else {
            return false;
        };
        let own = self.replica.node();
        let members: Vec<NodeId> = self.replica.standing().members.into_keys().collect();
        for node in members.into_iter().filter(|node| *node != own) {
            let (address, peers) = (self.ways.address(node), self.ways.peers());
            let asked = peers.call(node, &address, UNLOCK_KEY, Bytes::new(), PATIENCE);
            let Ok(answer) = asked.await else { continue };
            let key = encoding::decode::<String>(&answer).ok();
            let key = key.and_then(|text| text.parse::<UnlockKey>().ok());
            let Some(key) = key.filter(|key| key.check() == check) else {
                continue;
            };
            match self.identity.lock().hold(key) {
                Ok(()) => return true,
                Err(error) => tracing::error!(%error, "keeping the cluster's unlock key"),
            }
        }
        false
    }

    /// The task, and what wakes it.
    pub fn keep(self) -> (impl Future<Output = ()> + Send + 'static, Arc<Waker>) {
        let woken = Arc::<Notify>::default();
        let waker = Arc::new(Waker(Arc::clone(&woken)));
        let task = async move {
            loop {
                self.settle().await;
                self.identity.keep_door();
                woken.notified().await;
            }
        };
        (task, waker)
    }
}
