//! At the start of this process: what the state says is up is compared with what is.

use std::collections::BTreeSet;

use super::Controller;
use crate::state::{Container, ContainerId, Exit, Phase, RestartPolicy};

/// docker's code for a process that SIGKILL has ended, which is what the loss of its machine comes to.
const LOST: Exit = Exit {
    code: 137,
    oom_killed: false,
};

impl Controller {
    /// Containers of this node that the state says are up.
    pub fn up(&self) -> Vec<Container> {
        self.mine().into_iter().filter(Container::is_up).collect()
    }

    fn mine(&self) -> Vec<Container> {
        let node = self.inner.replica.node();
        self.state().containers.of_node(node).cloned().collect()
    }

    /// Ends what the state says is up and isn't among `running`; removes what `--rm` should have; starts what a restart policy wants up.
    /// `node_booted`: the whole node has restarted, not just this process.
    pub async fn reconcile(&self, running: &BTreeSet<ContainerId>, node_booted: bool) {
        for container in self.mine() {
            let id = &container.id;
            if container.is_up() {
                if !running.contains(id) {
                    tracing::warn!(
                        container = id.short(),
                        "its microVM is gone; it counts as killed"
                    );
                    self.lost(id, LOST).await;
                }
                continue;
            }
            let policy = &container.spec.restart;
            let exited = container.status.phase == Phase::Exited;
            if exited && container.spec.auto_remove {
                self.after_exit(id).await;
            } else if exited && node_booted && *policy == RestartPolicy::Always {
                let (controller, id) = (self.clone(), id.clone());
                self.inner.tasks.spawn(async move {
                    if let Err(error) = controller.start(&id).await {
                        tracing::warn!(container = id.short(), %error, "starting after the node's restart");
                    }
                });
            } else if container.awaits_restart() {
                self.after_exit(id).await;
            }
        }
    }
}
