//! Makes what runs on this node what the state says is to run there.
//!
//! Level-triggered: each container that something has changed for has a task of its own, which looks at what is wanted, looks at what
//! is, does one step, and looks again, until both agree; then it ends. It is woken by changes of the state and by what its own steps
//! take, never by the request that asked for something. So it makes no difference whether a request, a restart of this process or a
//! later leader has brought a container to where it is, and nobody has to remember what was being done.
//!
//! | the state | here | so |
//! |---|---|---|
//! | is to run, has not ended in this start | nothing runs | start |
//! | has ended, its policy wants it up | nothing runs | start after a while |
//! | is not to run, or is to be another start's | runs | stop: signal, time, SIGKILL |
//! | is to run, may run elsewhere, and the node's lease is over | nothing runs | wait |
//! | is to start, and to be stopped already | nothing runs | say that it was called off |
//! | is another node's now | runs | stop, then say that it is let go of |
//! | does not exist | runs | end at once |
//! | does not exist, or is another node's | files | remove |

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{AgentError, Runtime};
use crate::clock::now_ns;
use crate::raft::{Observer, Replica, ReplicaError};
use crate::state::{
    Change, Command, Container, ContainerId, Exit, Failure, Layer, NodeId, Object, Phase, Placed,
    PodId, Report, RestartPolicy, Run, Signal, State, Stop, What,
};

/// Before the first restart by a policy; doubled for each further one. docker's own.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// At most. docker's own.
const BACKOFF_MOST: Duration = Duration::from_secs(60);
/// Between two SIGKILLs, and before another try at what has failed on this node.
const AGAIN: Duration = Duration::from_millis(500);
/// At most that long where the node itself goes down.
const SHUTDOWN_TIMEOUT_S: u64 = 10;
/// The revision of a stop that nobody has asked for: the pod is another node's. No command has it.
const LEAVING: u64 = u64::MAX;
/// docker's code for a process that SIGKILL has ended, which is what the loss of its machine comes to.
const LOST: Exit = Exit {
    code: 137,
    oom_killed: false,
};

/// What keeps a node's containers. Cheap to clone.
#[derive(Clone)]
pub struct Keeper {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    replica: Replica,
    runtime: Arc<dyn Runtime>,
    /// Brings an image's bytes to this node.
    images: Arc<dyn Images>,
    /// Of each container with a task: how often it has been woken. Guards also that there is one task at most.
    tasks: Mutex<HashMap<ContainerId, watch::Sender<u64>>>,
    /// Wakes it as its waker does.
    to: mpsc::UnboundedSender<Option<ContainerId>>,
    /// What it has been woken for, until it begins.
    woken: Mutex<Option<mpsc::UnboundedReceiver<Option<ContainerId>>>>,
    /// The node goes down: nothing is started any more, and everything stopped.
    closing: CancellationToken,
    tracker: TaskTracker,
}

/// Where a node gets images from.
#[async_trait::async_trait]
pub trait Images: Send + Sync {
    /// Returns once this node has the image's bytes.
    async fn bring(&self, image: &str) -> Result<(), AgentError>;
}

/// Tells a keeper what to look at. The state machine's observer: it must not wait.
pub struct Waker {
    node: NodeId,
    // As long as there are containers that change faster than a task can be woken: each is looked at as it is then.
    to: mpsc::UnboundedSender<Option<ContainerId>>,
}

impl Observer for Waker {
    fn applied(&self, state: &State, changes: &[Change]) {
        for change in changes {
            let Object::Container(container) = &change.object else {
                continue;
            };
            let pod = state.pods.get(&container.pod);
            // Gone, or this node's, or one that it has to let go of, or may have lost while it was out of touch.
            let concerns = change.what == What::Moved
                || pod.is_none_or(|pod| {
                    pod.node == Some(self.node) || pod.previous == Some(self.node)
                });
            if concerns {
                let _ = self.to.send(Some(container.id));
            }
        }
    }

    fn replaced(&self, _: &State) {
        let _ = self.to.send(None);
    }
}

/// What a step came to.
enum Next {
    /// Nothing more to do until something changes.
    Settled,
    /// Look again.
    Again,
    /// Look again then, or when something changes.
    At(Instant),
    /// Look again when nothing of it is left here, then, or when something changes.
    Ended(Option<Instant>),
}

impl Keeper {
    /// A keeper that does nothing yet, and the observer that wakes it.
    pub fn new(
        replica: Replica,
        runtime: Arc<dyn Runtime>,
        images: Arc<dyn Images>,
    ) -> (Self, Arc<Waker>) {
        let node = replica.node();
        let (to, woken) = mpsc::unbounded_channel();
        let inner = Inner {
            node,
            replica,
            runtime,
            images,
            tasks: Mutex::default(),
            to: to.clone(),
            woken: Mutex::new(Some(woken)),
            closing: CancellationToken::new(),
            tracker: TaskTracker::new(),
        };
        let keeper = Self {
            inner: Arc::new(inner),
        };
        (keeper, Arc::new(Waker { node, to }))
    }

    /// What runs has been taken up by the runtime; what else the state says runs here is lost. `node_booted`: the whole node has
    /// restarted, not just this process. Called once; its waker observes by now, and nothing has been begun before: what is swept is
    /// nobody's.
    pub async fn begin(&self, node_booted: bool) {
        let mine = self.mine();
        let layers = mine
            .iter()
            .map(|placed| (placed.id, placed.layer_in(placed.pod.epoch)));
        self.inner.runtime.sweep(layers.collect()).await;
        for placed in &mine {
            let runs = placed.status.phase == Phase::Running;
            if runs && self.inner.runtime.running(&placed.id).is_none() {
                self.lost(placed, placed.status.run).await;
            }
            // What was about to run when a node went down that is alone counts as lost with it, as with docker: whoever had asked has heard
            // of no start. Where there are others, it may have been asked for while this one was away.
            if node_booted && self.is_alone() && placed.phase() == Phase::Starting {
                self.lost(placed, next_run(placed)).await;
            }
            // As docker: `always` is started with the node, even what a user has stopped.
            let always = placed.spec.restart == RestartPolicy::Always;
            let down = placed.phase() == Phase::Exited && !placed.wanted.up;
            if node_booted && always && down {
                let start = Command::Start {
                    id: placed.id,
                    at_ns: now_ns(),
                };
                commit(&self.inner.replica, start).await;
            }
        }
        let woken = self.inner.woken.lock();
        let woken = woken.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(woken) = woken {
            let closed = self.inner.closing.clone();
            let listening = self.clone().listen(woken);
            self.inner
                .tracker
                .spawn(async move { closed.run_until_cancelled_owned(listening).await });
        }
        self.look_at_all().await;
    }

    fn mine(&self) -> Vec<Placed> {
        let state = self.inner.replica.state();
        state.on_node(self.inner.node).collect()
    }

    async fn listen(self, mut woken: mpsc::UnboundedReceiver<Option<ContainerId>>) {
        while let Some(id) = woken.recv().await {
            match id {
                Some(id) => self.look_at(id),
                None => self.look_at_all().await,
            }
        }
    }

    /// As [`Self::look_at_all`], soon, for those who must not wait.
    pub fn look_at_all_soon(&self) {
        // An error: the node goes down.
        let _ = self.inner.to.send(None);
    }

    /// Everything that this node has to have, to let go of, or has.
    pub async fn look_at_all(&self) {
        let present = self.inner.runtime.present().await;
        let ids: Vec<ContainerId> = {
            let state = self.inner.replica.state();
            let leaving = state.pods.leaving(self.inner.node);
            let leaving = leaving.flat_map(|pod| pod.containers.iter().copied());
            let own = state.on_node(self.inner.node).map(|placed| placed.id);
            own.chain(leaving).collect()
        };
        let known: Vec<ContainerId> = self.tasks().keys().copied().collect();
        let all: BTreeSet<_> = ids.into_iter().chain(known).chain(present).collect();
        all.into_iter().for_each(|id| self.look_at(id));
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, watch::Sender<u64>>> {
        // An entry is there or not; nothing else happens under the lock.
        self.inner
            .tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Something may have changed for a container.
    pub fn look_at(&self, id: ContainerId) {
        if self.inner.closing.is_cancelled() {
            return;
        }
        let mut tasks = self.tasks();
        // One whose task has panicked gets another.
        if let Some(woken) = tasks.get(&id).filter(|woken| !woken.is_closed()) {
            woken.send_modify(|times| *times += 1);
            return;
        }
        let (woken, looking) = watch::channel(0);
        tasks.insert(id, woken);
        drop(tasks);
        let closed = self.inner.closing.clone();
        let tending = Tending {
            keeper: self.clone(),
            id,
            woken: looking,
            sent: None,
            ended_at: None,
        };
        let tending = closed.run_until_cancelled_owned(tending.tend());
        self.inner.tracker.spawn(tending);
    }

    /// What has happened has happened, whether there is a leader to hear of it or not: it is kept until there is one.
    async fn report(&self, report: Report) -> Next {
        let command = Command::Report {
            node: self.inner.node,
            at_ns: now_ns(),
            report,
        };
        match commit(&self.inner.replica, command).await {
            true => Next::Again,
            false => Next::At(Instant::now() + AGAIN),
        }
    }

    fn is_alone(&self) -> bool {
        self.inner.replica.state().nodes.size() <= 1
    }

    /// A run counts as running, or was to be, and nobody follows it here.
    async fn lost(&self, placed: &Placed, run: Run) -> Next {
        tracing::warn!(
            container = placed.id.short(),
            "its microVM is gone; it counts as killed"
        );
        let exited = Report::Exited {
            id: placed.id,
            run,
            exit: LOST,
        };
        self.report(exited).await
    }

    async fn start(self, placed: Placed, run: Run) -> Next {
        match self.inner.runtime.start(&placed, run).await {
            Ok(times) => {
                tracing::info!(
                    container = placed.id.short(),
                    commit_us = times.commit.as_micros(),
                    monitor_at_us = times.monitor_at.as_micros(),
                    running_at_us = times.running_at.as_micros(),
                    guest_init_us = times.guest_init.as_micros(),
                    "container started"
                );
                Next::Again
            }
            // It has not begun, and is looked at again once the lease holds.
            Err(AgentError::LeaseOver) => Next::Settled,
            Err(error) => self.start_failed(&placed, run, error).await,
        }
    }

    async fn start_failed(&self, placed: &Placed, run: Run, error: AgentError) -> Next {
        tracing::warn!(container = placed.id.short(), %error, "not started");
        let (kind, code) = error.failure();
        let failed = Report::StartFailed {
            id: placed.id,
            run,
            failure: Failure {
                kind,
                message: error.to_string(),
            },
            code,
        };
        self.report(failed).await
    }

    /// The node goes down: everything is stopped, at the same time, and nothing starts any more. What users want stays as it is.
    pub async fn close(&self) {
        self.inner.closing.cancel();
        self.inner.tracker.close();
        self.inner.tracker.wait().await;
        let runtime = &self.inner.runtime;
        let present = runtime.present().await;
        let running = present
            .into_iter()
            .filter(|id| runtime.running(id).is_some());
        let ends = running.map(|id| async move {
            let container = self.inner.replica.state().containers.get(&id).cloned();
            let (signal, timeout_s) = match &container {
                // Without an end of its own it has as much as there is.
                Some(it) => (it.stop_signal(), it.stop_timeout_s().unwrap_or(u64::MAX)),
                None => (Signal::KILL, 0),
            };
            if let Err(error) = runtime.signal(&id, signal).await {
                tracing::debug!(container = id.short(), %error, "stop signal");
            }
            let timeout_s = timeout_s.min(SHUTDOWN_TIMEOUT_S);
            let ended = runtime.ended(&id);
            tokio::pin!(ended);
            let patience = Duration::from_secs(timeout_s);
            if tokio::time::timeout(patience, &mut ended).await.is_err() {
                loop {
                    let _ = runtime.signal(&id, Signal::KILL).await;
                    if tokio::time::timeout(AGAIN, &mut ended).await.is_ok() {
                        break;
                    }
                }
            }
        });
        futures_util::future::join_all(ends).await;
    }
}

#[cfg(any(test, feature = "simulation"))]
impl Keeper {
    /// Nothing has a task.
    #[cfg(test)]
    pub fn is_settled(&self) -> bool {
        self.tasks().is_empty()
    }

    /// As if the node's control had died, and nothing else.
    pub fn stop_listening(&self) {
        self.inner.closing.cancel();
    }
}

/// Commits what a node has to tell, whenever that can be. False: never, for the replica has stopped, or the node goes down and nobody leads.
pub async fn commit(replica: &Replica, command: Command) -> bool {
    loop {
        match replica.propose(command.clone()).await {
            Ok(Ok(_)) => return true,
            Ok(Err(refusal)) => {
                tracing::debug!(%refusal, "told too late");
                return true;
            }
            Err(ReplicaError::Unavailable(why)) if replica.hurries() => {
                tracing::warn!(
                    why,
                    "what has happened here is found out again at the next start"
                );
                return false;
            }
            Err(ReplicaError::Unavailable(why)) => {
                tracing::warn!(why, "what has happened is committed later");
            }
            Err(error) => {
                tracing::error!(%error, "what has happened can't be committed");
                return false;
            }
        }
    }
}

/// The run that comes after what has been told of a container.
fn next_run(placed: &Placed) -> Run {
    let last = placed.status.run;
    let number = match last.epoch == placed.pod.epoch {
        true => last.number + 1,
        false => 1,
    };
    Run {
        epoch: placed.pod.epoch,
        number,
        start: placed.wanted.start,
    }
}

/// One container's task.
struct Tending {
    keeper: Keeper,
    id: ContainerId,
    woken: watch::Receiver<u64>,
    /// The stop that its run has been sent, and when SIGKILL follows.
    sent: Option<(u64, Option<Instant>)>,
    /// When its last run has been seen to have ended.
    ended_at: Option<Instant>,
}

impl Tending {
    async fn tend(mut self) {
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
        if wanted.up && wanted.start == run.start {
            return Next::Settled;
        }
        match wanted.stop {
            Some(stop) => self.stop(stop).await,
            // It has its signal already, and whatever time it takes.
            None => Next::Settled,
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
