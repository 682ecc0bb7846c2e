//! What follows an exit: removal (`--rm`), another run (restart policy), or nothing.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Controller, Error};
use crate::agent::ExitSink;
use crate::clock::now_ns;
use crate::raft::{Replica, ReplicaError};
use crate::state::{Action, Command, Container, ContainerId, Exit, Refusal};

/// Before the first restart; doubled for each further one. docker's own.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// At most. docker's own.
const BACKOFF_MOST: Duration = Duration::from_secs(60);

/// Exits to be dealt with.
pub struct Exits(mpsc::UnboundedReceiver<ContainerId>);

/// Commits what an agent reports. Handed to the agent; what follows is the controller's.
pub struct Reporter {
    replica: Replica,
    // Unbounded, yet never longer than there are containers: each exits once until it is dealt with.
    exits: mpsc::UnboundedSender<ContainerId>,
}

impl Reporter {
    /// The agent's end and the controller's.
    pub fn new(replica: Replica) -> (Self, Exits) {
        let (exits, receiver) = mpsc::unbounded_channel();
        (Self { replica, exits }, Exits(receiver))
    }

    /// What has happened has happened, whether there is a leader to hear of it or not: it is kept until there is one.
    async fn commit(&self, command: Command) {
        loop {
            match self.replica.propose(command.clone()).await {
                Ok(Ok(_)) => return,
                Ok(Err(refusal)) => return tracing::debug!(%refusal, "reported too late"),
                Err(ReplicaError::Unavailable(why)) => {
                    tracing::warn!(why, "what has happened is committed later");
                }
                Err(error) => {
                    return tracing::error!(%error, "what has happened can't be committed");
                }
            }
        }
    }
}

#[async_trait]
impl ExitSink for Reporter {
    async fn started(&self, id: &ContainerId, pid: u32, at_ns: u64) {
        self.commit(Command::Started {
            id: id.clone(),
            at_ns,
            pid,
        })
        .await;
    }

    async fn out_of_memory(&self, id: &ContainerId, kills: u64, at_ns: u64) {
        self.commit(Command::OutOfMemory {
            id: id.clone(),
            at_ns,
            kills,
        })
        .await;
    }

    async fn exited(&self, id: &ContainerId, exit: Exit, at_ns: u64) {
        self.commit(Command::Exited {
            id: id.clone(),
            at_ns,
            exit,
        })
        .await;
        // The controller is gone: so is the node in a moment.
        let _ = self.exits.send(id.clone());
    }

    async fn happened(
        &self,
        id: &ContainerId,
        action: Action,
        attributes: BTreeMap<String, String>,
        at_ns: u64,
    ) {
        self.commit(Command::Happened {
            id: id.clone(),
            at_ns,
            action,
            attributes,
        })
        .await;
    }
}

/// Ends with the agent.
pub(super) async fn deal_with(controller: Controller, mut exits: Exits) {
    while let Some(id) = exits.0.recv().await {
        controller.after_exit(&id).await;
    }
}

impl Controller {
    /// Its exit, or that it could not start, has been committed.
    pub(super) async fn after_exit(&self, id: &ContainerId) {
        let Ok(container) = self.container(id) else {
            return;
        };
        if container.is_up() || self.restarting().contains_key(id) {
            return;
        }
        if container.spec.auto_remove {
            let controller = self.clone();
            self.inner.tasks.spawn(async move {
                match controller.remove(&container.id, false).await {
                    // By somebody else, or started again: both were faster.
                    Ok(()) | Err(Error::Refused(Refusal::NoSuchContainer(_) | Refusal::Running(_))) => {}
                    Err(error) => {
                        tracing::warn!(container = container.id.short(), %error, "removing after its exit");
                    }
                }
            });
        } else if container.awaits_restart() {
            self.restart_later(&container);
        }
    }

    fn restart_later(&self, container: &Container) {
        let id = container.id.clone();
        let cancel = CancellationToken::new();
        if let Some(earlier) = self.restarts().insert(id.clone(), cancel.clone()) {
            earlier.cancel();
        }
        let delay = backoff(container);
        let controller = self.clone();
        self.inner.tasks.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(delay) => {}
            }
            {
                let mut restarts = controller.restarts();
                if cancel.is_cancelled() || controller.inner.closing.load(Ordering::Acquire) {
                    return;
                }
                restarts.remove(&id);
            }
            // A failure is committed by now, and has led to the next try.
            if let Err(Error::Unavailable(error)) = Box::pin(controller.start_run(&id, true)).await
            {
                tracing::warn!(container = id.short(), error, "restarting by policy");
            }
        });
    }

    /// Nothing is started any more by a policy.
    pub(super) fn forget_restarts(&self) {
        for (_, restart) in self.restarts().drain() {
            restart.cancel();
        }
    }

    /// Somebody wants something else of it now.
    pub(super) fn forget_restart(&self, id: &ContainerId) {
        if let Some(restart) = self.restarts().remove(id) {
            restart.cancel();
        }
    }
}

fn backoff(container: &Container) -> Duration {
    let doublings = container.status.short_runs.saturating_sub(1).min(31);
    let doubled = BACKOFF_FIRST.checked_mul(1 << doublings);
    doubled.unwrap_or(BACKOFF_MOST).min(BACKOFF_MOST)
}

impl Controller {
    /// The exit of a container whose microVM was lost while nobody looked.
    pub(super) async fn lost(&self, id: &ContainerId, exit: Exit) {
        let command = Command::Exited {
            id: id.clone(),
            at_ns: now_ns(),
            exit,
        };
        match self.propose(command).await {
            Ok(_) => self.after_exit(id).await,
            Err(error) => {
                tracing::error!(container = id.short(), %error, "its loss can't be committed")
            }
        }
    }
}
