//! A guest that does to one device whatever a script says.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT,
    VRING_DESC_F_WRITE,
};
use vm_memory::{Bytes, GuestAddress};

use super::ROOM;
use super::script::Script;
use crate::memory::GuestMemory;
use crate::virtio::Device;
use crate::virtio::mmio::Transport;

/// Where the first queue lies; below are buffers.
const QUEUES: u64 = 0x8_0000;
/// What a queue has: descriptors, and from these offsets on the available and the used ring, and tables of indirect descriptors.
const SPACE: u64 = 0x1_0000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x4000;
const TABLES: u64 = 0x8000;
/// Apart from each other, so that requests don't write over each other.
const BUFFER: u64 = 0x1000;
const DESCRIPTOR: u64 = 16;

/// How the script's first byte asks the driver to begin.
const WITHOUT_EVENT_INDEX: u8 = 1;
const WITHOUT_INDIRECT: u8 = 2;
const WITHOUT_FEATURES: u8 = 4;

pub(super) struct Guest {
    pub(super) transport: Transport,
    memory: GuestMemory,
    queues: Vec<Queue>,
    buffers: u64,
}

#[derive(Default)]
struct Queue {
    size: u16,
    descriptors: u16,
    available: u16,
}

/// A descriptor's address, length and flags.
type Piece = (u64, u32, u32);

impl Guest {
    pub(super) fn new(device: impl Device + 'static, how: u8) -> Self {
        let queues = device.queue_sizes().len();
        let memory = crate::memory::create(1).expect(ROOM);
        let transport = Transport::new(Box::new(device), memory.clone()).expect(ROOM);
        let mut guest = Self {
            transport,
            memory,
            queues: (0..queues).map(|_| Queue::default()).collect(),
            buffers: 0,
        };
        guest.set_up(how);
        guest
    }

    fn put(&self, register: u32, value: u32) {
        self.transport.write(register.into(), &value.to_le_bytes());
    }

    fn get(&self, register: u32) -> u32 {
        let mut value = [0; 4];
        self.transport.read(register.into(), &mut value);
        u32::from_le_bytes(value)
    }

    /// As a driver begins.
    fn set_up(&mut self, how: u8) {
        self.put(VIRTIO_MMIO_STATUS, 0);
        let mut status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
        self.put(VIRTIO_MMIO_STATUS, status);
        let mut features = 0;
        for page in [1, 0] {
            self.put(VIRTIO_MMIO_DEVICE_FEATURES_SEL, page);
            features = features << 32 | u64::from(self.get(VIRTIO_MMIO_DEVICE_FEATURES));
        }
        let transports = 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;
        for (bit, without) in [
            (WITHOUT_EVENT_INDEX, 1 << VIRTIO_RING_F_EVENT_IDX),
            (WITHOUT_INDIRECT, 1 << VIRTIO_RING_F_INDIRECT_DESC),
            (WITHOUT_FEATURES, !(transports | 1 << VIRTIO_F_VERSION_1)),
        ] {
            if how & bit != 0 {
                features &= !without;
            }
        }
        for page in [0, 1] {
            self.put(VIRTIO_MMIO_DRIVER_FEATURES_SEL, page);
            let half = (features >> (32 * page)) as u32;
            self.put(VIRTIO_MMIO_DRIVER_FEATURES, half);
        }
        status |= VIRTIO_CONFIG_S_FEATURES_OK;
        self.put(VIRTIO_MMIO_STATUS, status);
        for index in 0..self.queues.len() {
            let start = QUEUES + SPACE * index as u64;
            // Flags and index of both rings.
            for ring in [AVAILABLE, USED] {
                self.memory
                    .write_obj(0u32, GuestAddress(start + ring))
                    .expect("queues lie in memory");
            }
            self.put(VIRTIO_MMIO_QUEUE_SEL, index as u32);
            let size = self.get(VIRTIO_MMIO_QUEUE_NUM_MAX);
            self.put(VIRTIO_MMIO_QUEUE_NUM, size);
            for (low, high, at) in [
                (
                    VIRTIO_MMIO_QUEUE_DESC_LOW,
                    VIRTIO_MMIO_QUEUE_DESC_HIGH,
                    start,
                ),
                (
                    VIRTIO_MMIO_QUEUE_AVAIL_LOW,
                    VIRTIO_MMIO_QUEUE_AVAIL_HIGH,
                    start + AVAILABLE,
                ),
                (
                    VIRTIO_MMIO_QUEUE_USED_LOW,
                    VIRTIO_MMIO_QUEUE_USED_HIGH,
                    start + USED,
                ),
            ] {
                self.put(low, at as u32);
                self.put(high, (at >> 32) as u32);
            }
            self.put(VIRTIO_MMIO_QUEUE_READY, 1);
            self.queues[index] = Queue {
                size: size as u16,
                ..Queue::default()
            };
        }
        self.put(VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
    }

    /// Does what the script says, `host` what it says of the device's other end.
    pub(super) fn play(
        &mut self,
        script: &mut Script<'_>,
        mut host: impl FnMut(&mut Self, &mut Script<'_>),
    ) {
        while let Some(step) = script.step() {
            match step % 10 {
                0 => {}
                1 => {
                    let queue = usize::from(script.byte());
                    let room = script.short();
                    let bytes = script.bytes();
                    self.request(queue, bytes, room.into());
                }
                2 => self.chain(script),
                3 => {
                    let register = u64::from(script.byte()) * 4;
                    self.transport.write(register, &script.word().to_le_bytes());
                }
                4 => {
                    let mut data = [0; 8];
                    let offset = u64::from(script.short() % 0x200);
                    let length = 1 << (script.byte() % 4);
                    self.transport.read(offset, &mut data[..length]);
                }
                5 => {
                    let offset = u64::from(VIRTIO_MMIO_CONFIG) + u64::from(script.byte());
                    let data = script.long().to_le_bytes();
                    let length = 1 << (script.byte() % 4);
                    self.transport.write(offset, &data[..length]);
                }
                6 => {
                    let at = SPACE * u64::from(script.byte() % 4) + u64::from(script.short());
                    // Beyond the last queue there is memory, too.
                    let _ = self
                        .memory
                        .write_obj(script.short(), GuestAddress(QUEUES + at));
                }
                7 => {
                    let at = u64::from(script.word() % (1 << 20));
                    let _ = self.memory.write(script.bytes(), GuestAddress(at));
                }
                8 => self.set_up(script.byte()),
                _ => host(self, script),
            }
            // Unless the driver forgets, or has more to say first.
            if step < 0x80 {
                self.transport.notified();
            }
        }
    }

    /// After all of it a driver that begins anew is served: a request on this queue comes back.
    pub(super) fn serves(&mut self, queue: usize, bytes: &[u8], room: u32) {
        self.set_up(0);
        self.request(queue, bytes, room);
        self.transport.notified();
        let at = QUEUES + SPACE * queue as u64 + USED + 2;
        let used: u16 = self
            .memory
            .read_obj(GuestAddress(at))
            .expect("queues lie in memory");
        assert_eq!(used, 1, "the device serves no driver any more");
    }

    /// An honest request: bytes to read, and room for some.
    pub(super) fn request(&mut self, queue: usize, bytes: &[u8], room: u32) {
        let at = BUFFER * (self.buffers % (QUEUES / BUFFER / 2));
        self.buffers += 1;
        self.memory
            .write_slice(bytes, GuestAddress(at))
            .expect("buffers lie in memory");
        let (front, back) = bytes.split_at(bytes.len().min(16));
        let mut pieces = vec![
            (at, front.len() as u32, 0),
            (at + front.len() as u64, back.len() as u32, 0),
        ];
        if room > 0 {
            // Reads of a disk end with a byte of their own.
            let last = at + QUEUES / 2;
            pieces.push((last, room - 1, VRING_DESC_F_WRITE));
            pieces.push((last + u64::from(room - 1), 1, VRING_DESC_F_WRITE));
        }
        pieces.retain(|(_, length, _)| *length > 0);
        self.offer(queue, &pieces);
    }

    /// Pieces that may lie anywhere, perhaps in a table of their own.
    fn chain(&mut self, script: &mut Script<'_>) {
        let queue = usize::from(script.byte());
        let kind = script.byte();
        let mut pieces = Vec::new();
        for _ in 0..=kind % 8 {
            let how = script.byte();
            let address = match how & 0x10 {
                0 => u64::from(script.short()) * 16,
                _ => script.long(),
            };
            let length = match how & 0x20 {
                0 => script.short().into(),
                _ => script.word(),
            };
            let flags = u32::from(how) & (VRING_DESC_F_WRITE | VRING_DESC_F_INDIRECT);
            pieces.push((address, length, flags));
        }
        if kind & 0x80 == 0 {
            self.offer(queue, &pieces);
        } else {
            let queue = queue % self.queues.len();
            let table = QUEUES + SPACE * queue as u64 + TABLES;
            self.link(table, 0, 256, &pieces);
            let length = pieces.len() as u64 * DESCRIPTOR;
            self.offer(queue, &[(table, length as u32, VRING_DESC_F_INDIRECT)]);
        }
    }

    fn offer(&mut self, queue: usize, pieces: &[Piece]) {
        let index = queue % self.queues.len();
        let start = QUEUES + SPACE * index as u64;
        let queue = &mut self.queues[index];
        let (size, head, available) = (queue.size.max(1), queue.descriptors, queue.available);
        queue.descriptors = head.wrapping_add(pieces.len() as u16) % size;
        queue.available = available.wrapping_add(1);
        self.link(start, head, size, pieces);
        let ring = start + AVAILABLE;
        let put = |value: u16, at: u64| {
            self.memory
                .write_obj(value, GuestAddress(at))
                .expect("queues lie in memory");
        };
        put(head, ring + 4 + 2 * u64::from(available % size));
        put(available.wrapping_add(1), ring + 2);
    }

    /// Writes a chain into a table of so many descriptors.
    fn link(&self, table: u64, head: u16, size: u16, pieces: &[Piece]) {
        for (number, (address, length, flags)) in (0u16..).zip(pieces) {
            let index = (head + number) % size;
            let last = usize::from(number) + 1 == pieces.len();
            let flags = flags | if last { 0 } else { VRING_DESC_F_NEXT };
            let mut descriptor = [0; DESCRIPTOR as usize];
            descriptor[..8].copy_from_slice(&address.to_le_bytes());
            descriptor[8..12].copy_from_slice(&length.to_le_bytes());
            descriptor[12..14].copy_from_slice(&(flags as u16).to_le_bytes());
            descriptor[14..].copy_from_slice(&((index + 1) % size).to_le_bytes());
            let at = table + DESCRIPTOR * u64::from(index);
            self.memory
                .write_slice(&descriptor, GuestAddress(at))
                .expect("tables lie in memory");
        }
    }
}
