//! One stream between a client on the host and a port of the guest.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::num::Wrapping;
use std::os::unix::net::UnixStream;

use vmm_sys_util::epoll::EventSet;

use super::packet::{Header, Operation, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::events::Watcher;

/// Bytes from the guest that may wait for a client: what the guest is told it may send ahead. Most go straight into the
/// client's socket, so this is a bound and not what is used.
pub(super) const BUFFER: u32 = 64 << 10;

const WATCHED: EventSet = EventSet::IN
    .union(EventSet::READ_HANG_UP)
    .union(EventSet::EDGE_TRIGGERED);

/// How far the connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The client's first four bytes, as far as they have come.
    Greeting { bytes: [u8; 4], got: usize },
    /// The guest is not yet asked.
    Waiting,
    /// The guest is asked.
    Requested,
    /// Bytes flow.
    Open,
    /// The guest knows of nothing (any more); what it has sent may still be on its way to the client.
    Draining,
    /// The client is let go.
    Over,
}

/// Outcome of [`Connection::packet_to_guest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Produced {
    /// A packet, with so many bytes of payload.
    Packet(Header, usize),
    /// There was nothing after all.
    Nothing,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    host_port: u32,
    guest_port: u32,
    phase: Phase,
    /// It is in the device's queue of those that have a packet for the guest.
    pub(super) queued: bool,
    /// The client may have sent something.
    readable: bool,
    /// The client has closed altogether.
    hung_up: bool,
    /// `SHUTDOWN_*`: what the client does no more, what of that the guest was told, and what the guest does no more.
    client_ended: u32,
    told: u32,
    guest_ended: u32,
    /// A reset is to be sent.
    reset: bool,
    /// The guest has asked how much it may send.
    asked_for_credit: bool,
    /// The guest was asked how much it takes, and has not said anything since.
    asking_for_credit: bool,
    /// What the guest has room for, what it has taken of that, and what was sent, all in bytes since the beginning.
    guest_buffer: u32,
    guest_forwarded: Wrapping<u32>,
    sent: Wrapping<u32>,
    /// What came from the guest, what of it has reached the client, and what of that the guest was told.
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    announced: Wrapping<u32>,
    /// Bytes that the client's socket did not take yet.
    backlog: VecDeque<u8>,
}

impl Connection {
    /// A client has connected.
    pub(super) fn new(stream: UnixStream, host_port: u32, watcher: &Watcher) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        watcher.add(&stream, host_port, WATCHED)?;
        Ok(Self {
            stream,
            host_port,
            guest_port: 0,
            phase: Phase::Greeting {
                bytes: [0; 4],
                got: 0,
            },
            queued: false,
            readable: false,
            hung_up: false,
            client_ended: 0,
            told: 0,
            guest_ended: 0,
            reset: false,
            asked_for_credit: false,
            asking_for_credit: false,
            guest_buffer: 0,
            guest_forwarded: Wrapping(0),
            sent: Wrapping(0),
            received: Wrapping(0),
            forwarded: Wrapping(0),
            announced: Wrapping(0),
            backlog: VecDeque::new(),
        })
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The guest's port, if the guest knows of this connection.
    pub(super) fn guest_port(&self) -> Option<u32> {
        matches!(self.phase, Phase::Requested | Phase::Open).then_some(self.guest_port)
    }

    /// The guest has not heard of it yet.
    pub(super) fn waits(&self) -> bool {
        matches!(self.phase, Phase::Greeting { .. } | Phase::Waiting)
    }

    /// Nothing more is to be done for either side.
    pub(super) fn finished(&self) -> bool {
        match self.phase {
            Phase::Over => !self.reset,
            Phase::Draining => !self.reset && self.backlog.is_empty(),
            Phase::Greeting { .. } | Phase::Waiting | Phase::Requested | Phase::Open => false,
        }
    }

    /// Bytes that the guest has room for: `buf_alloc - (tx_cnt - fwd_cnt)` (virtio 1.2 section 5.10.6.3).
    fn credit(&self) -> u32 {
        let under_way = (self.sent - self.guest_forwarded).0;
        self.guest_buffer.saturating_sub(under_way)
    }

    fn may_read(&self) -> bool {
        self.phase == Phase::Open
            && self.readable
            && self.client_ended & SHUTDOWN_SEND == 0
            && self.guest_ended & SHUTDOWN_RECEIVE == 0
    }

    /// The guest should hear that its bytes have gone, before it has to wait for that.
    fn owes_credit(&self) -> bool {
        self.phase == Phase::Open
            && (self.asked_for_credit || (self.forwarded - self.announced).0 >= BUFFER / 2)
    }

    /// Whether [`Connection::packet_to_guest`] is worth a call.
    pub(super) fn has_packet_to_guest(&self, knocked: bool) -> bool {
        self.reset
            || match self.phase {
                Phase::Greeting { .. } | Phase::Draining | Phase::Over | Phase::Requested => false,
                Phase::Waiting => knocked,
                Phase::Open => {
                    self.client_ended & !self.told != 0
                        || self.owes_credit()
                        || self.may_read() && (self.credit() > 0 || !self.asking_for_credit)
                }
            }
    }

    /// Makes the next packet for the guest, its payload in the front of `payload`, which isn't empty.
    pub(super) fn packet_to_guest(&mut self, knocked: bool, payload: &mut [u8]) -> Produced {
        if self.reset {
            self.reset = false;
            return self.packet(Operation::Reset);
        }
        match self.phase {
            Phase::Waiting if knocked => {
                self.phase = Phase::Requested;
                return self.packet(Operation::Request);
            }
            Phase::Open => {}
            _ => return Produced::Nothing,
        }
        if self.may_read() {
            // No more than the guest has said it has room for (virtio 1.2 section 5.10.6.3.2).
            let most = payload.len().min(self.credit() as usize);
            if most == 0 {
                if !self.asking_for_credit {
                    self.asking_for_credit = true;
                    return self.packet(Operation::CreditRequest);
                }
            } else if let Some(length) = self.read(&mut payload[..most]) {
                self.sent += length as u32;
                let Produced::Packet(mut header, _) = self.packet(Operation::ReadWrite) else {
                    return Produced::Nothing;
                };
                header.length = length as u32;
                return Produced::Packet(header, length);
            }
        }
        if self.client_ended & !self.told != 0 {
            self.told = self.client_ended;
            let Produced::Packet(mut header, _) = self.packet(Operation::Shutdown) else {
                return Produced::Nothing;
            };
            header.flags = self.told;
            return Produced::Packet(header, 0);
        }
        if self.owes_credit() {
            return self.packet(Operation::CreditUpdate);
        }
        Produced::Nothing
    }

    /// A packet without payload; every packet tells the guest how much it may send (virtio 1.2 section 5.10.6.3.2).
    fn packet(&mut self, operation: Operation) -> Produced {
        self.announced = self.forwarded;
        self.asked_for_credit = false;
        let header = Header {
            buffer: BUFFER,
            forwarded: self.forwarded.0,
            ..Header::to_guest(operation, self.host_port, self.guest_port)
        };
        Produced::Packet(header, 0)
    }

    /// Bytes from the client; none: not now, or never again.
    fn read(&mut self, to: &mut [u8]) -> Option<usize> {
        loop {
            match self.stream.read(to) {
                Ok(0) => {
                    self.end_of_client();
                    return None;
                }
                Ok(length) => return Some(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return None;
                }
                Err(_) => {
                    self.hung_up = true;
                    self.end_of_client();
                    return None;
                }
            }
        }
    }

    fn end_of_client(&mut self) {
        self.readable = false;
        self.client_ended |= SHUTDOWN_SEND;
        if self.hung_up {
            self.client_ended |= SHUTDOWN_RECEIVE;
        }
    }

    /// The client's socket is ready for something.
    pub(super) fn host_ready(&mut self, events: EventSet, watcher: &Watcher) {
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            self.hung_up = true;
            if self.client_ended & SHUTDOWN_SEND != 0 {
                self.client_ended |= SHUTDOWN_RECEIVE;
            }
        }
        if events.intersects(EventSet::IN | EventSet::READ_HANG_UP | EventSet::HANG_UP) {
            self.readable = true;
        }
        if events.contains(EventSet::OUT) {
            self.flush(watcher);
        }
        self.greet();
        let unheard = matches!(self.phase, Phase::Waiting | Phase::Requested) && self.hung_up;
        if unheard {
            // Nobody waits for the answer any more.
            self.reset = self.phase == Phase::Requested;
            self.phase = Phase::Over;
        }
    }

    /// Reads the port that the client wants.
    fn greet(&mut self) {
        while let Phase::Greeting { mut bytes, got } = self.phase {
            match self.stream.read(&mut bytes[got..]) {
                Ok(0) => self.phase = Phase::Over,
                Ok(more) if got + more == bytes.len() => {
                    self.guest_port = u32::from_le_bytes(bytes);
                    self.phase = Phase::Waiting;
                }
                Ok(more) => {
                    self.phase = Phase::Greeting {
                        bytes,
                        got: got + more,
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.phase = Phase::Over,
            }
        }
    }

    /// The guest has sent a packet for this connection.
    pub(super) fn packet_from_guest(&mut self, header: &Header, payload: &[u8], watcher: &Watcher) {
        self.guest_buffer = header.buffer;
        self.guest_forwarded = Wrapping(header.forwarded);
        self.asking_for_credit = false;
        match header.operation {
            op if op == Operation::Response as u16 && self.phase == Phase::Requested => {
                self.phase = Phase::Open;
            }
            op if op == Operation::Reset as u16 => {
                self.phase = if self.phase == Phase::Requested {
                    Phase::Over
                } else {
                    Phase::Draining
                };
            }
            _ if self.phase != Phase::Open => self.abort(),
            op if op == Operation::ReadWrite as u16 => self.take(payload, watcher),
            op if op == Operation::Shutdown as u16 => self.guest_ends(header.flags),
            op if op == Operation::CreditUpdate as u16 => {}
            op if op == Operation::CreditRequest as u16 => self.asked_for_credit = true,
            _ => self.abort(),
        }
    }

    /// The guest breaks the rules.
    fn abort(&mut self) {
        self.reset = true;
        self.phase = Phase::Over;
    }

    fn take(&mut self, payload: &[u8], watcher: &Watcher) {
        // The driver must not send more than there is room for (virtio 1.2 section 5.10.6.3.1).
        let ahead = (self.received - self.forwarded).0 as usize + payload.len();
        if ahead > BUFFER as usize || self.guest_ended & SHUTDOWN_SEND != 0 {
            self.abort();
            return;
        }
        self.received += payload.len() as u32;
        let mut rest = payload;
        if self.backlog.is_empty() {
            rest = &payload[self.write(payload)..];
        }
        if !rest.is_empty() {
            if self.backlog.is_empty() {
                let _ = watcher.change(&self.stream, self.host_port, WATCHED | EventSet::OUT);
            }
            self.backlog.extend(rest);
        }
    }

    /// Gives bytes to the client; returns how many it took. A client that takes no more at all takes everything.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() && self.client_ended & SHUTDOWN_RECEIVE == 0 {
            match self.stream.write(&bytes[done..]) {
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.forwarded += done as u32;
                    return done;
                }
                Err(_) => self.client_ended |= SHUTDOWN_RECEIVE,
            }
        }
        self.forwarded += bytes.len() as u32;
        bytes.len()
    }

    /// The client's socket takes bytes again.
    fn flush(&mut self, watcher: &Watcher) {
        if self.backlog.is_empty() {
            return;
        }
        let mut backlog = std::mem::take(&mut self.backlog);
        let (front, back) = backlog.as_slices();
        let mut done = self.write(front);
        if done == front.len() {
            done += self.write(back);
        }
        backlog.drain(..done);
        self.backlog = backlog;
        if self.backlog.is_empty() {
            self.backlog = VecDeque::new();
            let _ = watcher.change(&self.stream, self.host_port, WATCHED);
            self.pass_on_end();
        }
    }

    fn guest_ends(&mut self, flags: u32) {
        // Bits once set stay set (virtio 1.2 section 5.10.6.5).
        let new = flags & !self.guest_ended & (SHUTDOWN_SEND | SHUTDOWN_RECEIVE);
        self.guest_ended |= new;
        if new & SHUTDOWN_RECEIVE != 0 {
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        self.pass_on_end();
        if self.guest_ended == SHUTDOWN_SEND | SHUTDOWN_RECEIVE {
            // The guest waits for this before it forgets the connection (virtio 1.2 section 5.10.6.5, clean disconnect).
            self.reset = true;
            self.phase = Phase::Draining;
        }
    }

    /// Once the client has everything that the guest sent, it may know that this was all.
    fn pass_on_end(&mut self) {
        if self.guest_ended & SHUTDOWN_SEND != 0 && self.backlog.is_empty() {
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }
}
