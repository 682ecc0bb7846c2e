//! Monitors that keep to the node's lease.

use std::os::fd::OwnedFd;

use super::monitor::Monitor;
use super::{Local, LocalAgent, failed};
use crate::agent::AgentError;
use crate::state::ContainerId;

impl Local {
    /// The lease's page, while it holds.
    pub(super) fn lease_for_a_monitor(&self) -> Result<OwnedFd, AgentError> {
        let page = self.lease.reader();
        let page = page.map_err(|error| failed("giving the monitor the node's lease", error))?;
        page.ok_or(AgentError::LeaseOver)
    }

    /// A monitor has been given the page. Where the lease was given an end meanwhile, it sees that now.
    pub(super) fn keeps_to_lease(&self, id: &ContainerId, monitor: &Monitor) {
        if let Some(claim) = self.runs().get_mut(id) {
            claim.leased = Some(monitor.clone());
        }
        // In this order: whoever gives it an end later finds it in there.
        monitor.look_again();
    }

    /// It keeps to the lease, and that is over.
    pub(super) fn ended_by_lease(&self, id: &ContainerId) -> bool {
        let leased = |id| Some(self.runs().get(id)?.leased.is_some());
        leased(id) == Some(true) && !self.lease.holds()
    }

    fn leased(&self) -> Vec<Monitor> {
        let runs = self.runs();
        let leased = runs.values().filter_map(|claim| claim.leased.clone());
        leased
            .filter(|monitor| !monitor.gone.is_cancelled())
            .collect()
    }
}

impl LocalAgent {
    /// Every monitor with a lease looks at it again: it has an end now, and had none.
    pub fn look_at_lease_again(&self) {
        self.local.leased().iter().for_each(Monitor::look_again);
    }

    /// Ends every monitor with a lease. The lease is over: one that is about to start ends by itself. Returns once none is left.
    pub async fn end_leased(&self) {
        loop {
            let left = self.local.leased();
            if left.is_empty() {
                return;
            }
            for monitor in left {
                monitor.kill();
                monitor.gone.cancelled().await;
            }
        }
    }
}
