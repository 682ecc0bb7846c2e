//! Links, addresses, routes and neighbours, by synchronous rtnetlink: one request, one answer.
//!
//! The messages are `netlink-packet-route`'s; the header around them is put on here, so that only the messages in use are
//! linked in.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_core::Emitable;
use netlink_packet_route::AddressFamily as Family;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send,
    socket_with,
};

const HEADER_LEN: usize = 16;
/// Room for one datagram of a dump; the kernel fills at most 32 KiB.
const RECEIVE_LEN: usize = 32 << 10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;

/// The attribute of a link's MTU.
const IFLA_MTU: u16 = 4;

/// `RTMGRP_LINK`: changes of links.
const GROUP_LINK: u32 = 1;

/// A socket to the kernel's routing tables.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// A network interface as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// `eth0`.
    pub name: String,
    /// Ethernet address; empty for links that have none.
    pub address: Vec<u8>,
    /// It is administratively up.
    pub up: bool,
    /// It has a carrier.
    pub carrier: bool,
    /// It is a loopback link.
    pub loopback: bool,
    /// It is Ethernet.
    pub ethernet: bool,
    /// It is one of the kernel's own inventions (bridge, TUN, WireGuard).
    pub software: bool,
    /// Bytes.
    pub mtu: u32,
}

impl Netlink {
    /// For requests.
    pub fn open() -> io::Result<Self> {
        Self::with_groups(0)
    }

    /// For changes of links: readable whenever one has changed. Read it with [`Netlink::changed`].
    pub fn open_link_events() -> io::Result<Self> {
        Self::with_groups(GROUP_LINK)
    }

    fn with_groups(groups: u32) -> io::Result<Self> {
        let flags = if groups == 0 {
            SocketFlags::empty()
        } else {
            SocketFlags::NONBLOCK
        } | SocketFlags::CLOEXEC;
        // No protocol is protocol 0, NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &netlink::SocketAddrNetlink::new(0, groups))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Brings a link up; with an MTU where one is given.
    pub fn set_link_up(&mut self, index: u32, mtu: Option<u32>) -> io::Result<()> {
        self.request(RTM_NEWLINK, 0, &LinkUp { index, mtu })
    }

    /// Gives a link an address, or refreshes it. There is no duplicate address detection.
    pub fn set_address(&mut self, index: u32, address: IpAddr, prefix_len: u8) -> io::Result<()> {
        self.request(
            RTM_NEWADDR,
            NLM_F_CREATE | NLM_F_REPLACE,
            &address_message(index, address, prefix_len),
        )
    }

    /// Takes an address from a link.
    pub fn delete_address(
        &mut self,
        index: u32,
        address: IpAddr,
        prefix_len: u8,
    ) -> io::Result<()> {
        self.request(RTM_DELADDR, 0, &address_message(index, address, prefix_len))
    }

    /// Makes `gateway` the next hop for everything of its address family; it need not be in any of the link's prefixes.
    pub fn set_default_route(&mut self, index: u32, gateway: IpAddr) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(gateway);
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.header.flags = RouteFlags::Onlink;
        message
            .attributes
            .push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
        message.attributes.push(RouteAttribute::Oif(index));
        self.request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &message)
    }

    /// Tells the kernel a neighbour's Ethernet address for good.
    pub fn set_neighbour(&mut self, index: u32, address: IpAddr, mac: [u8; 6]) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        let destination = match address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        };
        message
            .attributes
            .push(NeighbourAttribute::Destination(destination));
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        self.request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &message)
    }

    /// All links.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        self.dump(
            RTM_GETLINK,
            &LinkUp {
                index: 0,
                mtu: None,
            },
            |kind, body| {
                if kind == RTM_NEWLINK {
                    links.extend(parse_link(body));
                }
            },
        )?;
        Ok(links)
    }

    /// Reads all events that wait. True: one was about a link of `interest`, or events were lost.
    pub fn changed(&self, interest: impl Fn(&Link) -> bool) -> bool {
        let mut changed = false;
        let mut buffer = vec![0; RECEIVE_LEN];
        loop {
            match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    let mut rest = &buffer[..length];
                    while let Some((_, _, body, next)) = split_message(rest) {
                        rest = next;
                        changed |= parse_link(body).is_some_and(|link| interest(&link));
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return changed,
                Err(rustix::io::Errno::INTR) => {}
                // An overrun: something has changed, nobody knows what.
                Err(_) => changed = true,
            }
        }
    }

    fn send(&mut self, kind: u16, flags: u16, body: &impl Emitable) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = HEADER_LEN + body.buffer_len();
        let mut message = vec![0; length];
        // A message of ours is a few hundred bytes.
        message[0..4].copy_from_slice(&(length as u32).to_ne_bytes());
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        message[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        body.emit(&mut message[HEADER_LEN..]);
        send(&self.socket, &message, SendFlags::empty())?;
        Ok(())
    }

    fn request(&mut self, kind: u16, flags: u16, body: &impl Emitable) -> io::Result<()> {
        self.send(kind, flags | NLM_F_ACK, body)?;
        self.receive(|_, _| ())
    }

    fn dump(
        &mut self,
        kind: u16,
        body: &impl Emitable,
        each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.send(kind, NLM_F_DUMP, body)?;
        self.receive(each)
    }

    /// Hands over each message of the answer to the last request, up to its acknowledgement or end.
    fn receive(&self, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let mut buffer = vec![0; RECEIVE_LEN];
        loop {
            let (length, _) = recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, sequence, body, next)) = split_message(rest) {
                rest = next;
                if sequence != self.sequence {
                    continue;
                }
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = body
                            .first_chunk()
                            .map_or(libc::EPROTO, |code| -i32::from_ne_bytes(*code));
                        return if code == 0 {
                            Ok(())
                        } else {
                            Err(io::Error::from_raw_os_error(code))
                        };
                    }
                    _ => each(kind, body),
                }
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// `struct ifinfomsg` that brings a link up, and its MTU (rtnetlink(7)). `netlink-packet-route`'s message of this name brings a
/// hundred KiB of link types along, and every microVM would carry them.
struct LinkUp {
    index: u32,
    mtu: Option<u32>,
}

impl Emitable for LinkUp {
    fn buffer_len(&self) -> usize {
        16 + if self.mtu.is_some() { 8 } else { 0 }
    }

    fn emit(&self, buffer: &mut [u8]) {
        let up = (libc::IFF_UP as u32).to_ne_bytes();
        buffer[4..8].copy_from_slice(&self.index.to_ne_bytes());
        // Flags, and which of them are meant.
        buffer[8..12].copy_from_slice(&up);
        buffer[12..16].copy_from_slice(&up);
        if let Some(mtu) = self.mtu {
            buffer[16..18].copy_from_slice(&8u16.to_ne_bytes());
            buffer[18..20].copy_from_slice(&IFLA_MTU.to_ne_bytes());
            buffer[20..24].copy_from_slice(&mtu.to_ne_bytes());
        }
    }
}

/// Kind, sequence number and body of the first message, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let header = bytes.first_chunk::<HEADER_LEN>()?;
    let length = u32::from_ne_bytes(*header.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    let body = bytes.get(HEADER_LEN..length)?;
    Some((
        kind,
        sequence,
        body,
        bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]),
    ))
}

fn family(address: IpAddr) -> Family {
    if address.is_ipv4() {
        Family::Inet
    } else {
        Family::Inet6
    }
}

fn address_message(index: u32, address: IpAddr, prefix_len: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix_len;
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    if address.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes.push(AddressAttribute::Address(address));
    message.attributes.push(AddressAttribute::Local(address));
    message
}

/// `struct ifinfomsg` and its attributes (rtnetlink(7)); only what [`Link`] tells.
fn parse_link(body: &[u8]) -> Option<Link> {
    /// `ARPHRD_ETHER`.
    const ETHERNET: u16 = 1;
    const IFLA_ADDRESS: u16 = 1;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_CARRIER: u16 = 33;

    let header = body.first_chunk::<16>()?;
    let layer = u16::from_ne_bytes([header[2], header[3]]);
    let flags = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    let mut link = Link {
        index: u32::from_ne_bytes([header[4], header[5], header[6], header[7]]),
        name: String::new(),
        address: Vec::new(),
        up: flags & libc::IFF_UP as u32 != 0,
        carrier: false,
        loopback: flags & libc::IFF_LOOPBACK as u32 != 0,
        ethernet: layer == ETHERNET,
        software: false,
        mtu: 0,
    };
    let mut rest = &body[16..];
    while let Some(head) = rest.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let Some(value) = rest.get(4..length) else {
            break;
        };
        match u16::from_ne_bytes([head[2], head[3]]) & 0x3fff {
            IFLA_ADDRESS => link.address = value.to_vec(),
            IFLA_IFNAME => {
                let name = value.strip_suffix(&[0]).unwrap_or(value);
                link.name = String::from_utf8_lossy(name).into_owned();
            }
            IFLA_MTU => {
                link.mtu = value
                    .first_chunk()
                    .map_or(0, |mtu| u32::from_ne_bytes(*mtu))
            }
            // Only links that are made by software have a kind.
            IFLA_LINKINFO => link.software = true,
            IFLA_CARRIER => link.carrier = value.first() == Some(&1),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Some(link)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_link_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse_link(&bytes);
            let _ = split_message(&bytes);
        }
    }

    #[test]
    fn this_machine_has_a_loopback_link() {
        let links = Netlink::open().unwrap().links().unwrap();
        assert!(
            links.iter().any(|link| link.loopback && link.name == "lo"),
            "{links:?}"
        );
    }
}
