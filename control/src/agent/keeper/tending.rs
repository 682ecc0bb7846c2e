//! One container's task: a look at what is wanted and at what is, one step, and another look.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{AGAIN, Keeper, next_run};
use crate::agent::AgentError;
use crate::state::{
    Container, ContainerId, Layer, Phase, Placed, PodId, Report, Run, Signal, Stop,
};

/// Before the first restart by a policy; doubled for each further one. docker's own.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// At most. docker's own.
const BACKOFF_MOST: Duration = Duration::from_secs(60);
/// The revision of a stop that nobody has asked for: the pod is another node's. No command has it.
const LEAVING: u64 = u64::MAX;

/// What a step came to.
pub(super) enum Next {
    /// Nothing more to do until something changes.
    Settled,
    /// Look again.
    Again,
    /// Look again then, or when something changes.
    At(Instant),
    /// Look again when nothing of it is left here, then, or when something changes.
    Ended(Option<Instant>),
}
/// One container's task.
pub(super) struct Tending {
    keeper: Keeper,
    id: ContainerId,
    woken: watch::Receiver<u64>,
    /// The stop that its run has been sent, and when SIGKILL follows.
    sent: Option<(u64, Option<Instant>)>,
    /// When its last run has been seen to have ended.
    ended_at: Option<Instant>,
}

impl Tending {
    /// Nothing has been done about it yet.
    pub fn new(keeper: Keeper, id: ContainerId, woken: watch::Receiver<u64>) -> Self {
        Self {
            keeper,
            id,
            woken,
            sent: None,
            ended_at: None,
        }
    }

    /// Until everything is as it is wanted.
    pub async fn tend(mut self) {
        loop {
            self.woken.mark_unchanged();
            match self.step().await {
                Next::Again => {}
                Next::At(then) => {
                    let _ = tokio::time::timeout_at(then, self.woken.changed()).await;
                }
                Next::Ended(then) => {
                    let runtime = Arc::clone(&self.keeper.inner.runtime);
                    let until = tokio::time::sleep_until(then.unwrap_or_else(Instant::now));
                    tokio::select! {
                        () = runtime.ended(&self.id) => {}
                        _ = self.woken.changed() => {}
                        () = until, if then.is_some() => {}
                    }
                }
                Next::Settled => {
                    let mut tasks = self.keeper.tasks();
                    // Under the lock: whoever wakes it later finds no task, and makes one.
                    if !self.woken.has_changed().unwrap_or(false) {
                        tasks.remove(&self.id);
                        return;
                    }
                }
            }
        }
    }

    async fn step(&mut self) -> Next {
        let inner = Arc::clone(&self.keeper.inner);
        // In this order: what doesn't run any more has been told to have ended.
        let running = inner.runtime.running(&self.id);
        let placed = inner.replica.state().placed(&self.id);
        let mine = placed.filter(|placed| placed.pod.node == Some(inner.node));
        // What has been told to have ended has ended, though its microVM may still be powering off.
        let told = |run: &Run| {
            let status = mine.as_ref().map(|placed| &placed.status);
            status.is_some_and(|status| status.run >= *run && status.phase != Phase::Running)
        };
        let running = running.filter(|run| !told(run));
        match (mine, running) {
            (Some(placed), Some(run)) => self.step_running(&placed, run).await,
            (Some(placed), None) => self.step_down(&placed).await,
            (None, Some(_)) => self.step_leaving().await,
            (None, None) => self.step_gone().await,
        }
    }

    /// It runs, and is this node's.
    async fn step_running(&mut self, placed: &Placed, run: Run) -> Next {
        if placed.pod.epoch != run.epoch || placed.status.run > run {
            return self.step_leaving().await;
        }
        self.ended_at = None;
        let wanted = &placed.wanted;
        let paused = wanted.paused && wanted.up && wanted.start == run.start;
        if placed.status.run == run
            && let Some(next) = self.keep_paused(placed, run, paused).await
        {
            return next;
        }
        if wanted.up && wanted.start == run.start {
            return Next::Settled;
        }
        match wanted.stop {
            Some(stop) => self.stop(stop).await,
            // It has its signal already, and whatever time it takes.
            None => Next::Settled,
        }
    }

    /// What runs stands still if it is to, and else does not; None: so it is, and it is told.
    async fn keep_paused(&self, placed: &Placed, run: Run, paused: bool) -> Option<Next> {
        let runtime = &self.keeper.inner.runtime;
        if runtime.is_paused(&self.id) != paused
            && let Err(error) = runtime.pause(&self.id, paused).await
        {
            tracing::warn!(container = self.id.short(), %error, paused, "having it stand still or go on");
            return Some(Next::Ended(Some(Instant::now() + AGAIN)));
        }
        let report = Report::Paused {
            id: self.id,
            run,
            paused,
        };
        match placed.status.paused == paused {
            true => None,
            false => Some(self.keeper.report(report).await),
        }
    }

    async fn stop(&mut self, stop: Stop) -> Next {
        let runtime = &self.keeper.inner.runtime;
        let kill_at = match self.sent {
            Some((revision, kill_at)) if revision == stop.revision => kill_at,
            _ => {
                if stop.signal != Signal::KILL
                    && let Err(error) = runtime.signal(&self.id, stop.signal).await
                {
                    tracing::debug!(container = self.id.short(), %error, "stop signal");
                }
                let now = Instant::now();
                let kill_at = match stop.signal {
                    Signal::KILL => Some(now),
                    _ => stop
                        .timeout_s
                        .and_then(|seconds| now.checked_add(Duration::from_secs(seconds))),
                };
                // Whoever stops it as well takes no time from it, and gives it none.
                let before = self.sent.and_then(|(_, before)| before);
                let kill_at = match (kill_at, before) {
                    (Some(this), Some(before)) => Some(this.min(before)),
                    (this, before) => this.or(before),
                };
                self.sent = Some((stop.revision, kill_at));
                kill_at
            }
        };
        // Not settled: it is remembered that it has its signal.
        let Some(kill_at) = kill_at else {
            return Next::Ended(None);
        };
        if Instant::now() < kill_at {
            return Next::Ended(Some(kill_at));
        }
        match runtime.signal(&self.id, Signal::KILL).await {
            // Not running: its exit is about to be committed.
            Ok(()) | Err(AgentError::NotRunning(_)) => Next::Ended(None),
            Err(error) => {
                tracing::warn!(container = self.id.short(), %error, "killing");
                Next::Ended(Some(Instant::now() + AGAIN))
            }
        }
    }

    /// It doesn't run, and is this node's.
    async fn step_down(&mut self, placed: &Placed) -> Next {
        self.sent = None;
        let inner = Arc::clone(&self.keeper.inner);
        let (pod, status) = (&placed.pod, &placed.status);
        if pod.previous == Some(inner.node) {
            // It has come back before it was let go of.
            return self.let_go(pod.id, pod.epoch).await;
        }
        if pod.held().is_none() {
            return Next::Settled;
        }
        if status.phase == Phase::Running && status.run.epoch == pod.epoch {
            // Whoever has followed it has told of its end before it let go of it.
            return self.keeper.lost(placed, placed.status.run).await;
        }
        if !placed.wanted.up {
            if placed.phase() == Phase::Starting {
                let called_off = Report::NotStarted {
                    id: self.id,
                    start: placed.wanted.start,
                };
                return self.keeper.report(called_off).await;
            }
            return self.prepare(placed).await;
        }
        if placed.awaits_restart() && status.run.epoch == pod.epoch {
            let ended_at = *self.ended_at.get_or_insert_with(Instant::now);
            let begins_at = ended_at + backoff(placed);
            if Instant::now() < begins_at {
                return Next::At(begins_at);
            }
        }
        if !inner.runtime.may_start(placed) {
            // Looked at again once the lease holds, or when it is another node's.
            return Next::Settled;
        }
        self.ended_at = None;
        let run = next_run(placed);
        match self.bring(placed).await {
            None => return Next::Again,
            Some(Ok(())) => {}
            Some(Err(error)) => {
                return self.keeper.start_failed(placed, run, error).await;
            }
        }
        // A task of its own: a start is never given up in the middle.
        let start = self.keeper.clone().start(placed.clone(), run);
        inner.tracker.spawn(start).await.unwrap_or_else(|error| {
            tracing::error!(container = self.id.short(), %error, "starting");
            Next::At(Instant::now() + AGAIN)
        })
    }

    /// The image's bytes are here once this returns; None: something else is wanted meanwhile.
    async fn bring(&mut self, placed: &Placed) -> Option<Result<(), AgentError>> {
        let inner = Arc::clone(&self.keeper.inner);
        let mut brought = inner.images.bring(&placed.image);
        loop {
            tokio::select! {
                brought = &mut brought => return Some(brought),
                _ = self.woken.changed() => {
                    let now = inner.replica.state().placed(&self.id)?;
                    if now.wanted != placed.wanted || now.pod.epoch != placed.pod.epoch {
                        return None;
                    }
                }
            }
        }
    }

    async fn prepare(&self, placed: &Placed) -> Next {
        let fresh = placed.phase() == Phase::Created || placed.layer.is_some();
        if fresh && let Err(error) = self.keeper.inner.runtime.prepare(placed).await {
            // Its start will find out, and tell.
            tracing::warn!(container = self.id.short(), %error, "its layer is not made yet");
        }
        Next::Settled
    }

    /// It runs, and is not to any more: it is another's, or nobody's.
    async fn step_leaving(&mut self) -> Next {
        let inner = Arc::clone(&self.keeper.inner);
        let placed = inner.replica.state().placed(&self.id);
        let Some(placed) = placed.filter(|placed| placed.pod.previous == Some(inner.node)) else {
            inner.runtime.destroy(&self.id).await;
            inner.runtime.ended(&self.id).await;
            return Next::Again;
        };
        let of_its_own = Stop {
            signal: placed.stop_signal(),
            timeout_s: placed.stop_timeout_s(),
            revision: LEAVING,
            tell: false,
        };
        let stop = placed.wanted.stop.filter(|_| !placed.wanted.up);
        self.stop(stop.unwrap_or(of_its_own)).await
    }

    /// It doesn't run, and is not this node's.
    async fn step_gone(&mut self) -> Next {
        let inner = Arc::clone(&self.keeper.inner);
        let placed = inner.replica.state().placed(&self.id);
        if let Some(pod) = placed.map(|placed| placed.pod)
            && pod.previous == Some(inner.node)
        {
            return self.let_go(pod.id, pod.epoch).await;
        }
        self.discard().await;
        Next::Settled
    }

    /// What it was here is gone, and whoever has it next is told.
    async fn let_go(&mut self, pod: PodId, epoch: u64) -> Next {
        // Before it may come back here with a fresh layer.
        self.discard().await;
        let released = Report::Released { pod, epoch };
        self.keeper.report(released).await
    }

    async fn discard(&self) {
        let inner = &self.keeper.inner;
        inner.runtime.ended(&self.id).await;
        let others: Vec<Layer> = {
            let state = inner.replica.state();
            let others = state.on_node(inner.node);
            let others = others.filter(|other| other.id != self.id);
            others
                .map(|other| other.layer_in(other.pod.epoch))
                .collect()
        };
        if let Err(error) = inner.runtime.discard(&self.id, &others).await {
            tracing::error!(container = self.id.short(), %error, "removing its files");
        }
    }
}

fn backoff(container: &Container) -> Duration {
    let doublings = container.status.short_runs.saturating_sub(1).min(31);
    let doubled = BACKOFF_FIRST.checked_mul(1 << doublings);
    doubled.unwrap_or(BACKOFF_MOST).min(BACKOFF_MOST)
}
