//! What must hold of a simulated cluster once it has come to rest.

use std::collections::BTreeSet;

use super::host::Host;
use super::world::World;
use crate::raft::Replica;
use crate::state::{Phase, State};

impl World {
    /// What isn't yet as it is to be; None: everything is.
    pub fn unwell(&self) -> Option<String> {
        let replicas: Vec<Replica> = self.hosts.iter().filter_map(Host::replica).collect();
        let serving = self.hosts.iter().filter_map(Host::controller).count();
        if serving < self.hosts.len() {
            return Some(format!("{serving} nodes serve"));
        }
        let voters = replicas[0].standing().voters.len();
        let wanted = match self.hosts.len() {
            0..3 => 1,
            3 | 4 => 3,
            _ => 5,
        };
        if voters != wanted {
            return Some(format!("{voters} nodes vote"));
        }
        let revisions: BTreeSet<u64> = replicas.iter().map(|it| it.state().revision).collect();
        if revisions.len() > 1 {
            return Some(format!("revisions {revisions:?}"));
        }
        let state = replicas[0].state().clone();
        let out = state.nodes.values().find(|node| !node.is_ready());
        if let Some(node) = out {
            return Some(format!("{} is out", node.id));
        }
        self.unwell_pods(&state)
    }

    fn unwell_pods(&self, state: &State) -> Option<String> {
        let running = self.truth.all();
        for placed in state
            .containers
            .iter()
            .filter_map(|it| state.placed(&it.id))
        {
            let id = placed.id;
            let runs = running.get(&id);
            let words = |what: &str| Some(format!("{} {what}: {placed:?}, {runs:?}", id.short()));
            match runs {
                Some((node, run)) => {
                    if Some(*node) != placed.pod.held() || !placed.wanted.up {
                        return words("runs, and should not there");
                    }
                    if placed.status.run != *run || placed.status.phase != Phase::Running {
                        return words("runs, and that is not told");
                    }
                }
                None if placed.wanted.up => return words("does not run"),
                None if placed.wanted.removed => return words("is not gone"),
                None => {}
            }
        }
        let stranger = running.keys().find(|id| state.placed(id).is_none());
        if let Some(id) = stranger {
            return Some(format!("{} runs, and is removed", id.short()));
        }
        self.hosts.iter().find_map(|host| host.remains(state))
    }

    /// All states are one; and what clients were promised is so.
    pub fn check(&self) {
        let states: Vec<State> = self
            .hosts
            .iter()
            .filter_map(Host::replica)
            .map(|replica| replica.state().clone())
            .collect();
        if states.windows(2).any(|pair| pair[0] != pair[1]) {
            self.truth
                .violate("at one revision there are different states");
        }
        if let Some(state) = states.first() {
            self.clients.check(state);
        }
        self.clients.check_histories();
    }
}
