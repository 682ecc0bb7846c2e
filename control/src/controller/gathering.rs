//! What happens on other nodes and isn't in the log, for those who follow events on this one.
//!
//! Only while somebody does: then every node that is ready is asked to tell, and what it tells is kept as if it had happened here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::sync::{oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use super::Controller;
use crate::agent::Happening;
use crate::state::{Change, NodeId, Object};

/// Between two looks at who is to be followed: a node that comes or comes back is heard after so long.
const LOOK: Duration = Duration::from_secs(1);
/// Whoever begins to follow waits no longer than this for nodes that don't answer.
const OPENING: Duration = Duration::from_secs(1);

/// Whether others are being listened to, as far as they answer.
pub(super) struct Gathered(watch::Sender<Option<bool>>);

impl Default for Gathered {
    /// There are no others.
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Gathered {
    /// Returns at once where this node has no others.
    pub async fn wait(&self) {
        let mut gathered = self.0.subscribe();
        // Of one that follows already nothing is waited for. An error: this node ends.
        let _ = gathered.wait_for(|it| *it != Some(false)).await;
    }
}

impl Controller {
    /// Listens to the other nodes of the cluster whenever somebody follows events here. Runs as long as the node.
    pub async fn gather(self) {
        let gathered = &self.inner.gathered.0;
        let mut followers = self.inner.watchers.history.followers();
        loop {
            gathered.send_replace(Some(false));
            if followers.wait_for(|count| *count > 0).await.is_err() {
                return;
            }
            tokio::select! {
                () = self.follow_others() => {}
                _ = followers.wait_for(|count| *count == 0) => {}
            }
        }
    }

    async fn follow_others(&self) {
        let mut followed: HashMap<NodeId, AbortOnDropHandle<()>> = HashMap::new();
        loop {
            let others: Vec<NodeId> = {
                let state = self.state();
                let own = self.inner.replica.node();
                let ready = state.nodes.values().filter(|node| node.is_ready());
                ready.map(|node| node.id).filter(|id| *id != own).collect()
            };
            followed.retain(|node, task| others.contains(node) && !task.is_finished());
            let mut opening = Vec::new();
            for node in others {
                followed.entry(node).or_insert_with(|| {
                    let (open, opened) = oneshot::channel();
                    opening.push(opened);
                    let following = self.clone().follow(node, open);
                    AbortOnDropHandle::new(tokio::spawn(following))
                });
            }
            // Errors: those that don't answer.
            let _ = tokio::time::timeout(OPENING, join_all(opening)).await;
            self.inner.gathered.0.send_replace(Some(true));
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn follow(self, node: NodeId, open: oneshot::Sender<()>) {
        let Ok(agent) = self.inner.agents.of(node) else {
            return;
        };
        let mut happenings = match agent.happenings().await {
            Ok(happenings) => happenings,
            Err(error) => {
                tracing::debug!(%node, %error, "its execs aren't among the events here");
                return;
            }
        };
        // An error: nobody waits any more.
        let _ = open.send(());
        while let Some(Ok(happening)) = happenings.next().await {
            self.happened_elsewhere(happening);
        }
    }

    fn happened_elsewhere(&self, happening: Happening) {
        let (container, revision) = {
            let state = self.state();
            let container = state.containers.get(&happening.container);
            (container.map(Arc::clone), state.revision)
        };
        // Whose container is gone is nobody's news.
        if let Some(container) = container {
            self.inner.watchers.history.add(Change {
                revision,
                at_ns: happening.at_ns,
                object: Object::Container(container),
                what: happening.what,
            });
        }
    }
}
