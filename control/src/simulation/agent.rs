//! What of a simulated control process stands for its agent: containers' processes are started, followed and ended on its machine.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hearth_vmm_api::lease::Page;
use tokio::sync::Notify;

use super::hooks::{one_in, pick};
use super::life::Life;
use super::machine::{DEAF, Machine, Process, Reader, killed};
use crate::agent::keeper::Keeper;
use crate::agent::{
    Agent, AgentError, Attached, ExecId, ExecSpec, ExecStatus, LogOptions, LogStream, NodeInfo,
    ProcessInfo, Reports, Runtime, StartTimes,
};
use crate::clock::now_ns;
use crate::cluster::moves::may_move;
use crate::cluster::tenant::Leased;
use crate::lease::{Clock, NodeLease};
use crate::state::{ContainerId, Layer, Phase, Placed, Run, Signal};

/// From a start's beginning to its process's word, milliseconds.
const BOOT_MS: std::ops::Range<u64> = 20..600;
/// From a signal to the end of whoever minds it, milliseconds.
const DYING_MS: std::ops::Range<u64> = 1..300;

/// What of a control process speaks to the machine.
pub struct LocalAgent {
    machine: Arc<Machine>,
    reports: Arc<dyn Reports>,
    lease: NodeLease,
    clock: Clock,
    life: Life,
}

impl LocalAgent {
    /// Of a process that has just begun.
    pub fn new(
        machine: &Arc<Machine>,
        reports: Arc<dyn Reports>,
        lease: &NodeLease,
        clock: &Clock,
        life: &Life,
    ) -> Arc<Self> {
        Arc::new(Self {
            machine: Arc::clone(machine),
            reports,
            lease: lease.clone(),
            clock: Arc::clone(clock),
            life: life.clone(),
        })
    }

    /// Takes up what runs and is to, and ends the rest, as the real one does.
    pub async fn adopt(self: &Arc<Self>, mine: &[Placed]) {
        let found: Vec<(ContainerId, Run)> = {
            let here = self.machine.here();
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
                    self.machine.booted(&id);
                    if let Some(look) = self.leased_of(&id) {
                        look.notify_one();
                    }
                    if placed.status.run < run {
                        self.reports.started(&id, run, 5, now_ns()).await;
                    }
                    self.follow(id, run);
                }
                None => {
                    self.machine.end(&id, run, killed(9), "not to run");
                    self.machine.change(|here| here.processes.remove(&id));
                }
            }
        }
    }

    fn leased_of(&self, id: &ContainerId) -> Option<Arc<Notify>> {
        self.machine.here().processes.get(id)?.leased.clone()
    }

    /// Tells its end; until then it counts as running here.
    fn follow(self: &Arc<Self>, id: ContainerId, run: Run) {
        let agent = Arc::clone(self);
        let following = async move {
            let ended = agent.machine.until(|here| match here.processes.get(&id) {
                Some(process) if process.run == run => process.exit.map(Some),
                _ => Some(None),
            });
            let exit = agent.life.within(ended).await;
            // Without one, its machine has lost power, and this process with it.
            if let Some(exit) = exit {
                let told = agent.reports.exited(&id, run, exit, now_ns());
                agent.life.within(told).await;
                agent.machine.change(|here| here.processes.remove(&id));
            }
        };
        tokio::spawn(following);
    }

    async fn boot(self: &Arc<Self>, placed: &Placed, run: Run) -> Result<(), AgentError> {
        let id = placed.id;
        let leased = may_move(placed);
        let page = match leased {
            true => {
                let page = self.lease.reader().map_err(told)?;
                Some(page.ok_or(AgentError::LeaseOver)?)
            }
            false => None,
        };
        let look = leased.then(Arc::<Notify>::default);
        let process = Process {
            run,
            exit: None,
            booted: false,
            deaf: placed.spec.command.iter().any(|word| word == DEAF),
            paused: false,
            leased: look.clone(),
        };
        let (node, truth) = (self.machine.node, &self.machine.truth);
        let other = self
            .machine
            .change(|here| here.processes.insert(id, process));
        if other.is_some() {
            truth.violate(format!("{} is started while it runs", id.short()));
        }
        truth.begins(node, id, run);
        if let (Some(page), Some(look)) = (page, look) {
            let page = Reader(Page::map(page).map_err(told)?);
            let machine = Arc::clone(&self.machine);
            let clock = Arc::clone(&self.clock);
            tokio::spawn(machine.keep_to_lease(id, run, page, clock, look));
        }
        Ok(())
    }
}

fn told(error: impl std::fmt::Display) -> AgentError {
    AgentError::Told(error.to_string())
}

/// A process's agent, as the keeper and others hold it.
pub struct Handle(pub Arc<LocalAgent>);

#[async_trait]
impl Runtime for Handle {
    async fn prepare(&self, placed: &Placed) -> Result<(), AgentError> {
        self.0.life.check().await;
        let layer = placed.layer_in(placed.pod.epoch);
        self.0.machine.change(|here| {
            here.links.insert(placed.id, layer);
            here.layers.insert(layer);
        });
        Ok(())
    }

    async fn start(&self, placed: &Placed, run: Run) -> Result<StartTimes, AgentError> {
        let agent = &self.0;
        agent.life.within(self.ended(&placed.id)).await;
        self.prepare(placed).await?;
        agent.boot(placed, run).await?;
        let boots = tokio::time::sleep(Duration::from_millis(pick(BOOT_MS)));
        agent.life.within(boots).await;
        if !agent.machine.runs(&placed.id, run) {
            let over = may_move(placed) && !agent.lease.holds();
            agent
                .machine
                .change(|here| here.processes.remove(&placed.id));
            return Err(match over {
                true => AgentError::LeaseOver,
                false => told("the monitor has ended"),
            });
        }
        agent.machine.booted(&placed.id);
        let reported = agent.reports.started(&placed.id, run, 5, now_ns());
        agent.life.within(reported).await;
        agent.follow(placed.id, run);
        Ok(StartTimes {
            monitor_at: Duration::ZERO,
            running_at: Duration::ZERO,
            guest_init: Duration::ZERO,
            commit: Duration::ZERO,
        })
    }

    fn may_start(&self, placed: &Placed) -> bool {
        !may_move(placed) || self.0.lease.holds()
    }

    fn running(&self, id: &ContainerId) -> Option<Run> {
        self.0.machine.here().processes.get(id).map(|it| it.run)
    }

    async fn pause(&self, id: &ContainerId, paused: bool) -> Result<(), AgentError> {
        self.0.life.check().await;
        let found = self.0.machine.change(|here| {
            let process = here.processes.get_mut(id)?;
            process.paused = paused;
            Some(())
        });
        found.ok_or(AgentError::NotRunning(*id))
    }

    fn is_paused(&self, id: &ContainerId) -> bool {
        let here = self.0.machine.here();
        here.processes.get(id).is_some_and(|it| it.paused)
    }

    async fn ended(&self, id: &ContainerId) {
        let gone = self
            .0
            .machine
            .until(|here| (!here.processes.contains_key(id)).then_some(()));
        self.0.life.within(gone).await;
    }

    async fn destroy(&self, id: &ContainerId) {
        self.0.life.check().await;
        if let Some(run) = self.running(id) {
            self.0.machine.end(id, run, killed(9), "destroyed");
        }
    }

    async fn discard(&self, id: &ContainerId, others: &[Layer]) -> Result<(), AgentError> {
        self.0.life.check().await;
        self.0.machine.change(|here| {
            if here.processes.contains_key(id) {
                let truth = &self.0.machine.truth;
                truth.violate(format!("{}'s files go while it runs", id.short()));
            }
            if let Some(layer) = here.links.remove(id).filter(|it| !others.contains(it)) {
                here.layers.remove(&layer);
            }
        });
        Ok(())
    }

    async fn present(&self) -> Vec<ContainerId> {
        self.0.life.check().await;
        self.0.machine.present().into_iter().collect()
    }

    async fn sweep(&self, known: Vec<(ContainerId, Layer)>) {
        self.0.life.check().await;
        self.0.machine.change(|here| {
            here.links
                .retain(|id, _| known.iter().any(|(known, _)| known == id));
            here.layers
                .retain(|layer| known.iter().any(|(_, known)| known == layer));
        });
    }
}

#[async_trait]
impl Agent for Handle {
    async fn signal(&self, id: &ContainerId, signal: Signal) -> Result<(), AgentError> {
        self.0.life.check().await;
        let machine = &self.0.machine;
        let found = {
            let here = machine.here();
            let process = here.processes.get(id).filter(|it| it.exit.is_none());
            process.map(|process| (process.run, process.deaf))
        };
        let Some((run, deaf)) = found else {
            return Err(AgentError::NotRunning(*id));
        };
        if signal == Signal::KILL {
            machine.end(id, run, killed(signal.number()), "killed");
        } else if !deaf {
            let (machine, id) = (Arc::clone(machine), *id);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(pick(DYING_MS))).await;
                machine.end(&id, run, killed(signal.number()), "stopped");
            });
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

/// What keeps to the lease on a machine.
pub struct Pods {
    /// Has the monitors.
    pub agent: Arc<LocalAgent>,
    /// Starts them.
    pub keeper: Keeper,
}

#[async_trait]
impl Leased for Pods {
    fn look_again(&self) {
        if !self.agent.life.lasts() {
            return;
        }
        let here = self.agent.machine.here();
        let leased = here.processes.values().filter_map(|it| it.leased.clone());
        leased.for_each(|look| look.notify_one());
    }

    async fn end(&self) {
        self.agent.life.check().await;
        let machine = &self.agent.machine;
        let leased: Vec<(ContainerId, Run)> = {
            let here = machine.here();
            let leased = here.processes.iter();
            let leased = leased.filter(|(_, it)| it.leased.is_some() && it.exit.is_none());
            leased.map(|(id, it)| (*id, it.run)).collect()
        };
        for (id, run) in leased {
            if one_in(2) {
                let takes = tokio::time::sleep(Duration::from_millis(pick(DYING_MS)));
                self.agent.life.within(takes).await;
            }
            machine.end(&id, run, killed(9), "out");
        }
    }

    fn may_start(&self) {
        self.keeper.look_at_all_soon();
    }
}
