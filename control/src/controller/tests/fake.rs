//! A machine whose containers run until a signal, or end at once with the code that their command is. It outlives the control that runs
//! on it, as monitors do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, watch};

use crate::agent::{
    Agent, AgentError, Attached, ExecId, ExecSpec, ExecStatus, LogOptions, LogStream, NodeInfo,
    ProcessInfo, Reports, Runtime, StartTimes,
};
use crate::clock::now_ns;
use crate::cluster::moves::may_move;
use crate::state::{ContainerId, Exit, Layer, Phase, Placed, Run, Signal};

/// What is on the machine, whatever runs on it.
pub struct Machine {
    here: Mutex<Here>,
    /// Told of every change of it.
    changed: watch::Sender<()>,
    /// Each start takes one of these, and waits for it.
    pub may_start: Semaphore,
    /// Starts that wait, or have waited, for that.
    pub starting: AtomicUsize,
    /// What may run elsewhere doesn't start.
    pub lease_over: AtomicBool,
    /// Ignored by everything that runs.
    pub deaf_to: AtomicI32,
}

#[derive(Default)]
struct Here {
    processes: BTreeMap<ContainerId, Process>,
    /// Where the containers' links lead.
    links: BTreeMap<ContainerId, Layer>,
    layers: BTreeSet<Layer>,
    /// Containers started, in order, and signals that have come.
    started: Vec<ContainerId>,
    signals: Vec<(ContainerId, Signal)>,
}

/// Until its end has been told.
struct Process {
    run: Run,
    exit: Option<Exit>,
    paused: bool,
}

impl Machine {
    pub fn is_paused(&self, id: &ContainerId) -> bool {
        let here = self.here.lock().unwrap();
        here.processes.get(id).is_some_and(|process| process.paused)
    }

    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            here: Mutex::default(),
            changed: watch::Sender::default(),
            may_start: Semaphore::new(Semaphore::MAX_PERMITS),
            starting: AtomicUsize::new(0),
            lease_over: AtomicBool::new(false),
            deaf_to: AtomicI32::new(0),
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Here) -> T) -> T {
        let changed = change(&mut self.here.lock().unwrap());
        self.changed.send_replace(());
        changed
    }

    /// Nothing starts before it is allowed.
    pub fn hold_starts(&self) {
        self.may_start.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub fn starts(&self) -> usize {
        self.starting.load(Ordering::Acquire)
    }

    pub fn runs(&self, id: &ContainerId) -> bool {
        let here = self.here.lock().unwrap();
        here.processes
            .get(id)
            .is_some_and(|process| process.exit.is_none())
    }

    pub fn is_idle(&self) -> bool {
        self.here.lock().unwrap().processes.is_empty()
    }

    pub fn started(&self) -> Vec<ContainerId> {
        self.here.lock().unwrap().started.clone()
    }

    /// Signals that a container has had.
    pub fn signals(&self, id: &ContainerId) -> Vec<i32> {
        let here = self.here.lock().unwrap();
        let own = here.signals.iter().filter(|(to, _)| to == id);
        own.map(|(_, signal)| signal.number()).collect()
    }

    pub fn links(&self) -> BTreeSet<ContainerId> {
        self.here.lock().unwrap().links.keys().copied().collect()
    }

    pub fn layers(&self) -> BTreeSet<Layer> {
        self.here.lock().unwrap().layers.clone()
    }

    /// Power is lost.
    pub fn lose_power(&self) {
        self.change(|here| here.processes.clear());
    }

    /// Something that nobody knows runs here, and has files.
    pub fn leave(&self, id: ContainerId) {
        let (run, exit) = (Run::default(), None);
        let layer = Layer {
            container: id,
            epoch: 1,
        };
        self.change(|here| {
            here.processes.insert(
                id,
                Process {
                    run,
                    exit,
                    paused: false,
                },
            );
            here.links.insert(id, layer);
            here.layers.insert(layer);
        });
    }

    /// Nothing of it is left.
    fn forget(&self, id: &ContainerId) {
        self.change(|here| {
            here.processes.remove(id);
        });
    }

    /// A process ends by itself.
    pub fn exit(&self, id: &ContainerId, code: u8) {
        let oom_killed = false;
        self.change(|here| {
            if let Some(process) = here.processes.get_mut(id) {
                process.exit.get_or_insert(Exit { code, oom_killed });
            }
        });
    }

    async fn until<T>(&self, mut found: impl FnMut(&Here) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            let found = found(&self.here.lock().unwrap());
            if let Some(found) = found {
                return found;
            }
            changed.changed().await.unwrap();
        }
    }
}

/// What of a control process speaks to the machine.
pub struct FakeAgent {
    pub machine: Arc<Machine>,
    pub reports: Arc<dyn Reports>,
}

impl FakeAgent {
    /// Takes up what runs and is to, and ends the rest, as a new control process does.
    pub async fn adopt(&self, mine: &[Placed]) {
        let found: Vec<(ContainerId, Run)> = {
            let here = self.machine.here.lock().unwrap();
            let found = here.processes.iter();
            found.map(|(id, process)| (*id, process.run)).collect()
        };
        for (id, run) in found {
            let should = mine.iter().find(|placed| placed.id == id);
            let should = should.filter(|placed| {
                let status = &placed.status;
                let over = status.run > run || status.run == run && status.phase != Phase::Running;
                placed.pod.epoch == run.epoch && !over
            });
            match should {
                Some(placed) => {
                    if placed.status.run < run {
                        self.reports.started(&id, run, 5, now_ns()).await;
                    }
                    self.follow(id, run);
                }
                None => self.machine.forget(&id),
            }
        }
    }

    /// Tells its end; until then it counts as running here.
    fn follow(&self, id: ContainerId, run: Run) {
        let (machine, reports) = (Arc::clone(&self.machine), Arc::clone(&self.reports));
        tokio::spawn(async move {
            let exit = machine
                .until(|here| match here.processes.get(&id) {
                    Some(process) => process.exit.map(Some),
                    None => Some(None),
                })
                .await;
            // Without one, its machine has lost power, and this process with it.
            if let Some(exit) = exit {
                reports.exited(&id, run, exit, now_ns()).await;
                machine.forget(&id);
            }
        });
    }
}

#[async_trait]
impl Runtime for FakeAgent {
    async fn prepare(&self, placed: &Placed) -> Result<(), AgentError> {
        let layer = placed.layer_in(placed.pod.epoch);
        self.machine.change(|here| {
            here.links.insert(placed.id, layer);
            here.layers.insert(layer);
        });
        Ok(())
    }
    async fn start(&self, placed: &Placed, run: Run) -> Result<StartTimes, AgentError> {
        self.ended(&placed.id).await;
        self.prepare(placed).await?;
        let command = placed.spec.command.first().map(String::as_str);
        if let Some("missing") = command {
            return Err(AgentError::Start {
                message: "not there".into(),
                code: 127,
            });
        }
        self.machine.starting.fetch_add(1, Ordering::AcqRel);
        self.machine.may_start.acquire().await.unwrap().forget();
        self.machine.change(|here| {
            let process = Process {
                run,
                exit: None,
                paused: false,
            };
            let other = here.processes.insert(placed.id, process);
            assert!(other.is_none(), "two runs of a container at a time");
            here.started.push(placed.id);
        });
        self.follow(placed.id, run);
        self.reports.started(&placed.id, run, 5, now_ns()).await;
        if let Some(code) = command.and_then(|word| word.parse().ok()) {
            self.machine.exit(&placed.id, code);
        }
        Ok(StartTimes {
            monitor_at: Duration::ZERO,
            running_at: Duration::ZERO,
            guest_init: Duration::ZERO,
            commit: Duration::ZERO,
        })
    }
    fn may_start(&self, placed: &Placed) -> bool {
        !(may_move(placed) && self.machine.lease_over.load(Ordering::Acquire))
    }
    fn running(&self, id: &ContainerId) -> Option<Run> {
        let here = self.machine.here.lock().unwrap();
        here.processes.get(id).map(|process| process.run)
    }
    async fn pause(&self, id: &ContainerId, paused: bool) -> Result<(), AgentError> {
        if !self.machine.runs(id) {
            return Err(AgentError::NotRunning(*id));
        }
        self.machine.change(|here| {
            if let Some(process) = here.processes.get_mut(id) {
                process.paused = paused;
            }
        });
        Ok(())
    }
    fn is_paused(&self, id: &ContainerId) -> bool {
        self.machine.is_paused(id)
    }
    async fn ended(&self, id: &ContainerId) {
        self.machine
            .until(|here| (!here.processes.contains_key(id)).then_some(()))
            .await;
    }
    async fn destroy(&self, id: &ContainerId) {
        self.machine.exit(id, 137);
        // What was here before this process is followed by nobody.
        let unfollowed = |here: &mut Here| {
            let stranger = here.processes.get(id).map(|it| it.run) == Some(Run::default());
            stranger.then(|| here.processes.remove(id));
        };
        self.machine.change(unfollowed);
    }
    async fn discard(&self, id: &ContainerId, others: &[Layer]) -> Result<(), AgentError> {
        self.machine.change(|here| {
            assert!(
                !here.processes.contains_key(id),
                "its files go while it runs"
            );
            if let Some(layer) = here.links.remove(id).filter(|it| !others.contains(it)) {
                here.layers.remove(&layer);
            }
        });
        Ok(())
    }
    async fn present(&self) -> Vec<ContainerId> {
        let here = self.machine.here.lock().unwrap();
        here.processes
            .keys()
            .chain(here.links.keys())
            .copied()
            .collect()
    }
    async fn sweep(&self, known: Vec<(ContainerId, Layer)>) {
        self.machine.change(|here| {
            here.links
                .retain(|id, _| known.iter().any(|(known, _)| known == id));
            here.layers
                .retain(|layer| known.iter().any(|(_, known)| known == layer));
        });
    }
}

#[async_trait]
impl Agent for FakeAgent {
    async fn signal(&self, id: &ContainerId, signal: Signal) -> Result<(), AgentError> {
        // What stands still hears nothing.
        self.machine
            .until(|here| {
                let process = here.processes.get(id);
                (!process.is_some_and(|process| process.paused)).then_some(())
            })
            .await;
        if !self.machine.runs(id) {
            return Err(AgentError::NotRunning(*id));
        }
        self.machine.change(|here| here.signals.push((*id, signal)));
        if signal.number() != self.machine.deaf_to.load(Ordering::Acquire) {
            self.machine.exit(id, 128 + signal.number() as u8);
        }
        Ok(())
    }
    async fn written_bytes(&self, _: &ContainerId) -> Result<u64, AgentError> {
        Ok(0)
    }
    async fn resize(&self, _: &ContainerId, _: u16, _: u16) -> Result<(), AgentError> {
        Ok(())
    }
    async fn attach(&self, id: &ContainerId, _: bool) -> Result<Attached, AgentError> {
        Err(AgentError::NotRunning(*id))
    }
    async fn logs(&self, _: &ContainerId, _: LogOptions) -> Result<LogStream, AgentError> {
        Ok(Box::pin(futures_util::stream::empty()))
    }
    async fn processes(&self, _: &ContainerId) -> Result<Vec<ProcessInfo>, AgentError> {
        Ok(vec![])
    }
    async fn exec_create(&self, id: &ContainerId, _: ExecSpec) -> Result<ExecId, AgentError> {
        Err(AgentError::NotRunning(*id))
    }
    async fn exec_start(&self, id: &ExecId, _: Option<(u16, u16)>) -> Result<Attached, AgentError> {
        Err(AgentError::NoSuchExec(id.clone()))
    }
    async fn exec_resize(&self, id: &ExecId, _: u16, _: u16) -> Result<(), AgentError> {
        Err(AgentError::NoSuchExec(id.clone()))
    }
    async fn exec_status(&self, id: &ExecId) -> Result<ExecStatus, AgentError> {
        Err(AgentError::NoSuchExec(id.clone()))
    }
    async fn execs(&self, _: &ContainerId) -> Vec<ExecId> {
        vec![]
    }
    async fn node(&self) -> NodeInfo {
        NodeInfo::default()
    }

    async fn happenings(&self) -> Result<crate::agent::Happenings, AgentError> {
        Ok(Box::pin(futures_util::stream::pending()))
    }
}
