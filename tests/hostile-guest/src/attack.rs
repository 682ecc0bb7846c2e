//! What the guest does.
//!
//! Every device is set up as its driver would. Then, for ever: vsock buffers with room for a header only, while a connection has data;
//! requests to the balloon, for random numbers and of a disk that are a hundred times too large; chains that lead back to themselves, in the
//! queue and in an indirect table; a queue's registers changed while it is in use; an index that jumps. After each, the guest
//! waits until the device has used what it was given: a device that hangs, or that has given up, is noticed by the trial.

use crate::image::{FREE, Image};

/// The port that the trial connects to.
pub const PORT: u32 = 1024;
/// MiB of memory that the guest must have: the large requests lie inside it.
pub const MEMORY_MIB: u32 = 1536;
/// Bytes of each disk: the large read lies inside it.
pub const DISK_BYTES: u64 = 4 << 30;
/// Writes to registers, each an exit to the monitor, per round.
pub const EXITS_PER_ROUND: u64 = 4;

/// `bus::FIRST_DEVICE` and `REGISTERS_SIZE` of the monitor.
const REGISTERS: u64 = 0xd000_0000;
const REGISTERS_SIZE: u64 = 0x1000;

// Registers (virtio 1.2 section 4.2.2).
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SEL: u64 = 0x24;
const QUEUE_SEL: u64 = 0x30;
const QUEUE_NUM: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
const QUEUE_NOTIFY: u64 = 0x50;
const STATUS: u64 = 0x70;
const QUEUE_DESC: u64 = 0x80;
const QUEUE_DRIVER: u64 = 0x90;
const QUEUE_DEVICE: u64 = 0xa0;

/// ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK (virtio 1.2 section 2.1).
const STEPS: [u32; 4] = [1, 3, 11, 15];
const INDIRECT_DESC: u32 = 1 << 28;
const VERSION_1_IN_SECOND_PAGE: u32 = 1;

// Flags of a descriptor (virtio 1.2 section 2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Descriptors of every queue here.
const SIZE: u16 = 16;
/// A place that is memory, with a GiB behind it.
const LARGE: u64 = 256 << 20;
const GIB: u32 = 1 << 30;

type Descriptor = (u64, u32, u16, u16);

/// A queue in the guest's memory: descriptors, available ring, used ring.
#[derive(Clone, Copy)]
struct Queue {
    registers: u64,
    start: u64,
}

impl Queue {
    const SPACE: u64 = 0x1000;

    fn available(self) -> u64 {
        self.start + 0x400
    }

    fn available_index(self) -> u64 {
        self.available() + 2
    }

    fn used(self) -> u64 {
        self.start + 0x800
    }

    fn used_index(self) -> u64 {
        self.used() + 2
    }
}

/// Makes the image piece by piece.
struct Author {
    image: Image,
    /// What is free for queues and other data.
    free: u64,
}

impl Author {
    fn place(&mut self, bytes: &[u8]) -> u64 {
        let at = self.free;
        self.image.put(at, bytes);
        self.free = (at + bytes.len() as u64).next_multiple_of(16);
        at
    }

    fn table(&mut self, descriptors: &[Descriptor]) -> u64 {
        let bytes: Vec<u8> = descriptors
            .iter()
            .flat_map(|(address, length, flags, next)| {
                let mut bytes = address.to_le_bytes().to_vec();
                bytes.extend(length.to_le_bytes());
                bytes.extend(flags.to_le_bytes());
                bytes.extend(next.to_le_bytes());
                bytes
            })
            .collect();
        self.place(&bytes)
    }

    /// An indirect descriptor to a table of 65535 empty ones, all of them the first.
    fn endless(&mut self) -> Descriptor {
        let table = self.table(&[(LARGE, 0, NEXT, 0)]);
        (table, 16 * 65535, INDIRECT, 0)
    }

    /// Puts a queue into memory whose available ring goes through `heads` again and again, and leaves setting it up to
    /// [`Author::activate`].
    fn queue(&mut self, device: u64, descriptors: &[Descriptor], heads: &[u16]) -> Queue {
        let start = self.free.next_multiple_of(Queue::SPACE);
        self.free = start;
        self.table(descriptors);
        self.free = start + Queue::SPACE;
        let queue = Queue {
            registers: REGISTERS + device * REGISTERS_SIZE,
            start,
        };
        for (place, head) in (0..u64::from(SIZE)).zip(heads.iter().cycle()) {
            let at = queue.available() + 4 + 2 * place;
            self.image.put(at, &head.to_le_bytes());
        }
        queue
    }

    /// Brings a device up with queues at their indexes.
    fn activate(&mut self, queues: &[(u32, Queue)]) {
        let registers = queues[0].1.registers;
        let mut set = |register: u64, value: u32| self.image.store(registers + register, value);
        set(STATUS, STEPS[0]);
        set(STATUS, STEPS[1]);
        for (page, features) in [(0, INDIRECT_DESC), (1, VERSION_1_IN_SECOND_PAGE)] {
            set(DRIVER_FEATURES_SEL, page);
            set(DRIVER_FEATURES, features);
        }
        set(STATUS, STEPS[2]);
        for (index, queue) in queues {
            set(QUEUE_SEL, *index);
            set(QUEUE_NUM, SIZE.into());
            // The upper halves are zero from the beginning.
            set(QUEUE_DESC, queue.start as u32);
            set(QUEUE_DRIVER, queue.available() as u32);
            set(QUEUE_DEVICE, queue.used() as u32);
            set(QUEUE_READY, 1);
        }
        set(STATUS, STEPS[3]);
    }

    /// Makes `count` more chains available and says so.
    fn offer(&mut self, queue: Queue, count: u16) {
        self.image.add(queue.available_index(), count);
        self.image.store(queue.registers + QUEUE_NOTIFY, 0);
    }

    /// Waits until the device has used everything.
    fn settle(&mut self, queue: Queue) {
        self.image
            .wait_equal(queue.used_index(), queue.available_index());
    }

    /// The queue's registers as they would be set up for another one, which must change nothing.
    fn disturb(&mut self, queue: Queue) {
        for (register, value) in [
            (QUEUE_SEL, 0),
            (QUEUE_NUM, 64),
            (QUEUE_READY, 0),
            (QUEUE_DESC, 0),
        ] {
            self.image.store(queue.registers + register, value);
        }
    }
}

/// A vsock packet without payload: source, destination, operation.
fn packet(ports: (u32, u32), operation: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(3u64.to_le_bytes());
    bytes.extend(2u64.to_le_bytes());
    for word in [ports.0, ports.1, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(1u16.to_le_bytes());
    bytes.extend(operation.to_le_bytes());
    // No flags, a buffer of 64 KiB, nothing taken from it.
    for word in [0, 1u32 << 16, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

/// Bytes of a packet's header, and where in it the source and the destination port are (virtio 1.2 section 5.10.6).
const HEADER: u32 = 44;
const SOURCE_PORT: u64 = 16;
const DESTINATION_PORT: u64 = 20;
const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;

/// The guest as an ELF file, for a monitor with two disks, a network if `network` says so, and the devices that every monitor has.
pub fn elf(network: bool) -> Vec<u8> {
    let mut author = Author {
        image: Image::new(),
        free: FREE,
    };
    let vsock = 2 + u64::from(network);
    let (rng, balloon) = (vsock + 1, vsock + 2);
    let itself = |at: u16| (LARGE, 1, NEXT, at);

    // A read of 2000 MiB, all pieces in one place; a chain without end; one that ends, of nothing.
    let request = author.place(&[0; 16]);
    let mut read = vec![(request, 16, NEXT, 1)];
    read.extend((2..252).map(|next| (LARGE, 8 << 20, NEXT | WRITE, next)));
    read.push((LARGE, 1, WRITE, 0));
    let table = author.table(&read);
    let endless = author.endless();
    let read = (table, 16 * read.len() as u32, INDIRECT, 0);
    let disk = author.queue(0, &[read, endless, itself(2)], &[0, 1, 2]);
    author.activate(&[(0, disk)]);
    let jumping = author.queue(1, &[itself(0)], &[0]);
    author.activate(&[(0, jumping)]);
    let sending = network.then(|| {
        let sending = author.queue(2, &[endless, itself(1), (LARGE, GIB, 0, 0)], &[0, 1, 2]);
        author.activate(&[(1, sending)]);
        sending
    });
    let random = author.queue(
        rng,
        &[(LARGE, GIB, WRITE, 0), endless, itself(2)],
        &[0, 1, 2],
    );
    author.activate(&[(0, random)]);
    let inflate = author.queue(
        balloon,
        &[(LARGE, GIB, 0, 0), endless, itself(2)],
        &[0, 1, 2],
    );
    let report = author.queue(balloon, &[(LARGE, GIB, WRITE, 0), endless], &[0, 1]);
    author.activate(&[(0, inflate), (2, report)]);

    // A connection: knock, which is refused; take the request of the client that waits; answer it.
    let room = [author.place(&[0; 128]), author.place(&[0; 128])];
    let receive = author.queue(
        vsock,
        &[
            (room[0], 128, WRITE, 0),
            (room[1], 128, WRITE, 0),
            (LARGE, HEADER, WRITE, 0),
        ],
        &[0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2],
    );
    let knock = author.place(&packet((PORT, 1), REQUEST));
    let response = author.place(&packet((PORT, 0), RESPONSE));
    let transmit = author.queue(
        vsock,
        &[
            (knock, HEADER, 0, 0),
            (response, HEADER, 0, 0),
            endless,
            itself(3),
        ],
        &[0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3],
    );
    author.activate(&[(0, receive), (1, transmit)]);
    author.offer(receive, 2);
    author.offer(transmit, 1);
    author.settle(receive);
    author
        .image
        .copy(room[1] + SOURCE_PORT, response + DESTINATION_PORT);
    author.offer(transmit, 1);
    author.settle(transmit);
    // From here on there are neither buffers with room nor packets that mean anything.
    author.image.store(receive.available() + 4, 2 | 2 << 16);
    author.image.store(transmit.available() + 4, 2 | 3 << 16);

    let round = author.image.here();
    author.offer(receive, SIZE);
    author.settle(receive);
    let others = [transmit, inflate, report, random, disk];
    for queue in others.into_iter().chain(sending) {
        author.offer(queue, SIZE);
        author.settle(queue);
    }
    author.offer(jumping, 0x7fff);
    author.disturb(random);
    author.image.jump(round);
    author.image.elf()
}
