//! Those who are told of everything that the state machine does.

use std::sync::Arc;

use super::history::History;
use super::waits::Waits;
use crate::raft::Observer;
use crate::state::{Event, State};

/// The observer that a replica is opened with, for the controller that is made with it.
#[derive(Default)]
pub struct Watchers {
    pub(super) waits: Waits,
    pub(super) history: Arc<History>,
}

impl Observer for Watchers {
    fn applied(&self, state: &State, events: Vec<Event>) {
        self.waits.applied(state, &events);
        for event in events {
            self.history.add(event);
        }
    }

    fn replaced(&self, state: &State) {
        self.waits.replaced(state);
        self.history.interrupt();
    }
}
