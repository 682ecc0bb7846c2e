//! A driver for tests: offers descriptor chains, honest or not.

use proptest::prelude::*;
use virtio_bindings::virtio_ring::VRING_DESC_F_WRITE;
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::ring::Ring;
use crate::memory::GuestMemory;

/// Address, length, writable.
pub type Piece = (u64, u32, bool);

/// Where the `n`th queue of a test lies.
const QUEUES_START: u64 = 0x8_0000;
const QUEUE_SPACE: u64 = 0x1_0000;

/// One mebibyte.
pub fn memory() -> GuestMemory {
    crate::memory::create(1).unwrap()
}

/// Sets up `ring` (at queue place 0) with `chains` available.
pub fn offer(memory: &GuestMemory, ring: &mut Ring, chains: &[Vec<Piece>]) {
    offer_at(memory, ring, 0, chains);
}

/// Sets up `ring` as the `place`th queue with `chains` available; the queue starts anew.
pub fn offer_at(memory: &GuestMemory, ring: &mut Ring, place: u64, chains: &[Vec<Piece>]) {
    let start = QUEUES_START + place * QUEUE_SPACE;
    memory
        .write_slice(&vec![0; QUEUE_SPACE as usize], GuestAddress(start))
        .unwrap();
    let mock = MockSplitQueue::create(memory, GuestAddress(start), ring.queue.max_size().min(256));
    let mut queue: Queue = mock.create_queue().unwrap();
    // The mock's own place for it lies in the second half of a long available ring.
    let used = start + QUEUE_SPACE / 2;
    queue.set_used_ring_address(Some(used as u32), Some((used >> 32) as u32));
    std::mem::swap(&mut queue, &mut ring.queue);
    let mut offset = 0;
    for chain in chains {
        let descriptors: Vec<_> = chain
            .iter()
            .enumerate()
            .map(|(i, (address, length, writable))| {
                let last = i + 1 == chain.len();
                let flags = if last { 0 } else { 1 }
                    | if *writable {
                        VRING_DESC_F_WRITE as u16
                    } else {
                        0
                    };
                let next = if last { 0 } else { offset + i as u16 + 1 };
                RawDescriptor::from(Descriptor::new(*address, *length, flags, next))
            })
            .collect();
        if descriptors.is_empty()
            || usize::from(offset) + descriptors.len() > usize::from(ring.queue.size())
        {
            continue;
        }
        mock.add_desc_chains(&descriptors, offset).unwrap();
        offset += descriptors.len() as u16;
    }
}

/// What the device has returned on a queue set up by [`offer_at`]: head and bytes written.
pub fn used(memory: &GuestMemory, ring: &Ring) -> Vec<(u32, u32)> {
    let used = GuestAddress(ring.queue.used_ring());
    let count: u16 = memory.read_obj(GuestAddress(used.0 + 2)).unwrap();
    let entry = |i: u16| {
        let at = used.0 + 4 + 8 * u64::from(i);
        (
            memory.read_obj(GuestAddress(at)).unwrap(),
            memory.read_obj(GuestAddress(at + 4)).unwrap(),
        )
    };
    (0..count).map(entry).collect()
}

/// Chains of descriptors that point anywhere, mostly near or inside memory.
pub fn any_descriptors() -> impl Strategy<Value = Vec<Vec<Piece>>> {
    let address = prop_oneof![0..0x12_0000u64, any::<u64>()];
    let length = prop_oneof![0..0x300u32, 0..0x20_0000u32, any::<u32>()];
    let piece = (address, length, any::<bool>());
    proptest::collection::vec(proptest::collection::vec(piece, 1..5), 1..4)
}

/// Chains that begin with readable pieces inside the first half of memory and end with writable ones there.
pub fn honest_descriptors() -> impl Strategy<Value = Vec<Vec<Piece>>> {
    let piece = (0..0x7_0000u64, 0..0x1000u32);
    let pieces = || proptest::collection::vec(piece.clone(), 0..4);
    let chain = (pieces(), pieces()).prop_map(|(readable, writable)| {
        let with = |writable: bool| move |(at, length): (u64, u32)| (at, length, writable);
        readable
            .into_iter()
            .map(with(false))
            .chain(writable.into_iter().map(with(true)))
            .collect()
    });
    proptest::collection::vec(chain, 1..4)
}
