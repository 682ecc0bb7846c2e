//! virtio-net over a TUN queue: Ethernet towards the guest, IP towards the host (virtio 1.2 section 5.1).
//!
//! The guest is alone on its link with a gateway that exists only here: [`neighbour`] answers for it. Whatever is an IP packet from
//! one of the guest's own addresses goes to the TUN queue without its Ethernet header, everything else is dropped ([`frame`]).
//! Checksums and segmentation are left to whoever is last: the virtio-net header passes through ([`tun`]).

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;

use hearth_vmm_api::Network;
use smoltcp::wire::EthernetAddress;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU};
use vmm_sys_util::epoll::EventSet;

use self::header::{HEADER, Header};
use self::tun::{Packets, Received};
use crate::events::Watcher;
use crate::virtio::chain::{self, Writable};
use crate::virtio::{Device, Rings, Token};

mod frame;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod header;
mod neighbour;
pub mod tun;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// virtio 1.2 section 5.1.2, without further pairs and a control queue.
const QUEUE_SIZES: [u16; 2] = [256, 256];

/// Bytes of an Ethernet header without VLAN.
const ETHERNET: usize = 14;
/// Largest IP packet.
const LARGEST_PACKET: usize = 65_535;
/// What a packet from the host counts for in its event, however small it is: a system call, and a copy at most.
const PACKET_COST: u64 = 16 << 10;
/// Everything in front of an IP packet in a buffer of the guest.
const FRONT: usize = HEADER + ETHERNET;
/// Answers of the gateway that wait for room; a guest that asks and offers none loses the rest.
const MOST_REPLIES: usize = 16;
/// `struct virtio_net_config` (virtio 1.2 section 5.1.4): `mac`, `status`, `max_virtqueue_pairs`, `mtu`.
const CONFIG_LENGTH: usize = 12;

/// Addresses on both sides of the guest's link.
#[derive(Debug, Clone)]
struct Link {
    mac: EthernetAddress,
    gateway_mac: EthernetAddress,
    gateway: Vec<IpAddr>,
    addresses: Vec<IpAddr>,
}

/// The device. `T` is the TUN queue, or what stands for it in a test.
#[derive(Debug)]
pub struct Net<T> {
    packets: T,
    link: Link,
    features: u64,
    config: [u8; CONFIG_LENGTH],
    mergeable: bool,
    /// The queue may have packets for us.
    readable: bool,
    /// A frame from the host, header and all; `arrived` bytes of it wait for room.
    inbound: Vec<u8>,
    arrived: Option<usize>,
    outbound: Vec<u8>,
    replies: VecDeque<Vec<u8>>,
}

impl<T: Packets> Net<T> {
    /// A device as configured, on top of `packets`, which `watcher` is told to watch.
    pub fn new(network: &Network, packets: T, watcher: &Watcher) -> io::Result<Self> {
        watcher.add(&packets, 0, EventSet::IN | EventSet::EDGE_TRIGGERED)?;
        let mut config = [0; CONFIG_LENGTH];
        config[..6].copy_from_slice(&network.mac);
        config[10..].copy_from_slice(&network.mtu.to_le_bytes());
        let always = 1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_MTU | 1 << VIRTIO_NET_F_MRG_RXBUF;
        let features = always | packets.offloads();
        Ok(Self {
            packets,
            link: Link {
                mac: EthernetAddress(network.mac),
                gateway_mac: EthernetAddress(network.gateway_mac),
                gateway: network.gateway.clone(),
                addresses: network.addresses.clone(),
            },
            features,
            config,
            mergeable: false,
            readable: true,
            inbound: vec![0; FRONT + LARGEST_PACKET],
            arrived: None,
            outbound: vec![0; FRONT + LARGEST_PACKET],
            replies: VecDeque::new(),
        })
    }

    fn transmit(&mut self, rings: &mut Rings<'_>) {
        let memory = rings.memory();
        while let Some(chain) = rings.pop(TRANSMIT) {
            let head = chain.head_index();
            if let Ok((mut readable, _)) = chain::split(memory, chain) {
                let length = usize::try_from(readable.len()).unwrap_or(usize::MAX);
                if let Some(buffer) = self.outbound.get_mut(..length)
                    && readable.read_bytes(buffer).is_ok()
                {
                    self.send(length);
                }
            }
            rings.push(TRANSMIT, head, 0);
        }
    }

    /// Sends what lies in the first `length` bytes of `outbound` where it belongs.
    fn send(&mut self, length: usize) {
        let Some((header, ethernet)) = self.outbound[..length].split_at_checked(HEADER) else {
            return;
        };
        match frame::classify(&self.link, ethernet) {
            frame::Frame::Packet(packet) => {
                if let Some(header) = Header::from_bytes(header).without_ethernet() {
                    // A packet that the host can't take now is lost, as on any network.
                    let _ = self.packets.send(&header.to_bytes(), packet);
                }
            }
            frame::Frame::Question(question) => {
                if self.replies.len() < MOST_REPLIES
                    && let Some(reply) = neighbour::answer(&self.link, &question)
                {
                    self.replies.push_back(reply);
                }
            }
            frame::Frame::Foreign => {}
        }
    }

    fn receive(&mut self, rings: &mut Rings<'_>) {
        while let Some(reply) = self.replies.pop_front() {
            let mut buffer = vec![0; HEADER];
            buffer.extend_from_slice(&reply);
            if !self.deliver(rings, &mut buffer) {
                self.replies.push_front(reply);
                return;
            }
        }
        let mut buffer = std::mem::take(&mut self.inbound);
        while let Some(length) = self.arrived.or_else(|| self.fetch(rings, &mut buffer)) {
            self.arrived = None;
            if !self.deliver(rings, &mut buffer[..length]) {
                self.arrived = Some(length);
                break;
            }
        }
        self.inbound = buffer;
    }

    /// Takes the next packet for the guest from the host and dresses it; returns how long it then is.
    fn fetch(&mut self, rings: &mut Rings<'_>, buffer: &mut [u8]) -> Option<usize> {
        // Packets wait in the TUN queue, which has a sensible length, rather than here.
        while self.readable && rings.available(RECEIVE) {
            // Whoever floods the host with what is then thrown away does not keep the thread either.
            rings.charge(RECEIVE, PACKET_COST);
            let (front, packet) = buffer.split_at_mut(FRONT);
            let (header, ethernet) = front.split_at_mut(HEADER);
            let length = match self.packets.receive(header, packet) {
                Received::Packet(length) => length,
                Received::Nothing => {
                    self.readable = false;
                    return None;
                }
                Received::Unusable => continue,
            };
            let Some(packet) = packet.get(..length) else {
                continue;
            };
            if frame::dress(&self.link, packet, ethernet) {
                header.copy_from_slice(&Header::from_bytes(header).with_ethernet().to_bytes());
                return Some(FRONT + length);
            }
        }
        None
    }

    /// Puts a frame (header first) into the guest's buffers. False: there is not enough room now.
    fn deliver(&self, rings: &mut Rings<'_>, frame: &mut [u8]) -> bool {
        let memory = rings.memory();
        let mut buffers: Vec<(u16, Writable<'_>)> = Vec::with_capacity(1);
        let mut room = 0;
        while room < frame.len() as u64 {
            let Some(chain) = rings.pop(RECEIVE) else {
                for _ in buffers {
                    rings.put_back(RECEIVE);
                }
                return false;
            };
            let head = chain.head_index();
            let writable = match chain::split(memory, chain) {
                Ok((_, writable)) => writable,
                // Of no use to anybody: it goes back empty, in its turn.
                Err(_) => Writable::default(),
            };
            room += writable.len();
            buffers.push((head, writable));
            if !self.mergeable && room < frame.len() as u64 {
                // Without mergeable buffers a packet goes into one (virtio 1.2 section 5.1.6.3.2). The guest has refused large packets
                // and made its buffers too small for small ones.
                rings.push(RECEIVE, head, 0);
                return true;
            }
        }
        // All but the last are filled to their ends (virtio 1.2 section 5.1.6.4.1).
        let count = u16::try_from(buffers.len()).unwrap_or(u16::MAX);
        Header::set_buffers(frame, count);
        let mut rest = &frame[..];
        for (head, mut writable) in buffers {
            let written = writable.write_some(rest);
            rest = &rest[written..];
            rings.push(RECEIVE, head, written as u32);
        }
        true
    }
}

impl<T: Packets> Device for Net<T> {
    fn id(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn activate(&mut self, features: u64) {
        self.mergeable = features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0;
        self.packets.set_offloads(features);
    }

    fn notified(&mut self, rings: &mut Rings<'_>) {
        self.transmit(rings);
        self.receive(rings);
    }

    fn ready(&mut self, _token: Token, _events: EventSet, rings: &mut Rings<'_>) {
        self.readable = true;
        if rings.active() {
            self.receive(rings);
        }
    }

    fn reset(&mut self) {
        self.mergeable = false;
        self.arrived = None;
        self.replies.clear();
        self.packets.set_offloads(0);
    }
}

#[cfg(test)]
mod tests;
