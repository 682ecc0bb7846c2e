//! Those who wait for containers to begin, end or go.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use super::{Error, WaitCondition};
use crate::state::{
    Change, Container, ContainerId, Exit, Failure, Object, Phase, Refusal, State, What,
};

/// Who waits, by container. Told by the state machine itself, so that nothing is missed and nobody lags.
#[derive(Default)]
pub(super) struct Waits {
    /// Those who wait, each a request with a connection, and for each container at most one more who waits no longer: they are cleared
    /// away when the next comes. Of a container that is removed there are none.
    waiting: Mutex<HashMap<ContainerId, Vec<Waiting>>>,
}

struct Waiting {
    condition: WaitCondition,
    to: oneshot::Sender<Waited>,
}

impl Waiting {
    fn waited(&self, container: &Container, state: &State) -> Waited {
        Waited {
            nowhere: is_nowhere(self.condition, container, state),
            ..Waited::of(container, self.condition)
        }
    }
}

/// What a wait came to.
#[derive(Debug, Clone, Default)]
pub(super) struct Waited {
    /// The container's last.
    pub exit: Exit,
    /// Why its last run could not begin.
    pub failure: Option<Failure>,
    /// The last start of which a run has begun, or failed to.
    pub start: u64,
    /// It was stopped or removed before the start came to anything.
    pub given_up: bool,
    /// No node was found for it, and why.
    pub nowhere: Option<String>,
}

impl Waited {
    fn of(container: &Container, condition: WaitCondition) -> Self {
        let status = &container.status;
        let (begun, is_first) = match condition {
            WaitCondition::Begun(start) => (
                status.run.start >= start,
                status.run.start == start && status.restarts == 0,
            ),
            WaitCondition::BegunAfter(start) => (status.run.start > start, status.restarts == 0),
            _ => (true, true),
        };
        Self {
            exit: status.exit,
            start: status.run.start,
            // Of the runs that a start leads to, the first is the user's to correct.
            failure: status.failure.clone().filter(|_| is_first),
            given_up: !begun,
            nowhere: None,
        }
    }
}

/// Not between two runs either: docker counts a container that waits for its next as running.
fn is_down(container: &Container) -> bool {
    !container.is_up() && !container.awaits_restart()
}

/// Whether what a container is satisfies a condition, whatever has happened to it.
fn holds(condition: WaitCondition, container: &Container) -> bool {
    match condition {
        WaitCondition::NotRunning => is_down(container),
        WaitCondition::NextExit | WaitCondition::Removed => false,
        WaitCondition::Begun(start) => {
            container.status.run.start >= start || !container.start_is_open()
        }
        WaitCondition::Paused(paused) => {
            container.status.phase != Phase::Running || container.status.paused == paused
        }
        WaitCondition::BegunAfter(start) => {
            let over = container.wanted.start > start && !container.start_is_open();
            container.status.run.start > start || over
        }
    }
}

/// Whether it waits for a start that no node has been found for, and why none was.
fn is_nowhere(condition: WaitCondition, container: &Container, state: &State) -> Option<String> {
    let last = match condition {
        WaitCondition::Begun(start) => start.checked_sub(1)?,
        WaitCondition::BegunAfter(start) => start,
        _ => return None,
    };
    let open = container.wanted.start > last && container.start_is_open();
    let pod = state.pods.get(&container.pod).filter(|_| open)?;
    // Before it was looked for there are no words.
    let looked = pod.node.is_none() && !pod.pending.is_empty();
    looked.then(|| pod.pending.clone())
}

/// Whether a change satisfies it.
fn is_met(condition: WaitCondition, container: &Container, what: &What) -> bool {
    match (condition, what) {
        (_, What::Removed) => true,
        // As docker has it, each end of a run is one, whatever its policy makes of it.
        (WaitCondition::NotRunning | WaitCondition::NextExit, What::Died { .. }) => true,
        _ => holds(condition, container),
    }
}

impl Waits {
    /// A wait that begins with what `state` shows.
    pub(super) fn register(
        &self,
        state: &State,
        id: &ContainerId,
        condition: WaitCondition,
    ) -> Result<oneshot::Receiver<Waited>, Error> {
        let container = state
            .containers
            .get(id)
            .ok_or_else(|| Refusal::NoSuchContainer(id.to_string()))?;
        let (to, receiver) = oneshot::channel();
        if holds(condition, container) {
            // The receiver is at hand.
            let _ = to.send(Waited::of(container, condition));
        } else {
            let mut waiting = self.waiting();
            let others = waiting.entry(*id).or_default();
            others.retain(|waiting| !waiting.to.is_closed());
            others.push(Waiting { condition, to });
        }
        Ok(receiver)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, Vec<Waiting>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `state` has come from elsewhere: what has happened until then is known by its result only.
    pub(super) fn replaced(&self, state: &State) {
        self.waiting().retain(|id, waiting| {
            let container = state.containers.get(id);
            let over = |waiting: &mut Waiting| match container {
                None => true,
                Some(it) => {
                    holds(waiting.condition, it)
                        || waiting.condition == WaitCondition::NextExit && is_down(it)
                        || is_nowhere(waiting.condition, it, state).is_some()
                }
            };
            for waiting in waiting.extract_if(.., over) {
                let waited = container.map(|it| waiting.waited(it, state));
                // Given up waiting: nobody misses it.
                let _ = waiting.to.send(waited.unwrap_or_default());
            }
            !waiting.is_empty()
        });
    }

    /// `changes` are one command's.
    pub(super) fn applied(&self, state: &State, changes: &[Change]) {
        for change in changes {
            let Object::Container(container) = &change.object else {
                continue;
            };
            let mut all = self.waiting();
            let Some(waiting) = all.get_mut(&container.id) else {
                continue;
            };
            let met = |waiting: &mut Waiting| {
                is_met(waiting.condition, container, &change.what)
                    || is_nowhere(waiting.condition, container, state).is_some()
            };
            for waiting in waiting.extract_if(.., met) {
                let waited = waiting.waited(container, state);
                // Given up waiting: nobody misses it.
                let _ = waiting.to.send(waited);
            }
            if waiting.is_empty() {
                all.remove(&container.id);
            }
        }
    }
}
