//! Just enough of IPv4, ICMP, TCP and UDP to play both ends of a connection.

use std::net::Ipv4Addr;

/// An IPv4 packet. Ports are 0 for ICMP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network) struct Packet {
    pub(in crate::network) from: (Ipv4Addr, u16),
    pub(in crate::network) to: (Ipv4Addr, u16),
    pub(in crate::network) content: Content,
    pub(in crate::network) payload: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) enum Content {
    Udp,
    /// With these flags.
    Tcp(u8),
    /// Of this type.
    Icmp(u8),
}

pub(in crate::network) const SYN: u8 = 0x02;
pub(in crate::network) const SYN_ACK: u8 = 0x12;
pub(in crate::network) const ECHO_REPLY: u8 = 0;
pub(in crate::network) const UNREACHABLE: u8 = 3;
pub(in crate::network) const ECHO: u8 = 8;

impl Packet {
    pub(in crate::network) fn udp(
        from: (Ipv4Addr, u16),
        to: (Ipv4Addr, u16),
        payload: &str,
    ) -> Self {
        Self {
            from,
            to,
            content: Content::Udp,
            payload: payload.into(),
        }
    }

    pub(in crate::network) fn tcp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), flags: u8) -> Self {
        Self {
            from,
            to,
            content: Content::Tcp(flags),
            payload: Vec::new(),
        }
    }

    pub(in crate::network) fn ping(from: Ipv4Addr, to: Ipv4Addr) -> Self {
        Self {
            from: (from, 0),
            to: (to, 0),
            content: Content::Icmp(ECHO),
            payload: b"ping".into(),
        }
    }

    /// What the receiver would answer.
    pub(in crate::network) fn reply(&self, payload: &str) -> Self {
        let content = if self.content == Content::Tcp(SYN) {
            Content::Tcp(SYN_ACK)
        } else {
            self.content
        };
        Self {
            from: self.to,
            to: self.from,
            content,
            payload: payload.into(),
        }
    }

    pub(in crate::network) fn to_bytes(&self) -> Vec<u8> {
        let (protocol, mut body) = match self.content {
            Content::Icmp(kind) => (1, vec![kind, 0, 0, 0, 0, 1, 0, 1]),
            Content::Tcp(flags) => {
                let mut header = self.ports();
                header.extend([0; 4]);
                header.extend(u32::from(flags == SYN_ACK).to_be_bytes());
                header.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
                (6, header)
            }
            Content::Udp => {
                let mut header = self.ports();
                header.extend((8 + self.payload.len() as u16).to_be_bytes());
                header.extend([0, 0]);
                (17, header)
            }
        };
        body.extend(&self.payload);
        let addresses = [self.from.0.octets(), self.to.0.octets()].concat();
        let pseudo_header = [
            addresses.as_slice(),
            &[0, protocol],
            &(body.len() as u16).to_be_bytes(),
        ]
        .concat();
        let (at, covered) = match self.content {
            Content::Icmp(_) => (2, body.clone()),
            Content::Tcp(_) => (16, [pseudo_header, body.clone()].concat()),
            Content::Udp => (6, [pseudo_header, body.clone()].concat()),
        };
        body[at..at + 2].copy_from_slice(&checksum(&covered).to_be_bytes());

        let mut packet = vec![0x45, 0];
        packet.extend((20 + body.len() as u16).to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        packet.extend(addresses);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(body);
        packet
    }

    fn ports(&self) -> Vec<u8> {
        [self.from.1.to_be_bytes(), self.to.1.to_be_bytes()].concat()
    }

    pub(in crate::network) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.first()? >> 4 != 4 {
            return None;
        }
        let address = |at: usize| Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?));
        let body = bytes.get(usize::from(bytes[0] & 0xf) * 4..)?;
        let port = |at: usize| Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?));
        let (content, ports, start) = match bytes[9] {
            1 => (Content::Icmp(body[0]), (0, 0), 8),
            6 => (
                Content::Tcp(body[13]),
                (port(0)?, port(2)?),
                usize::from(body[12] >> 4) * 4,
            ),
            17 => (Content::Udp, (port(0)?, port(2)?), 8),
            _ => return None,
        };
        let payload = body.get(start..)?.to_vec();
        Some(Self {
            from: (address(12)?, ports.0),
            to: (address(16)?, ports.1),
            content,
            payload,
        })
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
