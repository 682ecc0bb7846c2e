//! virtio over memory-mapped registers: what every device shares.
//!
//! A device is a type that implements [`Device`] and knows nothing of KVM, of threads, or of its address. The
//! [`mmio::Transport`] around it speaks the register protocol with the guest's driver; [`ring::Rings`] hands it descriptor
//! chains, and [`chain`] turns those into memory that was checked once and is not looked up again.

use vmm_sys_util::epoll::EventSet;

pub mod chain;
pub mod interrupt;
pub mod mmio;
pub mod ring;
#[cfg(test)]
pub(crate) mod testing;

pub use ring::Rings;

/// Names one of a device's own file descriptors in an event; see [`crate::events::Watcher`].
pub type Token = u32;

/// A virtio device behind its transport.
///
/// All calls come with the transport's lock held, so one at a time. `notified` and `ready` come from the thread that runs
/// the device's events, the others from whichever virtual CPU touches a register. The order is: any number of
/// `features`, `config` and `write_config`; `activate` when the driver is done; `notified` and `ready` in any order; `reset` when the
/// driver starts anew, after which `activate` may follow again. `ready` is also called before `activate` and after `reset`
/// (rings are then empty), so that a device never loses an edge-triggered event.
pub trait Device: Send {
    /// The device's type, virtio 1.2 section 5.
    fn id(&self) -> u32;

    /// Features of this type of device that are offered; the transport adds its own.
    fn features(&self) -> u64;

    /// Largest size of each queue, powers of two.
    fn queue_sizes(&self) -> &'static [u16];

    /// Configuration space as it is now.
    fn config(&self) -> &[u8];

    /// The driver writes configuration space. Offset and length may be anything.
    fn write_config(&mut self, offset: usize, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver is there and has accepted these of the offered features.
    fn activate(&mut self, features: u64) {
        let _ = features;
    }

    /// The driver has said that some queue holds something new; which one is not known.
    fn notified(&mut self, rings: &mut Rings<'_>);

    /// One of the device's own descriptors is ready.
    fn ready(&mut self, token: Token, events: EventSet, rings: &mut Rings<'_>) {
        let _ = (token, events, rings);
    }

    /// The driver is gone: forget everything that concerns it.
    fn reset(&mut self);
}
