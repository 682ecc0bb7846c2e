//! A device's queues while it works on them: split virtqueues (virtio 1.2 section 2.7).

use std::num::Wrapping;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};

use crate::memory::GuestMemory;

/// Chains that one queue hands out per event: a driver that refills faster than the device drains must not keep the thread from
/// its other devices and from the command socket. Twice the largest queue, so that an honest driver never meets it.
const CHAINS_PER_EVENT: u32 = 512;
/// Bytes that a device moves, or gives back, for one queue per event: what a slow disk does in a tenth of a second. Once so many are
/// reached the rest waits for the next event, after everything else that is ready.
pub const BYTES_PER_EVENT: u64 = 8 << 20;

/// A chain of descriptors that the driver made available.
pub type Chain<'m> = DescriptorChain<&'m GuestMemory>;

/// One queue and what has happened to it during the current event.
#[derive(Debug)]
pub struct Ring {
    /// The queue as the driver has set it up.
    pub queue: Queue,
    handed_out: u32,
    /// Bytes that the device has charged.
    charged: u64,
    /// The device was refused a chain, since the event had taken long enough.
    cut_short: bool,
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
            charged: 0,
            cut_short: false,
            used: false,
            broken: false,
        }
    }

    /// The event has taken long enough.
    fn spent(&self) -> bool {
        self.handed_out >= CHAINS_PER_EVENT || self.charged >= BYTES_PER_EVENT
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
            ring.charged = 0;
            ring.cut_short = false;
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

    /// Next chain of queue `index`; none: the driver will notify when there is one, or the device is called again.
    pub fn pop(&mut self, index: usize) -> Option<Chain<'m>> {
        let ring = self.rings.get_mut(index)?;
        if ring.broken || !ring.queue.ready() {
            return None;
        }
        loop {
            if ring.spent() {
                ring.cut_short = true;
                return None;
            }
            match ring.queue.iter(self.memory) {
                Ok(mut available) => {
                    if let Some(chain) = available.next() {
                        ring.handed_out += 1;
                        return Some(chain);
                    }
                }
                // An index further ahead than the queue is long (virtio 1.2 section 2.7.6): no chain of it means anything.
                Err(_) => {
                    ring.broken = true;
                    return None;
                }
            }
            // Notifications are asked for before the last look (virtio 1.2 sections 2.7.7 and 2.7.10).
            match ring.queue.enable_notification(self.memory) {
                // Something came between looking and asking to be notified.
                Ok(true) => ring.handed_out += 1,
                Ok(false) => return None,
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

    /// Returns a chain to the driver, at least `written` bytes of it filled from the beginning of its writable part (virtio 1.2 section
    /// 2.7.8.2).
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

    /// The device has moved so many bytes, or done what takes as long, for this queue.
    pub fn charge(&mut self, index: usize, bytes: u64) {
        if let Some(ring) = self.rings.get_mut(index) {
            ring.charged = ring.charged.saturating_add(bytes);
        }
    }

    /// Whether there is a chain to be popped, without popping.
    pub fn available(&mut self, index: usize) -> bool {
        let Some(ring) = self.rings.get_mut(index) else {
            return false;
        };
        if ring.spent() {
            ring.cut_short = true;
            return false;
        }
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
            // Whether the driver wants to be told (virtio 1.2 section 2.7.7.2).
            if ring.used && !ring.broken {
                match ring.queue.needs_notification(self.memory) {
                    Ok(wanted) => outcome.interrupt |= wanted,
                    Err(_) => ring.broken = true,
                }
            }
            outcome.again |= ring.cut_short && !ring.broken;
            outcome.broken |= ring.broken;
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{memory, offer};
    use vm_memory::{Bytes, GuestAddress};

    /// A queue with `count` chains.
    fn queue(memory: &GuestMemory, count: usize) -> [Ring; 1] {
        let mut ring = [Ring::new(256)];
        offer(memory, &mut ring[0], &vec![vec![(0x1000, 1, true)]; count]);
        ring
    }

    #[test]
    fn a_driver_that_refills_its_queue_does_not_keep_the_device() {
        let memory = memory();
        let mut ring = queue(&memory, 256);
        let index = GuestAddress(ring[0].queue.avail_ring() + 2);
        let mut rings = Rings::new(&memory, &mut ring);
        let mut served = 0u16;
        while let Some(chain) = rings.pop(0) {
            rings.push(0, chain.head_index(), 0);
            served += 1;
            // At once there is another one.
            memory.write_obj(256 + served, index).unwrap();
        }
        assert_eq!(u32::from(served), CHAINS_PER_EVENT);
        assert!(rings.finish().again);
    }

    #[test]
    fn a_device_that_has_done_enough_gets_no_more_and_is_called_again() {
        let memory = memory();
        let mut ring = queue(&memory, 3);
        for left in [true, true, false] {
            let mut rings = Rings::new(&memory, &mut ring);
            assert!(rings.available(0));
            let chain = rings.pop(0).unwrap();
            rings.push(0, chain.head_index(), 0);
            rings.charge(0, BYTES_PER_EVENT - 1);
            assert_eq!(rings.available(0), left);
            rings.charge(0, 1);
            assert!(!rings.available(0));
            assert!(rings.pop(0).is_none());
            assert!(rings.finish().again);
        }
        let mut rings = Rings::new(&memory, &mut ring);
        assert!(rings.pop(0).is_none());
        assert!(!rings.finish().again);
    }

    #[test]
    fn what_was_put_back_since_the_event_had_to_end_is_come_back_for() {
        let memory = memory();
        let mut ring = queue(&memory, 2);
        let mut rings = Rings::new(&memory, &mut ring);
        assert!(rings.pop(0).is_some());
        rings.charge(0, BYTES_PER_EVENT);
        assert!(rings.pop(0).is_none());
        rings.put_back(0);
        assert!(rings.finish().again);
        assert_eq!(
            Rings::new(&memory, &mut ring).pop(0).unwrap().head_index(),
            0
        );
    }

    #[test]
    fn an_index_that_jumps_further_than_the_queue_is_long_breaks_the_queue() {
        let memory = memory();
        let mut ring = queue(&memory, 3);
        let index = GuestAddress(ring[0].queue.avail_ring() + 2);
        memory.write_obj(257u16, index).unwrap();
        let mut rings = Rings::new(&memory, &mut ring);
        assert!(rings.pop(0).is_none());
        let outcome = rings.finish();
        assert!(outcome.broken && !outcome.again);
    }
}
