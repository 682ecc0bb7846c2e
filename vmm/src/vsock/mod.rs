//! virtio-vsock: streams between processes on the host and processes in the guest (virtio 1.2 section 5.10).
//!
//! Hybrid: on the host's side a Unix stream socket. A client connects, sends the guest's port as a little-endian `u32`, and from
//! then on its connection is the guest's stream, with half-close and back-pressure in both directions. The guest can't connect
//! to the host; its attempt is refused and counts as its knock, before which clients wait.
//!
//! [`packet`] knows the bytes, [`connection`] one stream, and this file who is who.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use vmm_sys_util::epoll::EventSet;

use self::connection::{Connection, Produced};
use self::packet::{GUEST_CID, HEADER, HOST_CID, Header, Operation, TYPE_STREAM};
use crate::events::Watcher;
use crate::virtio::chain::{self, Readable};
use crate::virtio::{Device, Rings, Token};

mod connection;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod packet;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// virtio 1.2 section 5.10.2. The third, for events, is never used: the guest's CID does not change.
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];

/// Connections at once. Beyond it clients wait in the listener's queue. Each costs a descriptor (see `crate::jail` for that limit) and,
/// where its client reads nothing, [`connection::BUFFER`] bytes that the guest has sent ahead: 32 MiB at the very most.
pub const MOST_CONNECTIONS: usize = 512;
/// Refusals that wait for room; a guest that provokes more than that and offers no buffers does not get the rest. The transmit queue
/// goes on being served meanwhile (virtio 1.2 section 5.10.6.1.2).
const MOST_REFUSALS: usize = 64;
/// Token of the listener; connections have their host port, which starts above.
const LISTENER: Token = 0;
/// First port on the host's side, far from any that means something to a guest.
const FIRST_PORT: u32 = 1 << 30;
/// Largest payload of a packet (Linux: `VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`).
const LARGEST_PAYLOAD: usize = 64 << 10;

/// The device.
#[derive(Debug)]
pub struct Vsock {
    listener: UnixListener,
    listening: bool,
    watcher: Watcher,
    /// Set once the guest has knocked, cleared when its driver goes.
    ready: Arc<AtomicBool>,
    connections: HashMap<u32, Connection>,
    next_port: u32,
    /// Host ports of connections that have something for the guest.
    sending: VecDeque<u32>,
    /// Packets that belong to no connection.
    refused: VecDeque<Header>,
    scratch: Vec<u8>,
    config: [u8; 8],
}

impl Vsock {
    /// A device whose clients come through `listener`. `ready` tells whether the guest has knocked.
    pub fn new(
        listener: UnixListener,
        ready: Arc<AtomicBool>,
        watcher: Watcher,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        watcher.add(&listener, LISTENER, EventSet::IN)?;
        Ok(Self {
            listener,
            listening: true,
            watcher,
            ready,
            connections: HashMap::new(),
            next_port: FIRST_PORT,
            sending: VecDeque::new(),
            refused: VecDeque::new(),
            scratch: vec![0; LARGEST_PAYLOAD],
            config: GUEST_CID.to_le_bytes(),
        })
    }

    fn knocked(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    fn accept(&mut self) {
        while self.connections.len() < MOST_CONNECTIONS {
            let Ok((stream, _)) = self.listener.accept() else {
                return;
            };
            let port = self.free_port();
            let Ok(connection) = Connection::new(stream, port, &self.watcher) else {
                continue;
            };
            self.connections.insert(port, connection);
        }
        self.listening = false;
        self.watcher.remove(&self.listener);
    }

    fn free_port(&mut self) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            if !self.connections.contains_key(&port) {
                return port;
            }
        }
    }

    /// Looks at a connection after something has happened to it.
    fn settle(&mut self, port: u32) {
        let knocked = self.knocked();
        let Some(connection) = self.connections.get_mut(&port) else {
            return;
        };
        if connection.finished() {
            self.watcher.remove(connection.stream());
            if connection.queued {
                // A guest that offers no buffers would never let it be taken out.
                self.sending.retain(|queued| *queued != port);
            }
            self.connections.remove(&port);
            if !self.listening {
                self.listening = self
                    .watcher
                    .add(&self.listener, LISTENER, EventSet::IN)
                    .is_ok();
            }
        } else if connection.has_packet_to_guest(knocked) && !connection.queued {
            connection.queued = true;
            self.sending.push_back(port);
        }
    }

    fn packet_from_guest(&mut self, header: &Header, payload: &[u8]) {
        // What is of an unknown type, or nobody's, is answered with a reset (virtio 1.2 section 5.10.6.4.2).
        if header.src_cid != GUEST_CID || header.dst_cid != HOST_CID || header.kind != TYPE_STREAM {
            self.refuse(header);
            return;
        }
        if header.operation == Operation::Request as u16 {
            // Nobody listens on the host (virtio 1.2 section 5.10.6.5).
            self.refuse(header);
            if !self.ready.swap(true, Ordering::Relaxed) {
                let ports: Vec<u32> = self.connections.keys().copied().collect();
                ports.into_iter().for_each(|port| self.settle(port));
            }
            return;
        }
        let port = header.dst_port;
        match self.connections.get_mut(&port) {
            Some(connection) if connection.guest_port() == Some(header.src_port) => {
                connection.packet_from_guest(header, payload, &self.watcher);
                self.settle(port);
            }
            _ => self.refuse(header),
        }
    }

    fn refuse(&mut self, header: &Header) {
        if header.operation != Operation::Reset as u16 && self.refused.len() < MOST_REFUSALS {
            self.refused.push_back(header.refusal());
        }
    }

    fn transmit(&mut self, rings: &mut Rings<'_>) {
        let memory = rings.memory();
        let mut payload = Vec::new();
        while let Some(chain) = rings.pop(TRANSMIT) {
            let head = chain.head_index();
            if let Ok((mut readable, _)) = chain::split(memory, chain)
                && let Some(header) = unpack(&mut readable, &mut payload)
            {
                self.packet_from_guest(&header, &payload);
            }
            rings.push(TRANSMIT, head, 0);
        }
    }

    fn receive(&mut self, rings: &mut Rings<'_>) {
        let memory = rings.memory();
        while !self.refused.is_empty() || !self.sending.is_empty() {
            let Some(chain) = rings.pop(RECEIVE) else {
                return;
            };
            let head = chain.head_index();
            let room = chain::split(memory, chain).map(|(_, room)| room);
            let Some((mut room, most)) = room.ok().and_then(|room| {
                let most = room
                    .len()
                    .checked_sub(HEADER as u64)
                    .filter(|most| *most > 0)?;
                Some((room, usize::try_from(most).ok()?.min(LARGEST_PAYLOAD)))
            }) else {
                // Not even a byte behind the header (virtio 1.2 section 5.10.6.4): no connection's data could go on. It goes back
                // empty, and a larger one may follow.
                rings.push(RECEIVE, head, 0);
                continue;
            };
            let Some((header, length)) = self.packet_to_guest(most) else {
                rings.put_back(RECEIVE);
                return;
            };
            let mut written = room.write_some(&header.to_bytes());
            written += room.write_some(&self.scratch[..length]);
            rings.push(RECEIVE, head, written as u32);
        }
    }

    /// The next packet for the guest, its payload in `scratch`, for which there is room for `most` bytes, at least one.
    fn packet_to_guest(&mut self, most: usize) -> Option<(Header, usize)> {
        if let Some(header) = self.refused.pop_front() {
            return Some((header, 0));
        }
        // Each is asked once: one that has nothing now, and is at the back again, is asked at the next event.
        for _ in 0..self.sending.len() {
            let port = self.sending.pop_front()?;
            let knocked = self.knocked();
            let Some(connection) = self.connections.get_mut(&port) else {
                continue;
            };
            connection.queued = false;
            let produced = connection.packet_to_guest(knocked, &mut self.scratch[..most]);
            // To the back of the queue, so that connections take turns.
            self.settle(port);
            if let Produced::Packet(header, length) = produced {
                return Some((header, length));
            }
        }
        None
    }
}

/// Takes a packet apart; none if it is cut short or too long.
fn unpack(packet: &mut Readable<'_>, payload: &mut Vec<u8>) -> Option<Header> {
    let mut bytes = [0; HEADER];
    packet.read_bytes(&mut bytes).ok()?;
    let header = Header::from_bytes(&bytes);
    let length = usize::try_from(header.length)
        .ok()
        .filter(|length| *length <= LARGEST_PAYLOAD)?;
    payload.resize(length, 0);
    packet.read_bytes(payload).ok()?;
    Some(header)
}

impl Device for Vsock {
    fn id(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn notified(&mut self, rings: &mut Rings<'_>) {
        self.transmit(rings);
        self.receive(rings);
    }

    fn ready(&mut self, token: Token, events: EventSet, rings: &mut Rings<'_>) {
        if token == LISTENER {
            self.accept();
            return;
        }
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.host_ready(events, &self.watcher);
            self.settle(token);
        }
        self.receive(rings);
    }

    fn reset(&mut self) {
        // Clients see the end of their stream: whoever was at the other end is gone. Those that the guest has not heard of wait
        // on: a driver resets its device first of all.
        let watcher = &self.watcher;
        self.connections.retain(|_, connection| {
            connection.queued = false;
            let waits = connection.waits();
            if !waits {
                watcher.remove(connection.stream());
            }
            waits
        });
        self.sending.clear();
        self.refused.clear();
        self.ready.store(false, Ordering::Relaxed);
        if !self.listening {
            self.listening = self
                .watcher
                .add(&self.listener, LISTENER, EventSet::IN)
                .is_ok();
        }
    }
}

#[cfg(test)]
mod tests;
