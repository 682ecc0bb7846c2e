//! The gateway's answers to ARP requests (RFC 826) and neighbour solicitations (RFC 4861).

use std::net::IpAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv6Message,
    Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Address, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags,
    NdiscRepr,
};

use super::Link;
use super::frame::Question;

/// Hop limit of neighbour discovery (RFC 4861 section 7.1.2).
const HOP_LIMIT: u8 = 255;
/// Who is told when the asker has no address yet: all nodes (RFC 4861 section 7.2.4).
const ALL_NODES: Ipv6Address = Ipv6Address::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Whether an ICMPv6 message is a neighbour solicitation.
pub(super) fn is_solicitation(message: &[u8]) -> bool {
    Icmpv6Packet::new_checked(message)
        .is_ok_and(|packet| packet.msg_type() == Icmpv6Message::NeighborSolicit)
}

/// The frame to send back, if the question is about an address of the gateway's.
pub(super) fn answer(link: &Link, question: &Question<'_>) -> Option<Vec<u8>> {
    match *question {
        Question::Arp {
            mac,
            address,
            wanted,
        } => {
            link.gateway.contains(&IpAddr::V4(wanted)).then_some(())?;
            let arp = ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Reply,
                source_hardware_addr: link.gateway_mac,
                source_protocol_addr: wanted,
                target_hardware_addr: mac,
                target_protocol_addr: address,
            };
            let ethernet = EthernetRepr {
                src_addr: link.gateway_mac,
                dst_addr: mac,
                ethertype: EthernetProtocol::Arp,
            };
            let mut reply = vec![0; ethernet.buffer_len() + arp.buffer_len()];
            let mut frame = EthernetFrame::new_unchecked(reply.as_mut_slice());
            ethernet.emit(&mut frame);
            arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
            Some(reply)
        }
        Question::Icmpv6 {
            mac,
            source,
            destination,
            message,
        } => {
            let packet = Icmpv6Packet::new_checked(message).ok()?;
            // The guest's own memory is not going to garble it, and it may have left the sum to us.
            let sums = ChecksumCapabilities::ignored();
            let Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
                target_addr: wanted,
                ..
            }) = Icmpv6Repr::parse(&source, &destination, &packet, &sums).ok()?
            else {
                return None;
            };
            link.gateway.contains(&IpAddr::V6(wanted)).then_some(())?;
            let unspecified = source.is_unspecified();
            let flags = if unspecified {
                NdiscNeighborFlags::empty()
            } else {
                NdiscNeighborFlags::SOLICITED
            };
            let icmp = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
                flags: flags | NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE,
                target_addr: wanted,
                lladdr: Some(link.gateway_mac.into()),
            });
            let ip = Ipv6Repr {
                src_addr: wanted,
                dst_addr: if unspecified { ALL_NODES } else { source },
                next_header: IpProtocol::Icmpv6,
                payload_len: icmp.buffer_len(),
                hop_limit: HOP_LIMIT,
            };
            let ethernet = EthernetRepr {
                src_addr: link.gateway_mac,
                dst_addr: mac,
                ethertype: EthernetProtocol::Ipv6,
            };
            let mut reply = vec![0; ethernet.buffer_len() + ip.buffer_len() + icmp.buffer_len()];
            let mut frame = EthernetFrame::new_unchecked(reply.as_mut_slice());
            ethernet.emit(&mut frame);
            let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
            ip.emit(&mut packet);
            icmp.emit(
                &ip.src_addr,
                &ip.dst_addr,
                &mut Icmpv6Packet::new_unchecked(packet.payload_mut()),
                &ChecksumCapabilities::default(),
            );
            Some(reply)
        }
    }
}
