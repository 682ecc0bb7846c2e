//! Keeps the ways between pods as the state says.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::network::mesh::{Mesh, Plan};
use crate::raft::{Replica, Waker};

/// From a change to when it is looked at, with all that come meanwhile: a plan is made of all pods, and a pod takes longer to start.
const GATHER: Duration = Duration::from_millis(50);
/// Between two looks where nothing has changed: what somebody else has done to the machine's network is undone.
const REPAIR: Duration = Duration::from_secs(60);

/// The task, and what wakes it. What is there is led to before this returns.
pub fn keep(
    mesh: Mesh,
    replica: Replica,
) -> (impl Future<Output = ()> + Send + 'static, Arc<Waker>) {
    let woken = Arc::<Notify>::default();
    let waker = Arc::new(Waker(Arc::clone(&woken)));
    let apply = move || {
        let plan = Plan::of(&replica.state(), replica.node());
        match mesh.apply(&plan) {
            Ok(()) => Some(plan),
            Err(error) => {
                tracing::error!(%error, "pods of other nodes are out of reach");
                None
            }
        }
    };
    // Ports of remote pods answer on from before this process began.
    apply();
    let task = async move {
        loop {
            // An error: nothing has changed for so long.
            let _ = tokio::time::timeout(REPAIR, woken.notified()).await;
            tokio::time::sleep(GATHER).await;
            apply();
        }
    };
    (task, waker)
}
