//! Those who are told of everything that the state machine does.

use std::sync::{Arc, OnceLock};

use super::history::History;
use super::waits::Waits;
use crate::placement::Placement;
use crate::raft::Observer;
use crate::state::{Change, State};

/// The observer that a replica is opened with, for the controller that is made with it.
#[derive(Default)]
pub struct Watchers {
    pub(super) waits: Waits,
    pub(super) history: Arc<History>,
    pub(super) placement: Arc<Placement>,
    /// Others on this node, who are there a little later than the replica and look at the whole state then.
    pub(super) others: OnceLock<Vec<Arc<dyn Observer>>>,
}

impl Watchers {
    fn others(&self) -> impl Iterator<Item = &Arc<dyn Observer>> {
        self.others.get().into_iter().flatten()
    }
}

impl Observer for Watchers {
    fn applied(&self, state: &State, changes: &[Change]) {
        self.placement.applied(state, changes);
        self.waits.applied(state, changes);
        for change in changes {
            self.history.add(change.clone());
        }
        self.others()
            .for_each(|other| other.applied(state, changes));
    }

    fn replaced(&self, state: &State) {
        self.placement.replaced(state);
        self.waits.replaced(state);
        self.history.interrupt();
        self.others().for_each(|other| other.replaced(state));
    }
}
