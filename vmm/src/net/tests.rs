//! The network device between a driver and a queue of packets, both made up.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, RawFd};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory::GuestMemory;
use crate::virtio::ring::Ring;
use crate::virtio::testing::{any_descriptors, honest_descriptors, memory, offer_at, used};

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Packets in memory, with an event to be watched.
struct Fake {
    event: vmm_sys_util::eventfd::EventFd,
    sent: Vec<Vec<u8>>,
    waiting: VecDeque<Vec<u8>>,
}

impl AsRawFd for Fake {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

impl Packets for Fake {
    fn offloads(&self) -> u64 {
        0
    }
    fn set_offloads(&mut self, _features: u64) {}
    fn send(&mut self, header: &[u8], packet: &[u8]) -> io::Result<()> {
        assert_eq!(header.len(), HEADER);
        self.sent.push(packet.to_vec());
        Ok(())
    }
    fn receive(&mut self, header: &mut [u8], packet: &mut [u8]) -> Received {
        let Some(next) = self.waiting.pop_front() else {
            return Received::Nothing;
        };
        header.fill(0);
        packet[..next.len()].copy_from_slice(&next);
        Received::Packet(next.len())
    }
}

fn device(waiting: Vec<Vec<u8>>) -> Net<Fake> {
    let network = Network {
        tun: -1,
        mac: MAC,
        gateway_mac: GATEWAY_MAC,
        gateway: vec![GATEWAY.into(), GATEWAY6.into()],
        addresses: vec![GUEST.into(), GUEST6.into()],
        mtu: 1500,
    };
    let event = vmm_sys_util::eventfd::EventFd::new(0).unwrap();
    let fake = Fake {
        event,
        sent: Vec::new(),
        waiting: waiting.into(),
    };
    let mut net = Net::new(&network, fake, &Watcher::detached()).unwrap();
    net.activate(1 << VIRTIO_NET_F_MRG_RXBUF);
    net
}

fn rings() -> [Ring; 2] {
    QUEUE_SIZES.map(Ring::new)
}

fn ethernet(to: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &MAC, &kind.to_be_bytes(), payload].concat()
}

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// Has the guest send frames; returns the packets that came out, and the frames that came back.
fn exchange(net: &mut Net<Fake>, frames: &[Vec<u8>]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let memory = memory();
    let mut rings = rings();
    let mut chains = Vec::new();
    for (i, frame) in frames.iter().enumerate() {
        let at = 0x1000 + 0x1000 * i as u64;
        memory.write_slice(&[0; HEADER], GuestAddress(at)).unwrap();
        memory
            .write_slice(frame, GuestAddress(at + HEADER as u64))
            .unwrap();
        chains.push(vec![(at, (HEADER + frame.len()) as u32, false)]);
    }
    offer_at(&memory, &mut rings[TRANSMIT], 1, &chains);
    let room: Vec<_> = (0..16)
        .map(|i| vec![(0x2_0000 + 0x1000 * i, 0x100, true)])
        .collect();
    offer_at(&memory, &mut rings[RECEIVE], 0, &room);
    net.notified(&mut Rings::new(&memory, &mut rings));
    assert_eq!(used(&memory, &rings[TRANSMIT]).len(), frames.len());
    (
        std::mem::take(&mut net.packets.sent),
        received(&memory, &rings[RECEIVE]),
    )
}

/// Frames in the receive buffers as `exchange` offers them, joined as their headers say.
fn received(memory: &GuestMemory, ring: &Ring) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut buffers = used(memory, ring).into_iter();
    while let Some((head, length)) = buffers.next() {
        let read = |head: u32, length: u32| {
            let mut bytes = vec![0; length as usize];
            let at = 0x2_0000 + 0x1000 * u64::from(head);
            memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            bytes
        };
        let mut frame = read(head, length);
        let count = u16::from_le_bytes([frame[10], frame[11]]);
        for _ in 1..count {
            let (head, length) = buffers.next().unwrap();
            frame.extend(read(head, length));
        }
        frames.push(frame.split_off(HEADER));
    }
    frames
}

#[test]
fn a_packet_from_the_guests_address_goes_out_without_ethernet() {
    let packet = ipv4(GUEST, Ipv4Addr::new(1, 1, 1, 1), b"hello");
    let frame = ethernet(GATEWAY_MAC, 0x0800, &packet);
    assert_eq!(
        exchange(&mut device(vec![]), &[frame]),
        (vec![packet], vec![])
    );
}

#[test]
fn a_packet_from_a_foreign_address_goes_nowhere() {
    let packet = ipv4(
        Ipv4Addr::new(10, 88, 0, 3),
        Ipv4Addr::new(1, 1, 1, 1),
        b"hello",
    );
    let frame = ethernet(GATEWAY_MAC, 0x0800, &packet);
    assert_eq!(exchange(&mut device(vec![]), &[frame]), (vec![], vec![]));
}

#[test]
fn the_gateway_answers_arp_for_itself_only() {
    let ask = |wanted: Ipv4Addr| {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
        arp.extend(MAC);
        arp.extend(GUEST.octets());
        arp.extend([0; 6]);
        arp.extend(wanted.octets());
        ethernet([0xff; 6], 0x0806, &arp)
    };
    let (_, replies) = exchange(
        &mut device(vec![]),
        &[ask(Ipv4Addr::new(10, 88, 0, 9)), ask(GATEWAY)],
    );
    assert_eq!(replies.len(), 1);
    assert_eq!(replies[0][..6], MAC);
    assert_eq!(replies[0][6..12], GATEWAY_MAC);
    assert_eq!(replies[0][20..22], [0, 2]);
    assert_eq!(replies[0][22..28], GATEWAY_MAC);
    assert_eq!(replies[0][28..32], GATEWAY.octets());
    assert_eq!(replies[0][38..42], GUEST.octets());
}

#[test]
fn the_gateway_answers_neighbour_solicitations() {
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{Icmpv6Packet, Icmpv6Repr, Ipv6Packet, NdiscRepr};
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(GATEWAY6.octets());
    let mut packet = vec![0x60, 0, 0, 0, 0, message.len() as u8, 58, 255];
    packet.extend(GUEST6.octets());
    packet.extend(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1).octets());
    packet.extend(message);
    let frame = ethernet([0x33, 0x33, 0xff, 0, 0, 1], 0x86dd, &packet);
    let (sent, replies) = exchange(&mut device(vec![]), &[frame]);
    assert!(sent.is_empty());
    let ip = Ipv6Packet::new_checked(&replies[0][ETHERNET..]).unwrap();
    assert_eq!((ip.src_addr(), ip.dst_addr()), (GATEWAY6, GUEST6));
    let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
    let sums = ChecksumCapabilities::default();
    let advert = Icmpv6Repr::parse(&GATEWAY6, &GUEST6, &icmp, &sums).unwrap();
    assert!(matches!(
        advert,
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
            target_addr: GATEWAY6,
            lladdr: Some(_),
            ..
        })
    ));
}

#[test]
fn packets_for_the_guest_arrive_and_others_do_not() {
    let mine = ipv4(Ipv4Addr::new(1, 1, 1, 1), GUEST, b"for you");
    let other = ipv4(
        Ipv4Addr::new(1, 1, 1, 1),
        Ipv4Addr::new(10, 88, 0, 3),
        b"not for you",
    );
    let (_, frames) = exchange(
        &mut device(vec![other, mine.clone(), vec![], vec![0x45]]),
        &[],
    );
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0][..6], MAC);
    assert_eq!(frames[0][ETHERNET..], mine);
}

#[test]
fn a_packet_larger_than_a_buffer_is_spread_and_one_without_room_waits() {
    let large = ipv4(GATEWAY, GUEST, &[9; 1000]);
    let mut net = device(vec![large.clone(); 4]);
    // Sixteen buffers of 256 bytes: three packets of five buffers each.
    let (_, frames) = exchange(&mut net, &[]);
    assert_eq!(frames.len(), 3);
    assert!(frames.iter().all(|frame| frame[ETHERNET..] == large));
    let (_, frames) = exchange(&mut net, &[]);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0][ETHERNET..], large);
}

#[test]
fn a_flood_of_packets_for_others_does_not_keep_the_device() {
    let other = ipv4(GATEWAY, Ipv4Addr::new(10, 88, 0, 3), b"not for you");
    let mine = ipv4(GATEWAY, GUEST, b"for you");
    let mut net = device([vec![other; 2000], vec![mine]].concat());
    let memory = memory();
    let mut rings = rings();
    offer_at(
        &memory,
        &mut rings[RECEIVE],
        0,
        &[vec![(0x2_0000, 0x100, true)]],
    );
    let mut events = 0;
    loop {
        let before = net.packets.waiting.len();
        let mut event = Rings::new(&memory, &mut rings);
        net.notified(&mut event);
        events += 1;
        let again = event.finish().again;
        assert!(before - net.packets.waiting.len() <= 512);
        if !again {
            break;
        }
    }
    assert!(events > 3);
    assert_eq!(received(&memory, &rings[RECEIVE]).len(), 1);
}

proptest! {
    #[test]
    fn any_descriptors_are_answered(
        wild in any_descriptors(), honest in honest_descriptors(), fill: u8,
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..4),
    ) {
        for chains in [wild, honest] {
            let memory = memory();
            memory.write_slice(&vec![fill; 0x8_0000], GuestAddress(0)).unwrap();
            let mut rings = rings();
            offer_at(&memory, &mut rings[RECEIVE], 0, &chains);
            offer_at(&memory, &mut rings[TRANSMIT], 1, &chains);
            let mut net = device(packets.clone());
            net.notified(&mut Rings::new(&memory, &mut rings));
            net.reset();
        }
    }

    #[test]
    fn whatever_the_guest_sends_only_its_own_addresses_leave(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..150), 1..8),
        kind in prop_oneof![Just(0x0800u16), Just(0x86dd), Just(0x0806), any::<u16>()],
        source in prop_oneof![Just(GUEST), any::<[u8; 4]>().prop_map(Ipv4Addr::from)],
    ) {
        let mut all: Vec<_> = frames.iter().map(|payload| ethernet(GATEWAY_MAC, kind, payload)).collect();
        all.extend(frames.iter().map(|payload| ethernet(GATEWAY_MAC, 0x0800, &ipv4(source, GATEWAY, payload))));
        all.extend(frames);
        let (sent, _) = exchange(&mut device(vec![]), &all);
        for packet in sent {
            match packet[0] >> 4 {
                4 => prop_assert_eq!(&packet[12..16], &GUEST.octets()),
                _ => prop_assert_eq!(&packet[8..24], &GUEST6.octets()),
            }
        }
    }
}
