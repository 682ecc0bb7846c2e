//! A machine: what runs on it, and what lies on its disk. It outlives the control that runs on it, as monitors do.
//!
//! A container's process runs until a signal, or until luck has it end. It runs from when its start is asked for: in a real microVM it is
//! some moment after that, so what must not run twice is judged more strictly here. One that may run elsewhere keeps to the page of
//! its node's lease, as its monitor does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hearth_vmm_api::lease::{NO_DEADLINE, Page};
use tokio::sync::{Notify, watch};

use super::hooks::pick;
use super::truth::Truth;
use crate::lease::{BootTime, Clock};
use crate::state::{ContainerId, Exit, Layer, NodeId, Run};

/// A container with this command ignores everything but SIGKILL.
pub const DEAF: &str = "deaf";
/// From a deadline to when a microVM stands still, milliseconds: less than `crate::lease`'s.
const KILL_MS: std::ops::Range<u64> = 0..950;

/// What is on the machine, whatever runs on it.
pub struct Machine {
    pub(super) node: NodeId,
    pub(super) truth: Arc<Truth>,
    here: Mutex<Here>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
pub(super) struct Here {
    pub(super) processes: BTreeMap<ContainerId, Process>,
    /// Containers with files here, and the layer that each has.
    pub(super) links: BTreeMap<ContainerId, Layer>,
    pub(super) layers: BTreeSet<Layer>,
}

/// A lease's page, as a monitor reads it.
pub(super) struct Reader(pub(super) Page);

// SAFETY: the mapping belongs to this value and to no thread; it is only read, atomically.
unsafe impl Send for Reader {}
// SAFETY: as above.
unsafe impl Sync for Reader {}

impl Reader {
    fn deadline_ns(&self) -> u64 {
        self.0.deadline_ns()
    }
}

/// Until its end has been told.
pub(super) struct Process {
    pub(super) run: Run,
    pub(super) exit: Option<Exit>,
    /// It has said that it runs.
    pub(super) booted: bool,
    pub(super) deaf: bool,
    pub(super) paused: bool,
    /// Tells its monitor to look at the lease's page again. None: it keeps to none.
    pub(super) leased: Option<Arc<Notify>>,
}

pub(super) fn killed(signal: i32) -> Exit {
    Exit {
        code: 128 + signal as u8,
        oom_killed: false,
    }
}

impl Machine {
    /// With nothing on it.
    pub fn new(node: NodeId, truth: &Arc<Truth>) -> Arc<Self> {
        Arc::new(Self {
            node,
            truth: Arc::clone(truth),
            here: Mutex::default(),
            changed: watch::Sender::default(),
        })
    }

    pub(super) fn here(&self) -> MutexGuard<'_, Here> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Here) -> T) -> T {
        let changed = change(&mut self.here());
        self.changed.send_replace(());
        changed
    }

    pub(super) fn runs(&self, id: &ContainerId, run: Run) -> bool {
        let here = self.here();
        let process = here.processes.get(id);
        process.is_some_and(|process| process.run == run && process.exit.is_none())
    }

    /// Its process ends, if it is still this one's.
    pub(super) fn end(&self, id: &ContainerId, run: Run, exit: Exit, why: &str) {
        self.change(|here| {
            let process = here.processes.get_mut(id);
            if let Some(process) = process.filter(|it| it.run == run && it.exit.is_none()) {
                process.exit = Some(exit);
                self.truth.ends(self.node, *id, run, why);
            }
        });
    }

    pub(super) fn booted(&self, id: &ContainerId) {
        if let Some(process) = self.here().processes.get_mut(id) {
            process.booted = true;
        }
    }

    /// Power is lost.
    pub fn lose_power(&self) {
        self.change(|here| {
            for (id, process) in std::mem::take(&mut here.processes) {
                if process.exit.is_none() {
                    self.truth.ends(self.node, id, process.run, "power");
                }
            }
        });
    }

    /// Some process ends by itself, if any runs.
    pub fn some_exit(&self) {
        let running: Vec<(ContainerId, Run)> = {
            let here = self.here();
            let running = here.processes.iter();
            let running = running.filter(|(_, process)| process.booted && process.exit.is_none());
            running.map(|(id, process)| (*id, process.run)).collect()
        };
        if running.is_empty() {
            return;
        }
        let (id, run) = running[pick(0..running.len() as u64) as usize];
        let code = pick(0..2) as u8;
        let oom_killed = false;
        self.end(&id, run, Exit { code, oom_killed }, "by itself");
    }

    /// Containers that run, or have files, here.
    pub fn present(&self) -> BTreeSet<ContainerId> {
        let here = self.here();
        here.processes
            .keys()
            .chain(here.links.keys())
            .copied()
            .collect()
    }

    /// Layers that lie here.
    pub fn layers(&self) -> BTreeSet<Layer> {
        self.here().layers.clone()
    }

    pub(super) async fn until<T>(&self, mut found: impl FnMut(&Here) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            let found = found(&self.here());
            if let Some(found) = found {
                return found;
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// A monitor, for as long as its process runs.
    pub(super) async fn keep_to_lease(
        self: Arc<Self>,
        id: ContainerId,
        run: Run,
        page: Reader,
        clock: Clock,
        look: Arc<Notify>,
    ) {
        while self.runs(&id, run) {
            let deadline = page.deadline_ns();
            let left = BootTime(deadline).after(clock());
            if deadline != NO_DEADLINE && left.is_zero() {
                tokio::time::sleep(Duration::from_millis(pick(KILL_MS))).await;
                self.end(&id, run, killed(9), "lease");
                return;
            }
            let ended = self.until(|here| {
                let process = here.processes.get(&id);
                let runs = process.is_some_and(|it| it.run == run && it.exit.is_none());
                (!runs).then_some(())
            });
            let over = async {
                match deadline {
                    NO_DEADLINE => std::future::pending().await,
                    _ => tokio::time::sleep(left).await,
                }
            };
            tokio::select! {
                () = ended => {}
                () = over => {}
                () = look.notified() => {}
            }
        }
    }
}
