//! The thread that runs one virtual CPU.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hearth_vmm_api::lease;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::bus::Bus;
use crate::gate::Gate;

/// Why the microVM is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The guest has ended itself: reset, power-off, or a triple fault, which is how `reboot=t` does it.
    PoweredOff,
    /// A virtual CPU can't go on.
    Failed(String),
}

/// What all virtual CPUs share with the rest of the monitor.
#[derive(Debug)]
pub struct Shared {
    /// Passed between any two runs.
    pub gate: Gate,
    /// Exits to this process.
    pub exits: AtomicU64,
    /// Readable once the microVM is over.
    pub ended: EventFd,
    /// The first reason counts.
    end: Mutex<Option<End>>,
}

impl Shared {
    /// For a gate that everything passes.
    pub fn new(gate: Gate) -> std::io::Result<Self> {
        let ended = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self {
            gate,
            exits: AtomicU64::new(0),
            ended,
            end: Mutex::new(None),
        })
    }

    /// Ends the microVM.
    pub fn finish(&self, end: End) {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(end);
        let _ = self.ended.write(1);
    }

    /// Why it has ended, if it has.
    pub fn end(&self) -> Option<End> {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Runs `vcpu` until the microVM is over. Signals only interrupt the guest; what follows from them is at the gate.
pub fn run(mut vcpu: VcpuFd, bus: &Bus, shared: &Arc<Shared>) {
    loop {
        if shared.gate.closed() {
            // An access to a device that the guest is in the middle of is completed when the CPU runs again: do that, and
            // nothing more, so that what the kernel holds is all there is.
            vcpu.set_kvm_immediate_exit(1);
            let _ = vcpu.run();
            vcpu.set_kvm_immediate_exit(0);
            shared.gate.pass();
        }
        let end = match vcpu.run() {
            Ok(exit) => {
                shared.exits.fetch_add(1, Ordering::Relaxed);
                serve(exit, bus)
            }
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {
                // The machine may have slept meanwhile, and longer than the lease.
                lease::end_if_over();
                None
            }
            Err(error) => Some(End::Failed(format!("KVM_RUN: {error}"))),
        };
        if let Some(end) = end {
            shared.finish(end);
            shared.gate.leave();
            return;
        }
    }
}

fn serve(exit: VcpuExit<'_>, bus: &Bus) -> Option<End> {
    match exit {
        VcpuExit::MmioRead(address, data) => bus.read(address, data),
        VcpuExit::MmioWrite(address, data) => bus.write(address, data),
        VcpuExit::IoIn(port, data) => bus.read_port(port, data),
        VcpuExit::IoOut(port, data) => {
            return bus.write_port(port, data).then_some(End::PoweredOff);
        }
        VcpuExit::Shutdown | VcpuExit::SystemEvent(..) => return Some(End::PoweredOff),
        VcpuExit::Intr | VcpuExit::Hlt => {}
        VcpuExit::FailEntry(reason, cpu) => {
            let text =
                format!("the processor refused to enter the guest (reason {reason:#x}, CPU {cpu})");
            return Some(End::Failed(text));
        }
        VcpuExit::InternalError => {
            return Some(End::Failed(
                "KVM gave up on an instruction of the guest".to_owned(),
            ));
        }
        other => {
            return Some(End::Failed(format!(
                "KVM left the guest for an unknown reason: {other:?}"
            )));
        }
    }
    None
}
