//! Those who wait for containers to end or go.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use super::{Error, WaitCondition};
use crate::state::{Action, Container, ContainerId, Event, EventKind, Exit, Refusal, State};

/// Who waits, by container. Told by the state machine itself, so that nothing is missed and nobody lags.
#[derive(Default)]
pub(super) struct Waits {
    /// Those who wait, each a request with a connection, and for each container at most one more who waits no longer: they are cleared
    /// away when the next comes. Of a container that is removed there are none.
    waiting: Mutex<HashMap<ContainerId, Vec<Waiting>>>,
}

struct Waiting {
    condition: WaitCondition,
    /// Its last.
    exit: Exit,
    to: oneshot::Sender<Exit>,
}

impl Waits {
    /// A wait that begins with what `state` shows.
    pub(super) fn register(
        &self,
        state: &State,
        id: &ContainerId,
        condition: WaitCondition,
    ) -> Result<oneshot::Receiver<Exit>, Error> {
        let container = state
            .containers
            .get(id)
            .ok_or_else(|| Refusal::NoSuchContainer(id.to_string()))?;
        let (to, receiver) = oneshot::channel();
        let exit = container.status.exit;
        if condition == WaitCondition::NotRunning && is_down(container) {
            // The receiver is at hand.
            let _ = to.send(exit);
        } else {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let others = waiting.entry(id.clone()).or_default();
            others.retain(|waiting| !waiting.to.is_closed());
            others.push(Waiting {
                condition,
                exit,
                to,
            });
        }
        Ok(receiver)
    }
}

/// Not between two runs either: docker counts a container that waits for its next as running.
fn is_down(container: &Container) -> bool {
    !container.is_up() && !container.awaits_restart()
}

impl Waits {
    /// `state` has come from elsewhere: what has happened until then is known by its result only.
    pub(super) fn replaced(&self, state: &State) {
        let mut all = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|id, waiting| {
            let container = state.containers.get(id);
            let is_over = |waiting: &mut Waiting| match container {
                None => true,
                Some(it) => waiting.condition != WaitCondition::Removed && is_down(it),
            };
            for waiting in waiting.extract_if(.., is_over) {
                let exit = container.map_or(waiting.exit, |it| it.status.exit);
                // Given up waiting: nobody misses it.
                let _ = waiting.to.send(exit);
            }
            !waiting.is_empty()
        });
    }

    /// A stop between two runs of a restart policy is no exit, and no event; yet there won't be another run.
    fn let_go_of_the_stopped(&self, state: &State) {
        let mut all = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|id, waiting| {
            let Some(container) = state.containers.get(id).filter(|it| is_down(it)) else {
                return true;
            };
            let done = |waiting: &mut Waiting| waiting.condition == WaitCondition::NotRunning;
            for waiting in waiting.extract_if(.., done) {
                // Given up waiting: nobody misses it.
                let _ = waiting.to.send(container.status.exit);
            }
            !waiting.is_empty()
        });
    }
}

impl Waits {
    /// `events` are one command's, and `state` as that has left it.
    pub(super) fn applied(&self, state: &State, events: &[Event]) {
        if events.is_empty() {
            self.let_go_of_the_stopped(state);
        }
        for event in events
            .iter()
            .filter(|event| event.kind == EventKind::Container)
        {
            let gone = match event.action {
                Action::Die => false,
                Action::Destroy => true,
                _ => continue,
            };
            let Ok(id) = event.id.parse::<ContainerId>() else {
                continue;
            };
            let mut all = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(mut waiting) = all.remove(&id) else {
                continue;
            };
            if let Some(container) = state.containers.get(&id) {
                waiting
                    .iter_mut()
                    .for_each(|waiting| waiting.exit = container.status.exit);
            }
            let (done, still): (Vec<_>, Vec<_>) = waiting
                .into_iter()
                .partition(|waiting| gone || waiting.condition != WaitCondition::Removed);
            for waiting in done {
                // Given up waiting: nobody misses it.
                let _ = waiting.to.send(waiting.exit);
            }
            if !still.is_empty() {
                all.insert(id, still);
            }
        }
    }
}
