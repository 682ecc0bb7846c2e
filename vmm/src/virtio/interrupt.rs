//! A device's interrupt line.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// The interrupt status register (virtio 1.2 sections 4.2.2 and 4.2.2.1: a bit stays until the driver acknowledges it) and the event that KVM turns into an interrupt (irqfd).
///
/// Apart from the transport's lock: a virtual CPU that serves an interrupt must not wait for a device that is busy.
#[derive(Debug)]
pub struct Interrupt {
    status: AtomicU32,
    event: EventFd,
}

impl Interrupt {
    /// An interrupt that nobody has asked for yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            status: AtomicU32::new(0),
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }

    /// What is to be registered as irqfd.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// The register's value.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// The driver has seen these bits.
    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// The device starts anew.
    pub fn clear(&self) {
        self.status.store(0, Ordering::SeqCst);
    }

    /// Some queue has used buffers.
    pub fn queue_used(&self) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    /// Configuration space or status changed.
    pub fn config_changed(&self) {
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    fn raise(&self, bit: u32) {
        self.status.fetch_or(bit, Ordering::SeqCst);
        // Fails only when the counter is full, and then an interrupt is on its way already.
        let _ = self.event.write(1);
    }
}
