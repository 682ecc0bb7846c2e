//! A network whose DHCP servers say anything.

use std::collections::VecDeque;

use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::lease::Client;
use super::wire::has_sender;
use crate::netlink::Link;

/// Ours.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Where a DHCP message over UDP, IPv4 and Ethernet has its transaction's number (RFC 2131, section 2).
const TRANSACTION: std::ops::Range<usize> = 46..50;
/// Longest frame, as on the real wire.
const FRAME_MAX: usize = 1514;

/// Frames, each behind its length; those as long as a DHCP message answer the question that was asked last.
pub fn dhcp(bytes: &[u8]) {
    let link = Link {
        index: 2,
        name: "eth0".to_owned(),
        address: MAC.to_vec(),
        up: true,
        carrier: true,
        loopback: false,
        ethernet: true,
        software: false,
        mtu: 1500,
    };
    let mut client = Client::on(Air::default(), link, "fuzzing").expect("a link with an address");
    client.advance();
    let mut rest = bytes;
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)) % (FRAME_MAX + 1);
        let (frame, behind) = behind.split_at(length.min(behind.len()));
        rest = behind;
        client.wire().arrive(frame);
        client.advance();
        let _ = client.idle();
    }
    client.restart();
    client.advance();
}

/// What is in the air: the frame that comes next, and the number of the last question.
#[derive(Default)]
pub(super) struct Air {
    waiting: VecDeque<Vec<u8>>,
    transaction: [u8; 4],
}

impl Air {
    fn arrive(&mut self, frame: &[u8]) {
        let mut frame = frame.to_vec();
        if let Some(number) = frame.get_mut(TRANSACTION) {
            number.copy_from_slice(&self.transaction);
        }
        if has_sender(&frame) {
            self.waiting.push_back(frame);
        }
    }
}

pub(super) struct Received(Vec<u8>);

pub(super) struct Sending<'a>(&'a mut [u8; 4]);

impl Device for Air {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.waiting.pop_front()?;
        Some((Received(frame), Sending(&mut self.transaction)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.transaction))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_MAX;
        // No input could be made to have the right ones.
        capabilities.checksum = ChecksumCapabilities::ignored();
        capabilities
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        if let Some(number) = frame.get(TRANSACTION) {
            self.0.copy_from_slice(number);
        }
        result
    }
}
