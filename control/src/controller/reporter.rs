//! What a node's agent reports, committed.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::history::History;
use super::watchers::Watchers;
use crate::agent::{Happening, Reports, keeper};
use crate::raft::Replica;
use crate::state::{Command, ContainerId, Exit, Report, Run, What};

/// Commits what an agent reports, and tells those who watch what is not for the log.
pub struct Reporter {
    replica: Replica,
    history: Arc<History>,
}

impl Reporter {
    /// Of the agent of the replica's node. `watchers` is the observer that the replica was opened with.
    pub fn new(replica: Replica, watchers: &Watchers) -> Self {
        Self {
            replica,
            history: Arc::clone(&watchers.history),
        }
    }

    async fn commit(&self, report: Report, at_ns: u64) {
        let command = Command::Report {
            node: self.replica.node(),
            at_ns,
            report,
        };
        // What can't be committed is known anew at the next start.
        let _ = keeper::commit(&self.replica, command).await;
    }
}

#[async_trait]
impl Reports for Reporter {
    async fn started(&self, id: &ContainerId, run: Run, pid: u32, at_ns: u64) {
        self.commit(Report::Started { id: *id, run, pid }, at_ns)
            .await;
    }

    async fn out_of_memory(&self, id: &ContainerId, run: Run, kills: u64, at_ns: u64) {
        self.commit(
            Report::OutOfMemory {
                id: *id,
                run,
                kills,
            },
            at_ns,
        )
        .await;
    }

    async fn exited(&self, id: &ContainerId, run: Run, exit: Exit, at_ns: u64) {
        self.commit(Report::Exited { id: *id, run, exit }, at_ns)
            .await;
    }

    fn happened(&self, id: &ContainerId, what: What, at_ns: u64) {
        let (container, revision) = {
            let state = self.replica.state();
            (state.containers.get(id).cloned(), state.revision)
        };
        // Whose container is gone is nobody's news.
        if let Some(container) = container {
            let happening = Happening {
                container: *id,
                what,
                at_ns,
            };
            self.history.happened(revision, container, happening);
        }
    }

    fn happenings(&self) -> broadcast::Receiver<Happening> {
        self.history.happenings()
    }
}
