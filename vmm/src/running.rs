//! A microVM while it runs, as its main thread sees it: devices, commands, and the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use hearth_vmm_api::Description;
use vmm_sys_util::epoll::Epoll;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::Killable;

use crate::api::{Commands, Server};
use crate::events;
use crate::failure::{Failure, kick_signal};
use crate::vcpu::statistics::Exits;
use crate::vcpu::thread::{End, Shared};
use crate::worker::Worker;

/// Sources on the control epoll, which is listened to while paused as well: the command socket, and the end of the guest.
pub(crate) const API: u32 = 0;
pub(crate) const ENDED: u32 = 1;

/// A microVM whose threads run, as its main thread sees it.
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) exits: Vec<Exits>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) ready: Arc<AtomicBool>,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) since_ns: u64,
    pub(crate) reported_free: Arc<AtomicU64>,
    pub(crate) vcpus: Vec<JoinHandle<()>>,
    /// Brings the disks' thread out of its wait.
    pub(crate) disks: Option<EventFd>,
    pub(crate) stopped: bool,
}

impl Running {
    /// Serves devices and commands until the guest ends or is stopped.
    pub(crate) fn serve(
        &mut self,
        mut devices: Worker,
        mut api: Server,
        control: &Epoll,
    ) -> Result<(), Failure> {
        let failed = || Failure::system("waiting for events");
        let mut ready = Vec::new();
        loop {
            let paused = self.shared.gate.closed();
            if !paused && !devices.turn().map_err(failed())? {
                continue;
            }
            events::wait(control, paused, &mut ready).map_err(failed())?;
            for event in ready.drain(..) {
                match event.source {
                    API => api.ready(event.token, self),
                    _ => self.stopped |= self.shared.end() == Some(End::PoweredOff),
                }
            }
            match self.shared.end() {
                Some(End::Failed(reason)) => return Err(Failure::Guest(reason)),
                _ if self.stopped => return Ok(()),
                _ => {}
            }
        }
    }
}

impl Commands for Running {
    fn describe(&self) -> Description {
        Description {
            name: self.name.clone(),
            pid: std::process::id(),
            paused: self.shared.gate.closed(),
            ready: self.ready.load(Ordering::Relaxed),
            exits_to_monitor: self.shared.exits.load(Ordering::Relaxed),
            exits: self.exits.iter().map(Exits::count).sum(),
            running_since_ns: self.since_ns,
            reported_free: self.reported_free.load(Ordering::Relaxed),
        }
    }

    fn pause(&mut self) {
        self.shared.gate.close(|| {
            for vcpu in &self.vcpus {
                // A thread that has ended can't be reached and need not be.
                let _ = vcpu.kill(kick_signal());
            }
            if let Some(disks) = &self.disks {
                let _ = disks.write(1);
            }
        });
    }

    fn resume(&mut self) {
        self.shared.gate.open();
    }

    fn stop(&mut self) {
        self.stopped = true;
    }
}
