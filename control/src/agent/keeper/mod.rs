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
//! | is to stand still, or not to | does not, or does | have it stand still or go on, and say so |
//! | is another node's now | runs | stop, then say that it is let go of |
//! | does not exist | runs | end at once |
//! | does not exist, or is another node's | files | remove |

mod tending;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use tending::{Next, Tending};

use super::{AgentError, Runtime};
use crate::clock::now_ns;
use crate::raft::{Observer, Replica, ReplicaError};
use crate::state::{
    Change, Command, ContainerId, Exit, Failure, NodeId, Object, Phase, Placed, Report,
    RestartPolicy, Run, Signal, State, What,
};

/// Between two SIGKILLs, and before another try at what has failed on this node.
const AGAIN: Duration = Duration::from_millis(500);
/// At most that long where the node itself goes down.
const SHUTDOWN_TIMEOUT_S: u64 = 10;
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
        let tending = Tending::new(self.clone(), id, looking);
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
            // One that stands still goes on, to hear it.
            if runtime.is_paused(&id)
                && let Err(error) = runtime.pause(&id, false).await
            {
                tracing::debug!(container = id.short(), %error, "having it go on");
            }
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
