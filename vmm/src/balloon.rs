//! virtio-balloon: memory that the guest does not need goes back to the host (virtio 1.2 section 5.5).
//!
//! What matters is free page reporting: the guest tells which ranges are free, and they are unmapped here. The balloon
//! proper works as well, but nobody asks for its inflation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::memory::{self, GuestMemory, PAGE};
use crate::virtio::chain::{self, Malformed, Readable, Writable};
use crate::virtio::{Device, Rings};
use crate::warnings::Warnings;

// Queues of features that are not offered don't exist (virtio 1.2 section 5.5.2), and Linux numbers those that do: reports come third.
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const REPORTING: usize = 2;
/// Linux has one request under way on each queue, of one descriptor or, in a report, 32.
const QUEUE_SIZES: [u16; 3] = [128, 128, 128];

/// virtio 1.2 section 5.5.3.
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_PAGE_REPORTING: u64 = 1 << 5;

/// Length of `num_pages` and `actual`, all of the configuration that is there without further features (virtio 1.2 section 5.5.4).
const CONFIG_LENGTH: usize = 8;
/// A page number is 32 bits wide and counts pages of 4 KiB, whatever the guest's are (virtio 1.2 section 5.5.6).
const NUMBER_LENGTH: usize = 4;
/// Page numbers in a request: what Linux sends at once (`VIRTIO_BALLOON_ARRAY_PFNS_MAX`). The specification sets no limit.
const MOST_NUMBERS: usize = 256;
/// Bytes in a report: Linux's 32 ranges (`PAGE_REPORTING_CAPACITY`) of the largest block that its allocator has, 4 MiB.
const LARGEST_REPORT: u64 = 32 * (4 << 20);

static WARNINGS: Warnings = Warnings::new("balloon");

/// A request that is not done, but acknowledged.
#[derive(Debug, thiserror::Error)]
enum Dropped {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("{0} bytes of page numbers in one request")]
    Numbers(u64),
    #[error("{0} bytes of free pages in one report")]
    Report(u64),
}

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

    /// Does what a chain of `queue` asks; returns how many bytes of memory it was about.
    fn serve(
        &self,
        memory: &GuestMemory,
        queue: usize,
        readable: &mut Readable<'_>,
        writable: &Writable<'_>,
    ) -> Result<u64, Dropped> {
        match queue {
            INFLATE => inflate(memory, readable),
            REPORTING => {
                let bytes = writable.len();
                if bytes > LARGEST_REPORT {
                    return Err(Dropped::Report(bytes));
                }
                let given = writable.pieces().map(memory::give_back).sum();
                self.reported_free.fetch_add(given, Ordering::Relaxed);
                Ok(bytes)
            }
            // Pages that the guest takes back are there when it touches them.
            _ => Ok(0),
        }
    }
}

/// Gives back the pages whose numbers are in a request.
fn inflate(memory: &GuestMemory, request: &mut Readable<'_>) -> Result<u64, Dropped> {
    let mut bytes = [0; MOST_NUMBERS * NUMBER_LENGTH];
    let length = request.len();
    let Some(bytes) = usize::try_from(length)
        .ok()
        .and_then(|length| bytes.get_mut(..length))
    else {
        return Err(Dropped::Numbers(length));
    };
    request.read_bytes(bytes)?;
    let mut numbers: Vec<u32> = bytes
        .as_chunks::<NUMBER_LENGTH>()
        .0
        .iter()
        .map(|number| u32::from_le_bytes(*number))
        .collect();
    let pages = numbers.len() as u64;
    for (first, count) in runs(&mut numbers) {
        // Numbers that are no memory, in part or as a whole, are the guest's mistake, and its own loss.
        for slice in memory
            .get_slices(GuestAddress(first * PAGE), (count * PAGE) as usize)
            .map_while(Result::ok)
        {
            memory::give_back(&slice);
        }
    }
    Ok(pages * PAGE)
}

/// Page numbers as runs of neighbours: the first of each, and how many.
fn runs(numbers: &mut [u32]) -> Vec<(u64, u64)> {
    numbers.sort_unstable();
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers.iter().map(|number| u64::from(*number)) {
        match runs.last_mut() {
            Some((first, count)) if number < *first + *count => {}
            Some((first, count)) if number == *first + *count => *count += 1,
            _ => runs.push((number, 1)),
        }
    }
    runs
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
        // Only `actual` is the driver's to write (virtio 1.2 section 5.5.6.1).
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
                let served = chain::split(memory, chain).map_err(Dropped::from).and_then(
                    |(mut readable, writable)| self.serve(memory, queue, &mut readable, &writable),
                );
                match served {
                    Ok(bytes) => rings.charge(queue, bytes),
                    Err(dropped) => WARNINGS.warn(&dropped),
                }
                // Acknowledged in any case (virtio 1.2 sections 5.5.6 and 5.5.6.7): the device may leave pages as they are.
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
    use crate::virtio::ring::{BYTES_PER_EVENT, Ring};
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

    /// Where a test's page numbers lie, and the first page whose number they hold.
    const NUMBERS: u64 = 0x1000;
    const FIRST_PAGE: u64 = 0x40;

    /// One request of so many page numbers, all of pages that hold ones; how many of these hold zeros afterwards.
    fn inflated(count: u64) -> usize {
        let memory = memory();
        let (pages, first) = (0x40u64, GuestAddress(FIRST_PAGE * PAGE));
        memory
            .write_slice(&vec![1; (pages * PAGE) as usize], first)
            .unwrap();
        let numbers: Vec<u8> = (0..count)
            .flat_map(|i| ((FIRST_PAGE + i % pages) as u32).to_le_bytes())
            .collect();
        memory.write_slice(&numbers, GuestAddress(NUMBERS)).unwrap();
        let mut rings = rings();
        let length = numbers.len() as u32;
        offer_at(
            &memory,
            &mut rings[INFLATE],
            0,
            &[vec![(NUMBERS, length, false)]],
        );
        Balloon::new(Arc::default()).notified(&mut Rings::new(&memory, &mut rings));
        assert_eq!(used(&memory, &rings[INFLATE]), [(0, 0)]);
        (0..pages)
            .filter(|page| {
                let at = GuestAddress((FIRST_PAGE + page) * PAGE);
                memory.read_obj::<u8>(at).unwrap() == 0
            })
            .count()
    }

    #[test]
    fn a_request_of_more_page_numbers_than_any_driver_sends_is_dropped() {
        assert_eq!(inflated(0), 0);
        assert_eq!(inflated(3), 3);
        assert_eq!(inflated(MOST_NUMBERS as u64), 0x40);
        assert_eq!(inflated(MOST_NUMBERS as u64 + 1), 0);
        assert_eq!(inflated(0x8000), 0);
    }

    #[test]
    fn a_report_of_more_than_any_driver_sends_is_dropped() {
        // A mebibyte for the queues and one to report, again and again: what is given back twice counts twice.
        let free = GuestAddress(1 << 30);
        let ranges = [(GuestAddress(0), 1 << 20), (free, 1 << 20)];
        let memory = GuestMemory::from_ranges(&ranges).unwrap();
        for (pieces, given) in [(1, 1 << 20), (128, 128 << 20), (129, 0)] {
            let mut rings = QUEUE_SIZES.map(|_| Ring::new(256));
            let chain = vec![(free.0, 1 << 20, true); pieces];
            offer_at(&memory, &mut rings[REPORTING], 2, &[chain]);
            let count = Arc::new(AtomicU64::new(0));
            Balloon::new(count.clone()).notified(&mut Rings::new(&memory, &mut rings));
            assert_eq!(count.load(Ordering::Relaxed), given, "{pieces}");
            assert_eq!(used(&memory, &rings[REPORTING]), [(0, 0)]);
        }
    }

    #[test]
    fn an_event_ends_after_a_bounded_piece_and_the_rest_follows() {
        let memory = memory();
        let mut rings = rings();
        // Below the queues.
        let chain = vec![(0, 0x4_0000, true)];
        let an_event = (BYTES_PER_EVENT / 0x4_0000) as usize;
        offer_at(
            &memory,
            &mut rings[REPORTING],
            2,
            &vec![chain; 2 * an_event + 1],
        );
        let mut balloon = Balloon::new(Arc::default());
        for done in [an_event, 2 * an_event, 2 * an_event + 1] {
            let mut event = Rings::new(&memory, &mut rings);
            balloon.notified(&mut event);
            assert_eq!(event.finish().again, done <= 2 * an_event);
            assert_eq!(used(&memory, &rings[REPORTING]).len(), done);
        }
    }

    proptest! {
        #[test]
        fn runs_hold_each_page_once_and_no_two_could_be_one(numbers in proptest::collection::vec(0..60u32, 0..40)) {
            let runs = runs(&mut numbers.clone());
            let held: Vec<u64> = runs.iter().flat_map(|(first, count)| *first..first + count).collect();
            let wanted: std::collections::BTreeSet<u64> = numbers.into_iter().map(u64::from).collect();
            prop_assert_eq!(held, wanted.into_iter().collect::<Vec<_>>());
            prop_assert!(runs.windows(2).all(|two| two[0].0 + two[0].1 < two[1].0));
        }

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
