//! virtio-rng: entropy for the guest (virtio 1.2 section 5.4).

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use crate::virtio::{Device, Rings, chain};

/// virtio 1.2 section 5.4.2.
const QUEUE: usize = 0;
const QUEUE_SIZES: [u16; 1] = [64];
/// Bytes per request: more than Linux asks for at once, and little enough that a request can't hold up the other devices.
const MOST_AT_ONCE: usize = 4096;

/// The device. Its source is the host kernel's.
#[derive(Debug, Default)]
pub struct Rng;

impl Device for Rng {
    fn id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &[]
    }

    fn notified(&mut self, rings: &mut Rings<'_>) {
        let memory = rings.memory();
        while let Some(chain) = rings.pop(QUEUE) {
            let head = chain.head_index();
            let mut written = 0;
            if let Ok((_, mut room)) = chain::split(memory, chain) {
                let mut bytes = [0; MOST_AT_ONCE];
                let wanted = usize::try_from(room.len())
                    .unwrap_or(MOST_AT_ONCE)
                    .min(MOST_AT_ONCE);
                let flags = rustix::rand::GetRandomFlags::empty();
                let got = rustix::rand::getrandom(&mut bytes[..wanted], flags).unwrap_or(0);
                written = room.write_some(&bytes[..got]);
            }
            // Fewer bytes than there is room for are an answer too (virtio 1.2 section 5.4.6.2).
            rings.push(QUEUE, head, written as u32);
        }
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::ring::Ring;
    use crate::virtio::testing::{any_descriptors, honest_descriptors, memory, offer, used};
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn a_request_is_filled_and_no_more() {
        let memory = memory();
        let mut ring = [Ring::new(64)];
        offer(&memory, &mut ring[0], &[vec![(0x1000, 200, true)]]);
        Rng.notified(&mut Rings::new(&memory, &mut ring));
        assert_eq!(used(&memory, &ring[0]), [(0, 200)]);
        let mut bytes = [0; 300];
        memory.read_slice(&mut bytes, GuestAddress(0x1000)).unwrap();
        assert!(bytes[..200].iter().any(|byte| *byte != 0));
        assert!(bytes[200..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_request_for_any_number_of_bytes_gets_a_page_at_most() {
        let memory = memory();
        let mut ring = [Ring::new(64)];
        offer(&memory, &mut ring[0], &[vec![(0, 0x4_0000, true); 60]]);
        Rng.notified(&mut Rings::new(&memory, &mut ring));
        assert_eq!(used(&memory, &ring[0]), [(0, MOST_AT_ONCE as u32)]);
    }

    proptest! {
        #[test]
        fn any_request_is_answered(wild in any_descriptors(), honest in honest_descriptors()) {
            let memory = memory();
            let mut ring = [Ring::new(64)];
            // Some of these point at the queue itself; what is in it is then anybody's guess.
            offer(&memory, &mut ring[0], &wild);
            Rng.notified(&mut Rings::new(&memory, &mut ring));
            let mut ring = [Ring::new(64)];
            offer(&memory, &mut ring[0], &honest);
            let offered = honest.iter().filter(|chain| !chain.is_empty()).count();
            Rng.notified(&mut Rings::new(&memory, &mut ring));
            prop_assert_eq!(used(&memory, &ring[0]).len(), offered);
        }
    }
}
