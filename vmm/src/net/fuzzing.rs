//! Frames without the device around them.

use smoltcp::wire::EthernetAddress;

use super::frame::{Frame, classify, dress};
use super::header::Header;
use super::{ETHERNET, Link, neighbour};
use crate::fuzzing::{check_source, network};

/// A frame of the guest, and the same bytes as a packet of the host.
pub fn frame(bytes: &[u8]) {
    let network = network();
    let link = Link {
        mac: EthernetAddress(network.mac),
        gateway_mac: EthernetAddress(network.gateway_mac),
        gateway: network.gateway,
        addresses: network.addresses,
    };
    match classify(&link, bytes) {
        Frame::Packet(packet) => {
            check_source(packet);
            let _ = Header::from_bytes(packet).without_ethernet();
        }
        Frame::Question(question) => {
            let reply = neighbour::answer(&link, &question);
            // Only the gateway speaks, and only to who has asked.
            assert!(reply.is_none_or(|reply| reply[6..12] == network.gateway_mac));
        }
        Frame::Foreign => {}
    }
    let _ = dress(&link, bytes, &mut [0; ETHERNET]);
}
