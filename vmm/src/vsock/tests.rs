//! The vsock device between a driver and Unix sockets.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::Epoll;

use super::packet::{SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::*;
use crate::events::{self, Watcher};
use crate::virtio::ring::Ring;
use crate::virtio::testing::{any_descriptors, honest_descriptors, memory, offer_at, used};

const PORT: u32 = 1024;
const ROOM: u32 = 4096;

/// A device, and what is needed to drive it.
struct Bench {
    vsock: Vsock,
    epoll: Arc<Epoll>,
    path: std::path::PathBuf,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vsock.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let epoll = Arc::new(Epoll::new().unwrap());
        let watcher = Watcher::new(epoll.clone(), 0);
        let vsock = Vsock::new(listener, Arc::default(), watcher).unwrap();
        Self {
            vsock,
            epoll,
            path,
            _directory: directory,
        }
    }

    fn client(&self, port: u32) -> UnixStream {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        stream.write_all(&port.to_le_bytes()).unwrap();
        stream
    }

    /// Lets the device see all that has happened on the host, and the guest send `packets`; returns what it then receives.
    fn turn(&mut self, packets: &[(Header, Vec<u8>)]) -> Vec<(Header, Vec<u8>)> {
        let memory = memory();
        let mut rings = QUEUE_SIZES.map(Ring::new);
        let room: Vec<_> = (0..64)
            .map(|i| vec![(0x4_0000 + 0x1000 * i, ROOM + 44, true)])
            .collect();
        let mut chains = Vec::new();
        for (i, (header, payload)) in packets.iter().enumerate() {
            let at = 0x1000 * (i as u64 + 1);
            memory
                .write_slice(&header.to_bytes(), GuestAddress(at))
                .unwrap();
            memory.write_slice(payload, GuestAddress(at + 44)).unwrap();
            // In pieces of all sorts, as drivers do.
            let (first, rest) = (20 + i as u32, 24 - i as u32 + payload.len() as u32);
            let cut = rest / 2;
            let second = at + u64::from(first);
            let third = second + u64::from(cut);
            chains.push(vec![
                (at, first, false),
                (second, cut, false),
                (third, rest - cut, false),
            ]);
        }
        offer_at(&memory, &mut rings[RECEIVE], 0, &room);
        offer_at(&memory, &mut rings[TRANSMIT], 1, &chains);
        let mut ready = Vec::new();
        loop {
            events::wait(&self.epoll, false, &mut ready).unwrap();
            if ready.is_empty() {
                break;
            }
            for event in ready.drain(..) {
                self.vsock.ready(
                    event.token,
                    event.events,
                    &mut Rings::new(&memory, &mut rings),
                );
            }
        }
        self.vsock.notified(&mut Rings::new(&memory, &mut rings));
        assert_eq!(used(&memory, &rings[TRANSMIT]).len(), packets.len());
        let received = used(&memory, &rings[RECEIVE]);
        let read = |(head, length): (u32, u32)| {
            let mut bytes = vec![0; length as usize];
            let at = 0x4_0000 + 0x1000 * u64::from(head);
            memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            let payload = bytes.split_off(44);
            let header = Header::from_bytes(&bytes.try_into().unwrap());
            assert_eq!(header.length as usize, payload.len());
            (header, payload)
        };
        received.into_iter().map(read).collect()
    }

    /// Connects a client to a guest that has knocked; returns it and the connection's host port.
    fn connected(&mut self) -> (UnixStream, u32) {
        self.turn(&[(from_guest(Operation::Request, 1), vec![])]);
        let client = self.client(PORT);
        let received = self.turn(&[]);
        assert_eq!(operations(&received), [Operation::Request as u16]);
        let port = received[0].0.src_port;
        assert!(
            self.turn(&[(from_guest(Operation::Response, port), vec![])])
                .is_empty()
        );
        (client, port)
    }
}

fn from_guest(operation: Operation, host_port: u32) -> Header {
    let to = Header::to_guest(operation, PORT, host_port);
    Header {
        src_cid: GUEST_CID,
        dst_cid: HOST_CID,
        buffer: 1 << 16,
        ..to
    }
}

fn data(host_port: u32, payload: &[u8]) -> (Header, Vec<u8>) {
    let length = payload.len() as u32;
    (
        Header {
            length,
            ..from_guest(Operation::ReadWrite, host_port)
        },
        payload.to_vec(),
    )
}

fn operations(packets: &[(Header, Vec<u8>)]) -> Vec<u16> {
    packets.iter().map(|(header, _)| header.operation).collect()
}

#[test]
fn a_client_waits_for_the_knock_which_is_refused() {
    let mut bench = Bench::new();
    let _client = bench.client(PORT);
    assert!(bench.turn(&[]).is_empty());
    // What a driver does first.
    bench.vsock.reset();
    let received = bench.turn(&[(from_guest(Operation::Request, 1), vec![])]);
    assert_eq!(
        operations(&received),
        [Operation::Reset as u16, Operation::Request as u16]
    );
    assert_eq!((received[0].0.src_port, received[0].0.dst_port), (1, PORT));
    assert_eq!(received[1].0.dst_port, PORT);
    assert!(bench.vsock.ready.load(Ordering::Relaxed));
}

#[test]
fn a_client_that_the_guest_refuses_is_closed() {
    let mut bench = Bench::new();
    bench.turn(&[(from_guest(Operation::Request, 1), vec![])]);
    let mut client = bench.client(PORT);
    let port = bench.turn(&[])[0].0.src_port;
    assert!(
        bench
            .turn(&[(from_guest(Operation::Reset, port), vec![])])
            .is_empty()
    );
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert!(bench.vsock.connections.is_empty());
}

#[test]
fn bytes_flow_both_ways_and_ends_close_one_by_one() {
    let mut bench = Bench::new();
    let (mut client, port) = bench.connected();
    client.write_all(b"question").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let received = bench.turn(&[]);
    assert_eq!(
        operations(&received),
        [Operation::ReadWrite as u16, Operation::Shutdown as u16]
    );
    assert_eq!(received[0].1, b"question");
    assert_eq!(received[1].0.flags, SHUTDOWN_SEND);
    assert!(
        bench
            .turn(&[data(port, b"ans"), data(port, b"wer")])
            .is_empty()
    );
    let end = Header {
        flags: SHUTDOWN_SEND | SHUTDOWN_RECEIVE,
        ..from_guest(Operation::Shutdown, port)
    };
    let received = bench.turn(&[(end, vec![])]);
    assert_eq!(operations(&received), [Operation::Reset as u16]);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
    assert!(bench.vsock.connections.is_empty());
}

#[test]
fn the_guest_may_end_its_side_first() {
    let mut bench = Bench::new();
    let (mut client, port) = bench.connected();
    let end = Header {
        flags: SHUTDOWN_SEND,
        ..from_guest(Operation::Shutdown, port)
    };
    assert!(bench.turn(&[data(port, b"bye"), (end, vec![])]).is_empty());
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert_eq!(said, "bye");
    client.write_all(b"still here").unwrap();
    assert_eq!(bench.turn(&[])[0].1, b"still here");
    drop(client);
    let received = bench.turn(&[]);
    assert_eq!(operations(&received), [Operation::Shutdown as u16]);
    assert_eq!(received[0].0.flags, SHUTDOWN_SEND | SHUTDOWN_RECEIVE);
    bench.turn(&[(from_guest(Operation::Reset, port), vec![])]);
    assert!(bench.vsock.connections.is_empty());
}

#[test]
fn no_more_is_sent_than_the_guest_has_room_for() {
    let mut bench = Bench::new();
    let (mut client, port) = bench.connected();
    let small = Header {
        buffer: 10,
        ..from_guest(Operation::CreditUpdate, port)
    };
    bench.turn(&[(small, vec![])]);
    client.write_all(&[7; 25]).unwrap();
    let received = bench.turn(&[]);
    assert_eq!(received[0].1.len(), 10);
    assert_eq!(
        operations(&received),
        [Operation::ReadWrite as u16, Operation::CreditRequest as u16]
    );
    assert!(bench.turn(&[]).is_empty());
    let more = Header {
        forwarded: 10,
        ..small
    };
    let received = bench.turn(&[(more, vec![])]);
    assert_eq!(received[0].1.len(), 10);
    let more = Header {
        forwarded: 20,
        ..small
    };
    assert_eq!(bench.turn(&[(more, vec![])])[0].1.len(), 5);
}

#[test]
fn a_guest_that_sends_more_than_it_may_is_reset() {
    let mut bench = Bench::new();
    let (client, port) = bench.connected();
    // The client does not read: first its socket fills, then the backlog, then the guest is out of credit.
    let payload = vec![1; 32 << 10];
    let mut reset = false;
    for _ in 0..64 {
        let received = bench.turn(&[data(port, &payload)]);
        reset |= operations(&received).contains(&(Operation::Reset as u16));
    }
    assert!(reset);
    drop(client);
}

#[test]
fn a_slow_client_gets_everything_and_the_guest_its_credit_back() {
    let mut bench = Bench::new();
    let (mut client, port) = bench.connected();
    let (mut sent, mut granted, mut got) = (0u32, connection::BUFFER, Vec::new());
    let mut stalled = false;
    while sent < 1 << 20 {
        let size = 8192;
        let mut received = Vec::new();
        if granted.wrapping_sub(sent) >= size {
            received = bench.turn(&[data(port, &vec![sent as u8 ^ 3; size as usize])]);
            sent += size;
        } else {
            stalled = true;
            let mut bytes = vec![0; 1 << 16];
            let count = client.read(&mut bytes).unwrap();
            got.extend_from_slice(&bytes[..count]);
            received.extend(bench.turn(&[]));
        }
        for (header, _) in received {
            assert_ne!(header.operation, Operation::Reset as u16);
            granted = header.forwarded.wrapping_add(header.buffer);
        }
    }
    let end = Header {
        flags: SHUTDOWN_SEND,
        ..from_guest(Operation::Shutdown, port)
    };
    bench.turn(&[(end, vec![])]);
    client.set_nonblocking(true).unwrap();
    loop {
        let mut bytes = vec![0; 1 << 16];
        match client.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => got.extend_from_slice(&bytes[..count]),
            Err(_) => {
                bench.turn(&[]);
            }
        }
    }
    assert!(stalled);
    assert_eq!(got.len(), 1 << 20);
}

#[test]
fn clients_see_the_end_when_the_driver_goes() {
    let mut bench = Bench::new();
    let (mut client, _) = bench.connected();
    bench.vsock.reset();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert!(!bench.vsock.knocked());
}

/// Bench and client of a connection for which the client has written `bytes`, and the device knows.
fn with_data_waiting(bytes: &[u8]) -> (Bench, UnixStream) {
    let mut bench = Bench::new();
    let (mut client, _) = bench.connected();
    client.write_all(bytes).unwrap();
    let memory = memory();
    let mut ready = Vec::new();
    events::wait(&bench.epoll, false, &mut ready).unwrap();
    for event in ready.drain(..) {
        let mut none: [Ring; 0] = [];
        bench.vsock.ready(
            event.token,
            event.events,
            &mut Rings::new(&memory, &mut none),
        );
    }
    (bench, client)
}

#[test]
fn receive_buffers_without_room_for_data_end_no_later_than_others() {
    let (mut bench, _client) = with_data_waiting(b"data");
    let memory = memory();
    let mut rings = QUEUE_SIZES.map(Ring::new);
    let small = vec![vec![(0x1000, HEADER as u32, true)]; 100];
    offer_at(&memory, &mut rings[RECEIVE], 0, &small);
    bench.vsock.notified(&mut Rings::new(&memory, &mut rings));
    // All of them are back, with nothing in them, and the data has not suffered.
    let back = used(&memory, &rings[RECEIVE]);
    assert_eq!(back.len(), 100);
    assert!(back.iter().all(|(_, written)| *written == 0));
    let received = bench.turn(&[]);
    assert_eq!(operations(&received), [Operation::ReadWrite as u16]);
    assert_eq!(received[0].1, b"data");
}

#[test]
fn a_guest_that_offers_no_buffers_leaves_nothing_of_a_connection_behind() {
    let (mut bench, _client) = with_data_waiting(b"data");
    assert_eq!(bench.vsock.sending.len(), 1);
    let port = *bench.vsock.connections.keys().next().unwrap();
    bench
        .vsock
        .packet_from_guest(&from_guest(Operation::Reset, port), &[]);
    assert!(bench.vsock.connections.is_empty());
    assert!(bench.vsock.sending.is_empty());
}

fn any_packet() -> impl Strategy<Value = (Header, Vec<u8>)> {
    let cid = prop_oneof![8 => Just(GUEST_CID), 1 => any::<u64>()];
    let host_port = prop_oneof![4 => FIRST_PORT..FIRST_PORT + 3, 1 => any::<u32>()];
    let src_port = prop_oneof![4 => Just(PORT), 1 => any::<u32>()];
    let operation = prop_oneof![8 => 0..9u16, 1 => any::<u16>()];
    let payload = proptest::collection::vec(any::<u8>(), 0..100);
    let numbers = (
        0..5u32,
        prop_oneof![0..200u32, any::<u32>()],
        prop_oneof![0..200u32, any::<u32>()],
    );
    (cid, host_port, src_port, operation, payload, numbers).prop_map(
        |(src_cid, dst_port, src_port, operation, payload, (flags, buffer, forwarded))| {
            let header = Header {
                src_cid,
                dst_cid: HOST_CID,
                src_port,
                dst_port,
                length: payload.len() as u32,
                kind: TYPE_STREAM,
                operation,
                flags,
                buffer,
                forwarded,
            };
            (header, payload)
        },
    )
}

proptest! {
    #[test]
    fn any_packets_leave_the_device_working(
        packets in proptest::collection::vec(proptest::collection::vec(any_packet(), 1..4), 1..10),
    ) {
        let mut bench = Bench::new();
        let clients: Vec<_> = (0..3).map(|_| bench.client(PORT)).collect();
        for mut client in &clients {
            client.write_all(b"something to say").unwrap();
        }
        for packets in packets {
            let _ = bench.turn(&packets);
        }
        drop(clients);
        bench.vsock.reset();
        bench.connected();
    }

    #[test]
    fn receive_buffers_of_any_size_bring_all_data_in_order(
        sizes in proptest::collection::vec(prop_oneof![0..60u32, 0..200u32], 1..60),
        length in 1..3000usize,
    ) {
        let sent: Vec<u8> = (0..length).map(|i| i as u8).collect();
        let (mut bench, _client) = with_data_waiting(&sent);
        let memory = memory();
        let mut rings = QUEUE_SIZES.map(Ring::new);
        let place = |i: usize| 0x1000 + 0x100 * i as u64;
        let buffers: Vec<_> = sizes.iter().enumerate().map(|(i, size)| vec![(place(i), *size, true)]).collect();
        offer_at(&memory, &mut rings[RECEIVE], 0, &buffers);
        bench.vsock.notified(&mut Rings::new(&memory, &mut rings));
        let mut received = Vec::new();
        for (head, written) in used(&memory, &rings[RECEIVE]) {
            prop_assert!(written <= sizes[head as usize]);
            let mut bytes = vec![0; written as usize];
            memory.read_slice(&mut bytes, GuestAddress(place(head as usize))).unwrap();
            received.extend(bytes.into_iter().skip(HEADER));
        }
        received.extend(bench.turn(&[]).into_iter().flat_map(|(_, payload)| payload));
        prop_assert_eq!(received, sent);
    }

    #[test]
    fn any_descriptors_are_answered(
        wild in any_descriptors(), receive in honest_descriptors(), transmit in honest_descriptors(), fill: u8,
    ) {
        // Wild ones may point at the queues themselves; what is in them is then anybody's guess.
        for (receive, transmit, honest) in [(&wild, &wild, false), (&receive, &transmit, true)] {
            let memory = memory();
            memory.write_slice(&vec![fill; 0x8_0000], GuestAddress(0)).unwrap();
            let mut bench = Bench::new();
            let (mut client, _) = bench.connected();
            client.write_all(&[5; 1000]).unwrap();
            let mut rings = QUEUE_SIZES.map(Ring::new);
            offer_at(&memory, &mut rings[RECEIVE], 0, receive);
            offer_at(&memory, &mut rings[TRANSMIT], 1, transmit);
            bench.vsock.notified(&mut Rings::new(&memory, &mut rings));
            if honest {
                let offered = transmit.iter().filter(|chain| !chain.is_empty()).count();
                prop_assert_eq!(used(&memory, &rings[TRANSMIT]).len(), offered);
            }
        }
    }
}
