//! Which of the guest's frames go where, and which of the host's packets are for the guest.

use std::net::IpAddr;

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol,
    Ipv4Address, Ipv4Packet, Ipv6Address, Ipv6Packet,
};

use super::{ETHERNET, Link};

/// A frame of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame<'f> {
    /// An IP packet for the host.
    Packet(&'f [u8]),
    /// A question to the gateway itself.
    Question(Question<'f>),
    /// Nothing that leaves this link.
    Foreign,
}

/// What the gateway is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question<'f> {
    /// Who has the gateway's IPv4 address?
    Arp {
        /// Asked by.
        mac: EthernetAddress,
        /// Asked by.
        address: Ipv4Address,
        /// Asked for.
        wanted: Ipv4Address,
    },
    /// Perhaps a neighbour solicitation (RFC 4861): an ICMPv6 message with hop limit 255.
    Icmpv6 {
        /// Asked by.
        mac: EthernetAddress,
        /// Asked by; may be unspecified.
        source: Ipv6Address,
        /// A multicast or the gateway's address.
        destination: Ipv6Address,
        /// From the ICMPv6 header on.
        message: &'f [u8],
    },
}

/// Neighbour discovery counts only from the link itself (RFC 4861 section 7.1.1).
const FROM_THE_LINK: u8 = 255;

/// Understands a frame of the guest.
pub(super) fn classify<'f>(link: &Link, frame: &'f [u8]) -> Frame<'f> {
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else {
        return Frame::Foreign;
    };
    let payload = &frame[ETHERNET..];
    match ethernet.ethertype() {
        EthernetProtocol::Arp => arp(payload).map_or(Frame::Foreign, Frame::Question),
        EthernetProtocol::Ipv4 => {
            let Ok(packet) = Ipv4Packet::new_checked(payload) else {
                return Frame::Foreign;
            };
            let own =
                packet.version() == 4 && link.addresses.contains(&IpAddr::V4(packet.src_addr()));
            let routed = ethernet.dst_addr() == link.gateway_mac;
            if own && routed {
                Frame::Packet(&payload[..usize::from(packet.total_len())])
            } else {
                Frame::Foreign
            }
        }
        EthernetProtocol::Ipv6 => ipv6(link, &ethernet, payload),
        _ => Frame::Foreign,
    }
}

fn arp(payload: &[u8]) -> Option<Question<'_>> {
    let packet = ArpPacket::new_checked(payload).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: mac,
        source_protocol_addr: address,
        target_protocol_addr: wanted,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    Some(Question::Arp {
        mac,
        address,
        wanted,
    })
}

fn ipv6<'f>(link: &Link, ethernet: &EthernetFrame<&'f [u8]>, payload: &'f [u8]) -> Frame<'f> {
    let Ok(packet) = Ipv6Packet::new_checked(payload) else {
        return Frame::Foreign;
    };
    if packet.version() != 6 {
        return Frame::Foreign;
    }
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    let to_gateway = destination.is_multicast() || link.gateway.contains(&IpAddr::V6(destination));
    let length = packet.header_len() + usize::from(packet.payload_len());
    let Some(whole) = payload.get(..length) else {
        return Frame::Foreign;
    };
    if packet.next_header() == IpProtocol::Icmpv6
        && packet.hop_limit() == FROM_THE_LINK
        && to_gateway
    {
        let message = &whole[packet.header_len()..];
        if super::neighbour::is_solicitation(message) {
            let mac = ethernet.src_addr();
            return Frame::Question(Question::Icmpv6 {
                mac,
                source,
                destination,
                message,
            });
        }
    }
    let own = link.addresses.contains(&IpAddr::V6(source));
    if own && ethernet.dst_addr() == link.gateway_mac {
        Frame::Packet(whole)
    } else {
        Frame::Foreign
    }
}

/// Fills in the Ethernet header of a packet from the host. False: the packet is not for this guest.
pub(super) fn dress(link: &Link, packet: &[u8], ethernet: &mut [u8]) -> bool {
    let version = packet.first().map(|byte| byte >> 4);
    let (destination, protocol) = match version {
        Some(4) if packet.len() >= smoltcp::wire::IPV4_HEADER_LEN => (
            IpAddr::V4(Ipv4Packet::new_unchecked(packet).dst_addr()),
            EthernetProtocol::Ipv4,
        ),
        Some(6) if packet.len() >= smoltcp::wire::IPV6_HEADER_LEN => (
            IpAddr::V6(Ipv6Packet::new_unchecked(packet).dst_addr()),
            EthernetProtocol::Ipv6,
        ),
        _ => return false,
    };
    if !link.addresses.contains(&destination) || ethernet.len() < ETHERNET {
        return false;
    }
    let mut frame = EthernetFrame::new_unchecked(ethernet);
    frame.set_dst_addr(link.mac);
    frame.set_src_addr(link.gateway_mac);
    frame.set_ethertype(protocol);
    true
}
