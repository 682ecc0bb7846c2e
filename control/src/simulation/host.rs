//! A machine of a simulated cluster, and the control on it, switched on and off.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::control::{Begin, Control, Site, clock};
use super::disk::{Disk, Faults, WRITES_REMEMBERED};
use super::hooks::{pick, true_ns, trusts_the_disk};
use super::machine::Machine;
use crate::controller::Controller;
use crate::raft::Replica;
use crate::state::{ContainerId, NodeId, State};

/// Clocks are wrong by so many parts in a million at most: as `crate::lease` assumes.
const WRONG_PPM: u64 = 1000;

/// A machine, and what runs on it now.
pub struct Host {
    pub(super) site: Site,
    pub(super) control: Option<Control>,
    /// When its control, or all of it, begins again.
    pub(super) again: Option<Instant>,
    pub(super) is_off: bool,
    /// No control has run since it was switched on.
    pub(super) fresh: bool,
    /// Bits of its disk may flip.
    pub(super) is_unsound: bool,
    /// They have.
    pub(super) rots: bool,
}

impl Host {
    /// Switched off.
    pub fn new(site: Site) -> Self {
        Self {
            site,
            control: None,
            again: None,
            is_off: true,
            fresh: true,
            is_unsound: false,
            rots: false,
        }
    }

    /// Which node it is.
    pub fn node(&self) -> NodeId {
        self.site.node
    }

    /// The same machine with nothing on its disk, as another node.
    pub fn replaced(&self, node: NodeId) -> Self {
        let lease = self.site.lease.with_file_name(format!("lease-{node}"));
        Self::new(Site {
            node,
            machine: Machine::new(node, &self.site.truth),
            disk: Disk::default(),
            mark: Disk::default(),
            lease,
            clock: some_clock(),
            ..self.site.clone()
        })
    }

    /// Its machine.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.site.machine
    }

    /// This is wrong with its disk from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.site.disk.set_faults(faults);
    }

    /// What its API would ask, where it has one.
    pub fn controller(&self) -> Option<Controller> {
        self.control.as_ref()?.controller()
    }

    /// Its replica, where it has one.
    pub fn replica(&self) -> Option<Replica> {
        self.control.as_ref()?.replica()
    }

    /// It has power.
    pub fn is_on(&self) -> bool {
        !self.is_off
    }

    /// Its control begins.
    pub fn begin(&mut self, founds: bool) {
        if std::mem::take(&mut self.is_off) {
            self.site.clock = some_clock();
            self.fresh = true;
            // An error: it was never made. It is in RAM.
            let _ = std::fs::remove_file(&self.site.lease);
        }
        let booted = std::mem::take(&mut self.fresh);
        self.site
            .truth
            .note("begins control", &(self.site.node, booted));
        self.control = Some(Control::start(&self.site, Begin { founds, booted }));
        self.again = None;
    }

    /// Some bits of its disk flip. What was marked before is durable by then: a bit flips sometime, and not in the half minute in which that isn't.
    pub fn rot(&mut self) {
        self.site.truth.note("bits flip", &self.site.node);
        self.site.mark.settle();
        let kind = if trusts_the_disk() { 1 } else { pick(0..8) };
        match kind {
            0 => self.site.mark.flip(None),
            // Of the last commit, or of the head that says which is the last.
            1..4 => self.site.disk.flip(Some(6)),
            4..6 => self.site.disk.flip(Some(WRITES_REMEMBERED)),
            _ => (0..pick(1..100)).for_each(|_| self.site.disk.flip(None)),
        }
        self.rots = true;
    }

    /// Its control is killed, and begins again after a while.
    pub fn kill_control(&mut self, again: Duration) {
        if let Some(control) = self.control.take() {
            self.site.truth.note("kills control", &self.site.node);
            control.kill();
            self.again = Some(Instant::now() + again);
        }
    }

    /// Its power is lost, and comes back after a while.
    pub fn lose_power(&mut self, again: Duration) {
        self.site.truth.note("loses power", &self.site.node);
        if let Some(control) = self.control.take() {
            control.kill();
        }
        self.rots |= self.site.disk.lose_power(self.is_unsound);
        // A torn mark is one that is older, or none.
        self.site.mark.lose_power(true);
        self.site.machine.lose_power();
        self.is_off = true;
        self.again = Some(Instant::now() + again);
    }

    /// Whatever is off begins again now.
    pub fn come_back(&mut self) {
        if self.again.is_some() {
            self.again = Some(Instant::now());
        }
    }

    /// What lies here and should not, or doesn't and should.
    pub fn remains(&self, state: &State) -> Option<String> {
        let own: BTreeSet<ContainerId> = state.on_node(self.site.node).map(|it| it.id).collect();
        let stray = self.site.machine.present();
        let stray = stray.difference(&own).next();
        stray.map(|id| format!("{} has files on {}", id.short(), self.site.node))
    }
}

/// A machine's clock, that was switched on now.
pub fn some_clock() -> crate::lease::Clock {
    let wrong = pick(0..2 * WRONG_PPM) as i64 - WRONG_PPM as i64;
    clock(wrong, true_ns())
}
