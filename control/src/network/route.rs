//! Links, addresses and routes.

use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{Emitable, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily as SocketFamily, SocketFlags, SocketType, socket_with};

use super::netlink::{Messages, Socket, flags};

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_NEWROUTE: u16 = 24;

/// The loopback link has this index in every network namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
const LOOPBACK: u32 = 1;

/// The routing side of one network namespace.
#[derive(Debug)]
pub(super) struct Routes {
    socket: Socket,
}

impl Routes {
    pub(super) fn open() -> Result<Self, Errno> {
        // NETLINK_ROUTE is 0, which is also what no protocol means.
        Ok(Self {
            socket: Socket::open(None)?,
        })
    }

    /// Gives the node an address that belongs to no wire: on the loopback link, which is brought up.
    pub(super) fn add_own_address(&mut self, address: Ipv4Addr) -> Result<(), Errno> {
        self.set_up(LOOPBACK, None)?;
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = 32;
        message.header.scope = AddressScope::Universe;
        message.header.index = LOOPBACK;
        message
            .attributes
            .push(AddressAttribute::Local(address.into()));
        message
            .attributes
            .push(AddressAttribute::Address(address.into()));
        self.send(RTM_NEWADDR, &message)
    }

    /// Answers for a network's absent addresses with "unreachable" rather than sending their packets up the default route.
    pub(super) fn add_unreachable(&mut self, network: Ipv4Addr, prefix: u8) -> Result<(), Errno> {
        self.send(
            RTM_NEWROUTE,
            &route(network, prefix, RouteType::Unreachable),
        )
    }

    /// Brings a link up and leads an address to it. What the node itself sends there comes from `source`.
    pub(super) fn lead(
        &mut self,
        link: &str,
        mtu: u16,
        address: Ipv4Addr,
        source: Ipv4Addr,
    ) -> Result<(), Errno> {
        let index = index_of(link)?;
        self.set_up(index, Some(mtu))?;
        let mut message = route(address, 32, RouteType::Unicast);
        message.header.scope = RouteScope::Link;
        message.attributes.push(RouteAttribute::Oif(index));
        message
            .attributes
            .push(RouteAttribute::PrefSource(RouteAddress::Inet(source)));
        self.send(RTM_NEWROUTE, &message)
    }

    /// Makes a link where it isn't there; it is down then. Returns its index.
    pub(super) fn make_link(&mut self, name: &str, info: Vec<LinkInfo>) -> Result<u32, Errno> {
        let mut message = LinkMessage::default();
        message.attributes.extend([
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(info),
        ]);
        match self.request(RTM_NEWLINK, flags::CREATE | flags::EXCLUSIVE, &message) {
            Ok(()) | Err(Errno::EXIST) => index_of(name),
            Err(errno) => Err(errno),
        }
    }

    /// Takes a link away, if it is there.
    pub(super) fn remove_link(&mut self, name: &str) -> Result<(), Errno> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        match self.request(RTM_DELLINK, 0, &message) {
            Err(Errno::NODEV) => Ok(()),
            done => done,
        }
    }

    /// Gives a link an IPv6 address of a network that it leads to.
    pub(super) fn add_link_address(
        &mut self,
        index: u32,
        address: Ipv6Addr,
        prefix: u8,
    ) -> Result<(), Errno> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.prefix_len = prefix;
        message.header.scope = AddressScope::Universe;
        message.header.index = index;
        // Nobody else has it; so it need not be asked for first.
        message.header.flags = AddressHeaderFlags::Nodad;
        message
            .attributes
            .push(AddressAttribute::Address(address.into()));
        self.send(RTM_NEWADDR, &message)
    }

    /// Brings a link up.
    pub(super) fn set_up(&mut self, index: u32, mtu: Option<u16>) -> Result<(), Errno> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message
            .attributes
            .extend(mtu.map(|mtu| LinkAttribute::Mtu(mtu.into())));
        self.request(RTM_NEWLINK, 0, &message)
    }

    /// Makes something, or makes it anew.
    pub(super) fn send(&mut self, kind: u16, message: &impl Emitable) -> Result<(), Errno> {
        self.request(kind, flags::CREATE | flags::REPLACE, message)
    }

    /// One message, acknowledged.
    pub(super) fn request(
        &mut self,
        kind: u16,
        flags: u16,
        message: &impl Emitable,
    ) -> Result<(), Errno> {
        self.socket
            .request(kind, flags, |bytes| append(bytes, message))
    }

    /// All of the kernel's objects of a message's type and family; what can't be read is left out.
    pub(super) fn dump<M: Emitable + Parseable<[u8]>>(
        &mut self,
        kind: u16,
        message: &M,
    ) -> Result<Vec<M>, Errno> {
        let mut messages = Messages::default();
        let last = messages.push(kind, flags::DUMP, |bytes| append(bytes, message));
        let mut all = Vec::new();
        self.socket
            .exchange(&messages, last, |_, body| all.extend(M::parse(body).ok()))
            .map_err(|refused| refused.errno)?;
        Ok(all)
    }
}

fn route(network: Ipv4Addr, prefix: u8, kind: RouteType) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = kind;
    message
        .attributes
        .push(RouteAttribute::Destination(RouteAddress::Inet(network)));
    message
}

fn append(bytes: &mut Vec<u8>, message: &impl Emitable) {
    let start = bytes.len();
    bytes.resize(start + message.buffer_len(), 0);
    message.emit(&mut bytes[start..]);
}

/// The kernel answers this through any socket of the namespace.
fn index_of(link: &str) -> Result<u32, Errno> {
    let socket = socket_with(
        SocketFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    name_to_index(&socket, link)
}
