//! A device's queues while it works on them.

use std::num::Wrapping;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};

use crate::memory::GuestMemory;

/// How many chains one queue may hand out per event: a driver that refills faster than the device drains must not
/// keep the thread from its other devices. Twice the largest queue, so that an honest driver never meets it.
const CHAINS_PER_EVENT: u32 = 512;

/// A chain of descriptors that the driver made available.
pub type Chain<'m> = DescriptorChain<&'m GuestMemory>;

/// One queue and what has happened to it during the current event.
#[derive(Debug)]
pub struct Ring {
    /// The queue as the driver has set it up.
    pub queue: Queue,
    handed_out: u32,
    used: bool,
    broken: bool,
}

impl Ring {
    /// A queue that the driver has not set up.
    pub fn new(size: u16) -> Self {
        // The sizes are the devices' own constants; a test makes every device.
        let queue = Queue::new(size).expect("queue sizes are powers of two below 32768");
        Self {
            queue,
            handed_out: 0,
            used: false,
            broken: false,
        }
    }
}

/// What a device may do with its queues and guest memory during one event.
#[derive(Debug)]
pub struct Rings<'m> {
    memory: &'m GuestMemory,
    rings: &'m mut [Ring],
}

/// What the transport has to do after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// The driver wants an interrupt for what was used.
    pub interrupt: bool,
    /// A queue was left with work in it: come back.
    pub again: bool,
    /// The driver has broken a queue's rules: the device needs a reset.
    pub broken: bool,
}

impl<'m> Rings<'m> {
    /// An event begins. Empty `rings`: the driver is not there.
    pub fn new(memory: &'m GuestMemory, rings: &'m mut [Ring]) -> Self {
        for ring in rings.iter_mut() {
            ring.handed_out = 0;
            ring.used = false;
        }
        Self { memory, rings }
    }

    /// Guest memory.
    pub fn memory(&self) -> &'m GuestMemory {
        self.memory
    }

    /// The driver is there and works.
    pub fn active(&self) -> bool {
        !self.rings.is_empty()
    }

    /// Next chain of queue `index`; none: the driver will notify when there is one.
    pub fn pop(&mut self, index: usize) -> Option<Chain<'m>> {
        let ring = self.rings.get_mut(index)?;
        if ring.broken || !ring.queue.ready() || ring.handed_out >= CHAINS_PER_EVENT {
            return None;
        }
        loop {
            match ring.queue.iter(self.memory) {
                Ok(mut available) => {
                    if let Some(chain) = available.next() {
                        ring.handed_out += 1;
                        return Some(chain);
                    }
                }
                Err(_) => {
                    ring.broken = true;
                    return None;
                }
            }
            match ring.queue.enable_notification(self.memory) {
                // Something came between looking and asking to be notified.
                Ok(true) if ring.handed_out < CHAINS_PER_EVENT => ring.handed_out += 1,
                Ok(_) => return None,
                Err(_) => {
                    ring.broken = true;
                    return None;
                }
            }
        }
    }

    /// Puts back the chain that `pop` returned last on this queue.
    pub fn put_back(&mut self, index: usize) {
        if let Some(ring) = self.rings.get_mut(index) {
            ring.queue.go_to_previous_position();
            ring.handed_out = ring.handed_out.saturating_sub(1);
        }
    }

    /// Returns a chain to the driver, `written` bytes of it filled.
    pub fn push(&mut self, index: usize, head: u16, written: u32) {
        let Some(ring) = self.rings.get_mut(index) else {
            return;
        };
        if ring.broken {
            return;
        }
        match ring.queue.add_used(self.memory, head, written) {
            Ok(()) => ring.used = true,
            Err(_) => ring.broken = true,
        }
    }

    /// Whether the driver has made chains available that have not been popped, without popping.
    pub fn available(&self, index: usize) -> bool {
        let Some(ring) = self.rings.get(index) else {
            return false;
        };
        let Ok(end) = ring
            .queue
            .avail_idx(self.memory, std::sync::atomic::Ordering::Acquire)
        else {
            return false;
        };
        !ring.broken && ring.queue.ready() && end != Wrapping(ring.queue.next_avail())
    }

    /// The event is over.
    pub fn finish(self) -> Outcome {
        let mut outcome = Outcome::default();
        for ring in self.rings {
            if ring.used && !ring.broken {
                match ring.queue.needs_notification(self.memory) {
                    Ok(wanted) => outcome.interrupt |= wanted,
                    Err(_) => ring.broken = true,
                }
            }
            outcome.again |= ring.handed_out >= CHAINS_PER_EVENT && !ring.broken;
            outcome.broken |= ring.broken;
        }
        outcome
    }
}
