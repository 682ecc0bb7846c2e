//! virtio-balloon: memory that the guest does not need goes back to the host (virtio 1.2 section 5.5).
//!
//! What matters is free page reporting: the guest tells which ranges are free, and they are unmapped here. The balloon
//! proper works as well, but nobody asks for its inflation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::memory::{self, GuestMemory, PAGE};
use crate::virtio::chain::{self, Readable, Writable};
use crate::virtio::{Device, Rings};

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
/// Third, as neither statistics nor free page hints are offered.
const REPORTING: usize = 2;
/// Linux reports 32 ranges a chain, two pages' worth of page numbers otherwise.
const QUEUE_SIZES: [u16; 3] = [128, 128, 128];

/// virtio 1.2 section 5.5.3.
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_PAGE_REPORTING: u64 = 1 << 5;

/// Length of `num_pages` and `actual`, all of the configuration that is there without further features.
const CONFIG_LENGTH: usize = 8;
/// Page numbers are those of 4 KiB pages (section 5.5.6).
const NUMBER_LENGTH: usize = 4;

/// The device.
#[derive(Debug)]
pub struct Balloon {
    config: [u8; CONFIG_LENGTH],
    reported_free: Arc<AtomicU64>,
}

impl Balloon {
    /// A balloon that adds to `reported_free` what bytes it gives back.
    pub fn new(reported_free: Arc<AtomicU64>) -> Self {
        Self {
            config: [0; CONFIG_LENGTH],
            reported_free,
        }
    }

    fn inflate(memory: &GuestMemory, numbers: &mut Readable<'_>) {
        let mut number = [0; NUMBER_LENGTH];
        while numbers.read_bytes(&mut number).is_ok() {
            let page = u64::from(u32::from_le_bytes(number));
            if let Ok(slice) = memory.get_slice(GuestAddress(page * PAGE), PAGE as usize) {
                memory::give_back(&slice);
            }
        }
    }

    fn report(ranges: &Writable<'_>) -> u64 {
        ranges.pieces().map(memory::give_back).sum()
    }
}

impl Device for Balloon {
    fn id(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn features(&self) -> u64 {
        F_DEFLATE_ON_OOM | F_PAGE_REPORTING
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        // Only `actual` is the driver's to write.
        let end = offset.saturating_add(data.len());
        if offset >= CONFIG_LENGTH / 2 && end <= CONFIG_LENGTH {
            self.config[offset..end].copy_from_slice(data);
        }
    }

    fn notified(&mut self, rings: &mut Rings<'_>) {
        let memory = rings.memory();
        for queue in [INFLATE, DEFLATE, REPORTING] {
            while let Some(chain) = rings.pop(queue) {
                let head = chain.head_index();
                if let Ok((mut readable, writable)) = chain::split(memory, chain) {
                    match queue {
                        INFLATE => Self::inflate(memory, &mut readable),
                        REPORTING => {
                            let given = Self::report(&writable);
                            self.reported_free.fetch_add(given, Ordering::Relaxed);
                        }
                        // Pages that the guest takes back are there when it touches them.
                        _ => {}
                    }
                }
                rings.push(queue, head, 0);
            }
        }
    }

    fn reset(&mut self) {
        self.config = [0; CONFIG_LENGTH];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::ring::Ring;
    use crate::virtio::testing::{any_descriptors, memory, offer_at, used};
    use proptest::prelude::*;
    use vm_memory::Bytes;

    fn rings() -> [Ring; 3] {
        QUEUE_SIZES.map(Ring::new)
    }

    #[test]
    fn a_reported_range_is_given_back_and_counted() {
        let memory = memory();
        memory
            .write_slice(&[1; 0x4000], GuestAddress(0x1000))
            .unwrap();
        let count = Arc::new(AtomicU64::new(0));
        let mut rings = rings();
        offer_at(
            &memory,
            &mut rings[REPORTING],
            2,
            &[vec![(0x2000, 0x2000, true)]],
        );
        Balloon::new(count.clone()).notified(&mut Rings::new(&memory, &mut rings));
        assert_eq!(count.load(Ordering::Relaxed), 0x2000);
        assert_eq!(used(&memory, &rings[REPORTING]), [(0, 0)]);
        let at = |address| memory.read_obj::<u8>(GuestAddress(address)).unwrap();
        assert_eq!(
            [at(0x1fff), at(0x2000), at(0x3fff), at(0x4000)],
            [1, 0, 0, 1]
        );
    }

    proptest! {
        #[test]
        fn any_request_is_answered(
            inflate in any_descriptors(), deflate in any_descriptors(), report in any_descriptors(),
        ) {
            let memory = memory();
            let mut rings = rings();
            for (queue, chains) in [&inflate, &deflate, &report].into_iter().enumerate() {
                offer_at(&memory, &mut rings[queue], queue as u64, chains);
            }
            // What the guest reports may well be its own queues: they are gone then, and nothing else happens.
            Balloon::new(Arc::default()).notified(&mut Rings::new(&memory, &mut rings));
        }

        #[test]
        fn any_write_to_configuration_space_is_harmless(offset in any::<usize>(), data in proptest::collection::vec(any::<u8>(), 0..9)) {
            let mut balloon = Balloon::new(Arc::default());
            balloon.write_config(offset, &data);
            prop_assert_eq!(&balloon.config()[..4], &[0; 4]);
        }
    }
}
