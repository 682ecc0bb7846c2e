//! Ends what goes on with nodes that were removed from the cluster. New connections of theirs are refused from then on; those that were open
//! stay for a moment, since one that leads hands over by them. After that nobody listens to it, whatever it believes.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::peers::{Peers, Server};
use crate::raft::Observer;
use crate::state::{Change, NodeId, Object, State, What};

/// A node that leads hands over within this: two elections.
pub const HAND_OVER: Duration = Duration::from_secs(5);

/// Hears of them.
pub struct Waker(mpsc::UnboundedSender<NodeId>);

impl Observer for Waker {
    fn applied(&self, _: &State, changes: &[Change]) {
        for change in changes {
            if let (Object::Node(node), What::Removed) = (&change.object, &change.what) {
                // An error: this process ends.
                let _ = self.0.send(node.id);
            }
        }
    }

    fn replaced(&self, state: &State) {
        for node in &state.cluster.removed {
            // As above.
            let _ = self.0.send(*node);
        }
    }
}

/// The task, and what tells it. There are no more of them than nodes that were ever removed.
pub fn close(
    peers: Peers,
    server: Option<Server>,
) -> (impl Future<Output = ()> + Send + 'static, Waker) {
    let (tell, mut told) = mpsc::unbounded_channel();
    let task = async move {
        while let Some(node) = told.recv().await {
            tokio::time::sleep(HAND_OVER).await;
            if let Some(server) = &server {
                server.close(node);
            }
            peers.forget(node);
        }
    };
    (task, Waker(tell))
}
