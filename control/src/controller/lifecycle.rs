//! Starting and ending containers.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Controller, Error, WaitCondition};
use crate::agent::AgentError;
use crate::clock::now_ns;
use crate::state::{
    Action, Command, Container, ContainerId, Exit, Outcome, Phase, Refusal, Signal,
};

/// Between the stop signal and SIGKILL where neither client nor container says: docker's own.
const STOP_TIMEOUT_S: i64 = 10;
/// From a start's commit to the agent that carries it out it takes a thread's wake-up.
const HANDED_OVER: Duration = Duration::from_millis(10);
/// docker's code for a failure that is not the program's.
const START_FAILED: u8 = 128;

impl Controller {
    /// Returns once the main process runs. `Ok(false)`: it ran already.
    pub async fn start(&self, id: &ContainerId) -> Result<bool, Error> {
        self.forget_restart(id);
        self.start_run(id, false).await
    }

    /// A run by a user or by the restart policy.
    pub(super) async fn start_run(&self, id: &ContainerId, by_policy: bool) -> Result<bool, Error> {
        if self.inner.closing.load(Ordering::Acquire) {
            return Err(Error::Unavailable("the node is going down".into()));
        }
        let start = Command::Start {
            id: id.clone(),
            at_ns: now_ns(),
            by_policy,
        };
        let committing = Instant::now();
        let ports = match self.propose(start).await? {
            Outcome::Starting { ports } => ports,
            Outcome::Done | Outcome::Unchanged => return Ok(false),
        };
        let committed = committing.elapsed();
        let controller = self.clone();
        let container = self.container(id)?;
        // A task of its own: a client that goes away in the middle must not leave a container that starts for ever.
        let started = self.inner.tasks.spawn(async move {
            match controller.inner.agent.start(&container, &ports).await {
                Ok(times) => {
                    tracing::info!(
                        container = container.id.short(),
                        commit_us = (committed + times.commit).as_micros(),
                        monitor_at_us = times.monitor_at.as_micros(),
                        running_at_us = times.running_at.as_micros(),
                        guest_init_us = times.guest_init.as_micros(),
                        "container started"
                    );
                    Ok(true)
                }
                Err(error) => Err(controller.start_failed(&container, error).await),
            }
        });
        started
            .await
            .map_err(|error| Error::Unavailable(error.to_string()))?
    }

    async fn start_failed(&self, container: &Container, error: AgentError) -> Error {
        let id = container.id.clone();
        let code = if let AgentError::Start { code, .. } = &error {
            *code
        } else {
            START_FAILED
        };
        let failed = Command::StartFailed {
            id,
            at_ns: now_ns(),
            error: error.to_string(),
            code,
        };
        tracing::warn!(container = container.id.short(), %error, "not started");
        match self.propose(failed).await {
            Ok(_) => {
                self.after_exit(&container.id).await;
                error.into()
            }
            Err(log) => log,
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
        let was_up = self.end(id, timeout_s, signal).await?;
        if was_up {
            self.note(id, Action::Stop, BTreeMap::new()).await;
        }
        Ok(was_up)
    }

    async fn end(
        &self,
        id: &ContainerId,
        timeout_s: Option<i64>,
        signal: Option<Signal>,
    ) -> Result<bool, Error> {
        let signal = signal.map_or_else(|| self.container(id).map(|c| c.stop_signal()), Ok)?;
        self.forget_restart(id);
        let done = self.signalled(id, signal, true).await?;
        // After the entry in the log that keeps the policy from starting it again: one exit is all there is to wait for.
        let Ok(container) = self.container(id) else {
            return Ok(true);
        };
        if !container.is_up() {
            // It was between two runs of its policy.
            return Ok(done == Outcome::Done);
        }
        let ended = self.wait(id, WaitCondition::NotRunning);
        tokio::pin!(ended);
        tokio::select! {
            ended = &mut ended => return ended.map(|_| true),
            signalled = self.signal(id, signal) => if let Err(error) = signalled {
                tracing::debug!(container = id.short(), %error, "stop signal");
            },
        }
        let timeout_s = timeout_s
            .or(container.spec.stop_timeout_s)
            .unwrap_or(STOP_TIMEOUT_S);
        if let Ok(timeout_s) = u64::try_from(timeout_s) {
            match tokio::time::timeout(Duration::from_secs(timeout_s), &mut ended).await {
                Ok(ended) => return ended.map(|_| true),
                Err(_) => self.kill_until(id, ended).await?,
            }
            return Ok(true);
        }
        ended.await.map(|_| true)
    }

    /// Signals the main process, of a container that boots once it runs: so a stop's time is counted from when the process could hear of it.
    async fn signal(&self, id: &ContainerId, signal: Signal) -> Result<(), AgentError> {
        loop {
            match self.inner.agent.signal(id, signal).await {
                // A start that is committed and that the agent has not heard of yet.
                Err(AgentError::NotRunning(_)) if self.is_starting(id) => {
                    tokio::time::sleep(HANDED_OVER).await;
                }
                done => return done,
            }
        }
    }

    pub(super) fn is_starting(&self, id: &ContainerId) -> bool {
        let state = self.state();
        let container = state.containers.get(id);
        container.is_some_and(|container| container.status.phase == Phase::Starting)
    }

    /// SIGKILL until it has ended.
    async fn kill_until(
        &self,
        id: &ContainerId,
        ended: impl Future<Output = Result<Exit, Error>>,
    ) -> Result<(), Error> {
        const BETWEEN_TRIES: Duration = Duration::from_millis(500);
        tokio::pin!(ended);
        loop {
            tokio::select! {
                ended = &mut ended => return ended.map(drop),
                killed = self.signal(id, Signal::KILL) => match killed {
                    // Not running: its exit is about to be committed.
                    Ok(()) | Err(AgentError::NotRunning(_)) => return ended.await.map(drop),
                    Err(error) => tracing::warn!(container = id.short(), %error, "killing"),
                },
            }
            tokio::select! {
                ended = &mut ended => return ended.map(drop),
                () = tokio::time::sleep(BETWEEN_TRIES) => {}
            }
        }
    }

    /// Send a signal. SIGKILL returns once the exit is committed, every other when it is sent.
    pub async fn kill(&self, id: &ContainerId, signal: Signal) -> Result<(), Error> {
        let container = self.container(id)?;
        let stop = signal == Signal::KILL || signal == container.stop_signal();
        if container.awaits_restart() {
            // Nothing runs that could be sent it; but it may keep the next run from coming.
            if stop {
                self.forget_restart(id);
            }
            return self.signalled(id, signal, stop).await.map(drop);
        }
        if !container.is_up() {
            return Err(Refusal::NotRunning(id.to_string()).into());
        }
        if signal == Signal::KILL {
            let ended = self.wait(id, WaitCondition::NotRunning);
            self.signalled(id, signal, stop).await?;
            return self.kill_until(id, ended).await;
        }
        self.signalled(id, signal, stop).await?;
        Ok(self.signal(id, signal).await?)
    }

    async fn signalled(
        &self,
        id: &ContainerId,
        signal: Signal,
        stop: bool,
    ) -> Result<Outcome, Error> {
        let command = Command::Signalled {
            id: id.clone(),
            at_ns: now_ns(),
            signal,
            stop,
        };
        self.propose(command).await
    }

    /// `stop`, then `start`.
    pub async fn restart(
        &self,
        id: &ContainerId,
        timeout_s: Option<i64>,
        signal: Option<Signal>,
    ) -> Result<(), Error> {
        let restarting = Restarting::begin(self, id);
        let restarted = async {
            self.stop(id, timeout_s, signal).await?;
            self.start(id).await
        };
        let restarted = restarted.await;
        drop(restarting);
        // It may have ended since, by itself or because it could not be started: nobody has dealt with that yet.
        self.after_exit(id).await;
        restarted?;
        self.note(id, Action::Restart, BTreeMap::new()).await;
        Ok(())
    }

    /// Remove; `force` kills first.
    pub async fn remove(&self, id: &ContainerId, force: bool) -> Result<(), Error> {
        self.forget_restart(id);
        let container = self.container(id)?;
        if force && (container.is_up() || container.awaits_restart()) {
            let ended = self.wait(id, WaitCondition::NotRunning);
            self.signalled(id, Signal::KILL, true).await?;
            self.kill_until(id, ended).await?;
        }
        match self
            .propose(Command::Remove {
                id: id.clone(),
                at_ns: now_ns(),
            })
            .await
        {
            // `--rm` was faster with this; its files are waited for all the same.
            Err(Error::Refused(Refusal::NoSuchContainer(_))) if force => {}
            removed => drop(removed?),
        }
        // The container is gone; files that can't be removed now are swept at the next start.
        if let Err(error) = self.inner.agent.discard(id).await {
            tracing::error!(container = id.short(), %error, "removing its files");
        }
        if let Err(error) = self.collect_image(&container.image).await {
            tracing::warn!(image = container.image, %error, "removing an image that nobody has any more");
        }
        Ok(())
    }

    /// The node goes down: every container is stopped, at the same time, and nothing starts any more.
    pub async fn close(&self) {
        const PATIENCE_S: i64 = 10;
        self.inner.closing.store(true, Ordering::Release);
        self.forget_restarts();
        let up: Vec<Container> = self
            .state()
            .containers
            .up_on(self.inner.replica.node())
            .cloned()
            .collect();
        let ends = up.into_iter().map(|container| {
            let controller = self.clone();
            self.inner.tasks.spawn(async move {
                let id = &container.id;
                let ended = controller.wait(id, WaitCondition::NotRunning);
                tokio::pin!(ended);
                // Not by `end`: a user who has stopped nothing finds it running again after the node's restart.
                if let Err(error) = controller.signal(id, container.stop_signal()).await {
                    tracing::debug!(container = id.short(), %error, "stop signal");
                }
                let timeout_s = container
                    .spec
                    .stop_timeout_s
                    .unwrap_or(PATIENCE_S)
                    .clamp(0, PATIENCE_S);
                let patience = Duration::from_secs(timeout_s.unsigned_abs());
                if tokio::time::timeout(patience, &mut ended).await.is_err() {
                    let _ = controller.kill_until(id, ended).await;
                }
            })
        });
        futures_util::future::join_all(ends).await;
    }

    /// Waits until commands can't be committed any more, whatever comes.
    pub async fn failed(&self) -> Error {
        self.inner.replica.failed().await.into()
    }

    /// The last command: the log is closed after it, and after whatever was begun here.
    pub async fn flush(&self) {
        self.inner.closed.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.images.close().await;
        self.inner.replica.close().await;
    }

    /// An event that changes nothing, for those who watch.
    pub async fn note(
        &self,
        id: &ContainerId,
        action: Action,
        attributes: BTreeMap<String, String>,
    ) {
        let happened = Command::Happened {
            id: id.clone(),
            at_ns: now_ns(),
            action,
            attributes,
        };
        match self.propose(happened).await {
            // Whose container is gone is nobody's news.
            Ok(_) | Err(Error::Refused(_)) => {}
            Err(error) => tracing::warn!(%error, "event"),
        }
    }
}

/// While it lives, neither `--rm` nor a policy has a say in what follows the container's exits.
struct Restarting<'a> {
    controller: &'a Controller,
    id: &'a ContainerId,
}

impl<'a> Restarting<'a> {
    fn begin(controller: &'a Controller, id: &'a ContainerId) -> Self {
        *controller.restarting().entry(id.clone()).or_default() += 1;
        Self { controller, id }
    }
}

impl Drop for Restarting<'_> {
    fn drop(&mut self) {
        let mut restarting = self.controller.restarting();
        if let Some(count) = restarting.get_mut(self.id) {
            *count -= 1;
            if *count == 0 {
                restarting.remove(self.id);
            }
        }
    }
}
