//! What went over a network, read from a file in pcap's format.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
};

/// Sizes of the headers of a file and of a frame in it (libpcap's `pcap-savefile(5)`).
const FILE_HEADER: usize = 24;
const FRAME_HEADER: usize = 16;
/// Where in a frame's header the number of bytes is that were kept of it.
const KEPT: std::ops::Range<usize> = 8..12;

/// A file that frames are written to, from a certain one on.
#[derive(Clone, Debug)]
pub struct Capture {
    file: PathBuf,
    from: usize,
}

/// A frame, as far as it was understood.
#[derive(Clone, Debug)]
pub struct Packet {
    /// What the frame carries.
    pub ether_type: EthernetProtocol,
    /// The packet in it, if that is IP.
    pub ip: Option<Ip>,
}

/// An IP packet.
#[derive(Clone, Debug)]
pub struct Ip {
    /// Who sent it.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// What it carries.
    pub protocol: IpProtocol,
    /// Source's and destination's port, of TCP and UDP.
    pub ports: Option<(u16, u16)>,
    /// What is behind the last header that was understood.
    pub payload: Vec<u8>,
}

impl Ip {
    /// Whether it is of that protocol, and from or to that port.
    pub fn is(&self, protocol: IpProtocol, port: u16) -> bool {
        self.protocol == protocol
            && self
                .ports
                .is_some_and(|(source, destination)| source == port || destination == port)
    }

    /// Whether it went between two of these.
    pub fn is_between(&self, addresses: &[impl Copy + Into<IpAddr>]) -> bool {
        let knows = |end: IpAddr| addresses.iter().any(|address| (*address).into() == end);
        knows(self.source) && knows(self.destination)
    }
}

impl Capture {
    /// What is written to `file` from now on.
    pub fn from_now_on(file: &Path) -> Self {
        let written = fs::metadata(file).map_or(0, |metadata| metadata.len());
        Self {
            file: file.to_owned(),
            from: usize::try_from(written).expect("a file that memory can hold"),
        }
    }

    /// The frames so far.
    #[track_caller]
    pub fn packets(&self) -> Vec<Packet> {
        let file = fs::read(&self.file)
            .unwrap_or_else(|error| panic!("can't read {}: {error}", self.file.display()));
        frames(file.get(self.from.max(FILE_HEADER)..).unwrap_or_default())
            .filter_map(packet)
            .collect()
    }

    /// The IP packets so far that went between two of these.
    #[track_caller]
    pub fn between(&self, addresses: &[impl Copy + Into<IpAddr>]) -> Vec<Ip> {
        let packets = self.packets().into_iter().filter_map(|packet| packet.ip);
        packets.filter(|ip| ip.is_between(addresses)).collect()
    }
}

/// The frames of a file after its header. One that isn't wholly written yet, and whatever follows one that makes no sense, is left out.
fn frames(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (header, behind) = rest.split_at_checked(FRAME_HEADER)?;
        // As this machine writes numbers: the file was written here.
        let kept = u32::from_ne_bytes(header[KEPT].try_into().ok()?);
        let (frame, behind) = behind.split_at_checked(usize::try_from(kept).ok()?)?;
        rest = behind;
        Some(frame)
    })
}

fn packet(frame: &[u8]) -> Option<Packet> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    let ip = match frame.ethertype() {
        EthernetProtocol::Ipv4 => Ipv4Packet::new_checked(frame.payload()).ok().map(|packet| {
            let (source, destination) = (packet.src_addr(), packet.dst_addr());
            // Only the first fragment has ports.
            let whole = packet.frag_offset() == 0;
            let protocol = packet.next_header();
            ip(
                source.into(),
                destination.into(),
                protocol,
                packet.payload(),
                whole,
            )
        }),
        EthernetProtocol::Ipv6 => Ipv6Packet::new_checked(frame.payload()).ok().map(|packet| {
            let (source, destination) = (packet.src_addr(), packet.dst_addr());
            let protocol = packet.next_header();
            ip(
                source.into(),
                destination.into(),
                protocol,
                packet.payload(),
                true,
            )
        }),
        _ => None,
    };
    Some(Packet {
        ether_type: frame.ethertype(),
        ip,
    })
}

fn ip(
    source: IpAddr,
    destination: IpAddr,
    protocol: IpProtocol,
    payload: &[u8],
    whole: bool,
) -> Ip {
    let inner = match protocol {
        IpProtocol::Tcp if whole => TcpPacket::new_checked(payload).ok().map(|packet| {
            (
                (packet.src_port(), packet.dst_port()),
                packet.payload().to_vec(),
            )
        }),
        IpProtocol::Udp if whole => UdpPacket::new_checked(payload).ok().map(|packet| {
            (
                (packet.src_port(), packet.dst_port()),
                packet.payload().to_vec(),
            )
        }),
        _ => None,
    };
    let (ports, payload) = match inner {
        Some((ports, payload)) => (Some(ports), payload),
        None => (None, payload.to_vec()),
    };
    Ip {
        source,
        destination,
        protocol,
        ports,
        payload,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Ipv4Addr;

    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{EthernetAddress, EthernetRepr, Ipv4Repr, UdpRepr};

    use super::*;

    const ONE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 16);

    fn udp_frame(payload: &[u8]) -> Vec<u8> {
        let checksums = ChecksumCapabilities::default();
        let udp = UdpRepr {
            src_port: 40_000,
            dst_port: 51_820,
        };
        let ip = Ipv4Repr {
            src_addr: ONE,
            dst_addr: OTHER,
            next_header: IpProtocol::Udp,
            payload_len: udp.header_len() + payload.len(),
            hop_limit: 64,
        };
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress([2; 6]),
            dst_addr: EthernetAddress([4; 6]),
            ethertype: EthernetProtocol::Ipv4,
        };
        let mut bytes = vec![0; ethernet.buffer_len() + ip.buffer_len() + ip.payload_len];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
        ethernet.emit(&mut frame);
        let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
        ip.emit(&mut packet, &checksums);
        let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
        udp.emit(
            &mut datagram,
            &ONE.into(),
            &OTHER.into(),
            payload.len(),
            |into| into.copy_from_slice(payload),
            &checksums,
        );
        bytes
    }

    fn kept(frame: &[u8]) -> Vec<u8> {
        let length = u32::try_from(frame.len())
            .expect("it is short")
            .to_ne_bytes();
        [&[0; 8][..], &length, &length, frame].concat()
    }

    #[test]
    fn frames_are_read_from_a_mark_on_and_a_half_written_one_is_not() {
        let mut file = tempfile::NamedTempFile::new().expect("the temporary folder is writable");
        let mut write = |bytes: &[u8]| file.write_all(bytes).expect("the disk has room");
        write(&[0; FILE_HEADER]);
        write(&kept(&udp_frame(b"before")));
        let path = file.path().to_owned();
        let capture = Capture::from_now_on(&path);
        let mut write = |bytes: &[u8]| file.write_all(bytes).expect("the disk has room");
        write(&kept(&udp_frame(b"one")));
        // A name is asked for by ARP: no packet, but a frame.
        let mut arp = udp_frame(b"");
        arp[12..14].copy_from_slice(&[8, 6]);
        write(&kept(&arp));
        let other = kept(&udp_frame(b"other"));
        let (half, rest) = other.split_at(30);
        write(half);
        let payloads = || -> Vec<Vec<u8>> {
            let found = capture.between(&[ONE, OTHER]);
            assert!(found.iter().all(|ip| ip.is(IpProtocol::Udp, 51_820)));
            found.into_iter().map(|ip| ip.payload).collect()
        };
        assert_eq!(payloads(), [b"one"]);
        let types: Vec<_> = capture
            .packets()
            .iter()
            .map(|packet| packet.ether_type)
            .collect();
        assert_eq!(types, [EthernetProtocol::Ipv4, EthernetProtocol::Arp]);
        file.write_all(rest).expect("the disk has room");
        assert_eq!(payloads(), [b"one".to_vec(), b"other".to_vec()]);
        assert!(capture.between(&[ONE]).is_empty());
    }
}
