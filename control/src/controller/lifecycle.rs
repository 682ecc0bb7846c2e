//! Starting and ending containers: what is wanted is committed, and what becomes of it is waited for. The keeper of the container's
//! node does it, whether anybody waits or not.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::waits::Waited;
use super::{Controller, Error, WaitCondition};
use crate::agent::AgentError;
use crate::clock::now_ns;
use crate::state::{Command, Container, ContainerId, Outcome, Phase, Refusal, Signal};

/// Between two tries to reach a container whose node has not heard of its start yet: a commit's way to another node.
const HANDED_OVER: Duration = Duration::from_millis(10);

/// How long whoever starts a container waits for a node that can: longer than a new leader takes to look for one, and shorter than clients'
/// patience. Usually it is known within a commit.
const NODE_WITHIN: Duration = Duration::from_secs(10);

/// Seconds to SIGKILL, None: never; where the client says nothing, the container's own, else docker's.
fn timeout_s(container: &Container, asked: Option<i64>) -> Option<u64> {
    match asked {
        None => container.stop_timeout_s(),
        Some(seconds) => u64::try_from(seconds).ok(),
    }
}

impl Controller {
    /// Returns once the main process runs, or once it is known that no node has room for it now. `Ok(false)`: it ran already.
    pub async fn start(&self, id: &ContainerId) -> Result<bool, Error> {
        let start = Command::Start {
            id: *id,
            at_ns: now_ns(),
        };
        self.begin(id, start).await
    }

    async fn begin(&self, id: &ContainerId, command: Command) -> Result<bool, Error> {
        if self.inner.closing.load(Ordering::Acquire) {
            return Err(Error::Unavailable("the node is going down".into()));
        }
        // Before it is asked for: it may fail, and go with that, before anybody can look.
        let last = self.placed(id)?.wanted.start;
        let first = self.waited(id, WaitCondition::BegunAfter(last));
        let Outcome::Starting { start, .. } = self.propose(command).await? else {
            return self.is_up(id);
        };
        let mut waited = self.begun(id, first).await?;
        if waited.start < start && waited.nowhere.is_none() {
            // Somebody else's start came between.
            let later = self.waited(id, WaitCondition::Begun(start));
            waited = match self.begun(id, later).await {
                Err(Error::Refused(Refusal::NoSuchContainer(_))) => {
                    return Err(AgentError::NotRunning(*id).into());
                }
                later => later?,
            };
        }
        if let Some(why) = waited.nowhere {
            return Err(self.pending(id, why).await);
        }
        if waited.given_up {
            return Err(AgentError::NotRunning(*id).into());
        }
        match waited.failure {
            None => Ok(true),
            Some(failure) => {
                let code = waited.exit.code;
                Err(AgentError::of_failure(failure.kind, failure.message, code).into())
            }
        }
    }

    /// `Ok(false)`: it is, and needs no start. An error where it waits for a node.
    fn is_up(&self, id: &ContainerId) -> Result<bool, Error> {
        let state = self.state();
        let waiting = state.placed(id).filter(|it| it.phase() == Phase::Starting);
        match waiting.and_then(|it| state.nowhere(&it)) {
            Some(why) => Err(Error::Pending(why)),
            None => Ok(false),
        }
    }

    /// Waits for a start to come to something, as long as a node that is there has it.
    async fn begun(
        &self,
        id: &ContainerId,
        wait: impl Future<Output = Result<Waited, Error>>,
    ) -> Result<Waited, Error> {
        let mut wait = std::pin::pin!(wait);
        loop {
            if let Ok(waited) = tokio::time::timeout(NODE_WITHIN, &mut wait).await {
                return waited;
            }
            let nowhere = {
                let state = self.state();
                state.placed(id).and_then(|placed| state.nowhere(&placed))
            };
            if nowhere.is_some() {
                return Ok(Waited {
                    nowhere,
                    ..Waited::default()
                });
            }
        }
    }

    /// A start that waits for a node, told to whoever asked for it. What was to go with its end goes, as docker has it of what can't be
    /// started: its client waits for that.
    async fn pending(&self, id: &ContainerId, why: String) -> Error {
        match self.placed(id) {
            Ok(placed) if placed.spec.auto_remove => match self.remove(id, true).await {
                Ok(()) => Error::Pending(why),
                Err(error) => error,
            },
            _ => Error::Pending(format!(
                "{why}; it is started as soon as a node will do, unless it is stopped before"
            )),
        }
    }

    /// Stop signal, then SIGKILL after `timeout_s` (None: the container's own, else 10; negative: never). Returns once the exit is
    /// committed. `Ok(false)`: it wasn't up.
    pub async fn stop(
        &self,
        id: &ContainerId,
        timeout_s: Option<i64>,
        signal: Option<Signal>,
    ) -> Result<bool, Error> {
        let placed = self.placed(id)?;
        let stop = Command::Stop {
            id: *id,
            at_ns: now_ns(),
            signal: signal.unwrap_or_else(|| placed.stop_signal()),
            timeout_s: self::timeout_s(&placed, timeout_s),
            tell: true,
        };
        if self.propose(stop).await? == Outcome::Unchanged {
            return Ok(false);
        }
        self.gone(id, WaitCondition::NotRunning).await?;
        Ok(true)
    }

    /// Waits, if it is still there.
    async fn gone(&self, id: &ContainerId, condition: WaitCondition) -> Result<(), Error> {
        match self.waited(id, condition).await {
            Ok(_) | Err(Error::Refused(Refusal::NoSuchContainer(_))) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Send a signal. SIGKILL returns once the exit is committed, every other when it is sent.
    pub async fn kill(&self, id: &ContainerId, signal: Signal) -> Result<(), Error> {
        let placed = self.placed(id)?;
        if signal == Signal::KILL {
            let kill = Command::Stop {
                id: *id,
                at_ns: now_ns(),
                signal,
                timeout_s: None,
                tell: false,
            };
            self.propose(kill).await?;
            return self.gone(id, WaitCondition::NotRunning).await;
        }
        let signalled = Command::Signalled {
            id: *id,
            at_ns: now_ns(),
            signal,
            end: signal == placed.stop_signal(),
        };
        match self.propose(signalled).await? {
            Outcome::Unchanged => Ok(()),
            _ => self.signal(id, signal).await,
        }
    }

    /// Signals the main process, of a container that boots once it runs.
    async fn signal(&self, id: &ContainerId, signal: Signal) -> Result<(), Error> {
        loop {
            let placed = self.placed(id)?;
            let agent = self.agent_of(&placed)?;
            match agent.signal(id, signal).await {
                // A start that is committed and that the agent has not heard of yet.
                Err(AgentError::NotRunning(_)) if placed.phase() == Phase::Starting => {
                    tokio::time::sleep(HANDED_OVER).await;
                }
                done => return Ok(done?),
            }
        }
    }

    /// Has what runs stand still, or go on. Returns once it does. Refused where nothing runs, and where that was asked for before.
    pub async fn pause(&self, id: &ContainerId, paused: bool) -> Result<(), Error> {
        let pause = Command::Pause {
            id: *id,
            at_ns: now_ns(),
            paused,
        };
        self.propose(pause).await?;
        self.gone(id, WaitCondition::Paused(paused)).await
    }

    /// `stop`, then `start`.
    pub async fn restart(
        &self,
        id: &ContainerId,
        timeout_s: Option<i64>,
        signal: Option<Signal>,
    ) -> Result<(), Error> {
        let placed = self.placed(id)?;
        let restart = Command::Restart {
            id: *id,
            at_ns: now_ns(),
            signal: signal.unwrap_or_else(|| placed.stop_signal()),
            timeout_s: self::timeout_s(&placed, timeout_s),
        };
        self.begin(id, restart).await.map(drop)
    }

    /// Remove; `force` kills first.
    pub async fn remove(&self, id: &ContainerId, force: bool) -> Result<(), Error> {
        let placed = self.placed(id)?;
        let remove = Command::Remove {
            id: *id,
            at_ns: now_ns(),
            force,
        };
        match self.propose(remove).await {
            // `--rm` was faster with this.
            Err(Error::Refused(Refusal::NoSuchContainer(_))) if force => {}
            removed => drop(removed?),
        }
        self.gone(id, WaitCondition::Removed).await?;
        if let Err(error) = self.collect_image(&placed.image).await {
            tracing::warn!(image = placed.image, %error, "removing an image that nobody has any more");
        }
        Ok(())
    }
}
