//! The link to other nodes' pods, and the routes that lead there.
//!
//! One VXLAN-GPE link for all nodes and networks (`external`): a route names the node and the number of the network (lightweight tunnels,
//! `encap ip6` of ip-route(8)).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkInfo};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteIp6Tunnel, RouteLwEnCapType,
    RouteLwTunnelEncap, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rustix::io::Errno;

use super::super::MTU;
use super::super::firewall::{MESH_LINK, VXLAN_PORT};
use super::super::netlink::flags;
use super::super::route::{RTM_NEWROUTE, Routes};
use super::NodeMark;

const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;

/// The one network that there is. 0 means none to some who look at packets.
const NETWORK: u64 = 1;
/// Metric of a route to a pod elsewhere: below one of this node's own, which has none, so that neither is put in the other's place while a
/// pod moves.
const METRIC: u32 = 100;
/// Where in the order of routing rules marks are looked at.
const WAYS_PRIORITY: u32 = 100;
/// Where a mark ends that has no way any more: the answer would leave by the node's own, in clear and under the pod's address.
const STRAY_PRIORITY: u32 = 101;
/// Where the node's own addresses are, which the kernel puts at 0: after the marks, since an answer to a client of another node may be to an
/// address of this one.
const LOCAL_PRIORITY: u32 = 200;
/// `RT_TABLE_LOCAL`, linux/rtnetlink.h.
const LOCAL: u32 = 255;
/// `RT_TABLE_MAIN`.
const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// What a route leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Destination {
    /// A pod.
    Pod(Ipv4Addr),
    /// Clients that have come by that node.
    Answers(NodeMark),
}

/// The link and its routes.
#[derive(Debug)]
pub(super) struct Tunnel {
    kernel: Routes,
    index: u32,
}

impl Tunnel {
    /// Makes the link where it isn't there; it isn't up yet.
    pub(super) fn make() -> Result<Self, Errno> {
        let mut kernel = Routes::open()?;
        let vxlan = vec![
            InfoVxlan::CollectMetadata(true),
            InfoVxlan::Gpe,
            InfoVxlan::Learning(false),
            InfoVxlan::Port(VXLAN_PORT),
            // WireGuard has checked what comes; nothing is sent with a checksum of UDP's.
            InfoVxlan::UDPZeroCsumRX(true),
        ];
        let info = vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(vxlan)),
        ];
        let index = kernel.make_link(MESH_LINK, info)?;
        Ok(Self { kernel, index })
    }

    /// After [`Tunnel::make`].
    pub(super) fn bring_up(&mut self) -> Result<(), Errno> {
        self.kernel.set_up(self.index, Some(MTU))?;
        let mut stray = rule(STRAY_PRIORITY, 0);
        stray.header.action = RuleAction::Unreachable;
        stray.header.flags = RuleFlags::Invert;
        stray.attributes.push(RuleAttribute::FwMark(0));
        stray.attributes.push(RuleAttribute::FwMask(u32::MAX));
        self.add_rule(&stray)?;
        let mut local = rule(LOCAL_PRIORITY, LOCAL);
        self.add_rule(&local)?;
        local
            .attributes
            .retain(|attribute| !matches!(attribute, RuleAttribute::Priority(_)));
        local.attributes.push(RuleAttribute::Priority(0));
        ignoring(Errno::NOENT, self.kernel.request(RTM_DELRULE, 0, &local))
    }

    /// Leads there by a node, whichever it was before.
    pub(super) fn lead(&mut self, to: Destination, node: Ipv6Addr) -> Result<(), Errno> {
        let mut message = self.route(to);
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Link;
        message.header.kind = RouteType::Unicast;
        let encapsulation = [
            RouteIp6Tunnel::Id(NETWORK),
            RouteIp6Tunnel::Destination(node),
        ];
        message.attributes.extend([
            RouteAttribute::EncapType(RouteLwEnCapType::Ip6),
            RouteAttribute::Encap(encapsulation.map(RouteLwTunnelEncap::Ip6).into()),
        ]);
        self.kernel.send(RTM_NEWROUTE, &message)
    }

    /// Leads there no more. What isn't led to is no error.
    pub(super) fn remove(&mut self, to: Destination) -> Result<(), Errno> {
        let mut message = self.route(to);
        // Of whatever scope.
        message.header.scope = RouteScope::NoWhere;
        let removed = self.kernel.request(RTM_DELROUTE, 0, &message);
        ignoring(Errno::SRCH, removed)
    }

    /// Has marked packets take the table of their mark.
    pub(super) fn answer(&mut self, mark: NodeMark) -> Result<(), Errno> {
        self.add_rule(&way(mark))
    }

    fn add_rule(&mut self, rule: &RuleMessage) -> Result<(), Errno> {
        let flags = flags::CREATE | flags::EXCLUSIVE;
        let added = self.kernel.request(RTM_NEWRULE, flags, rule);
        ignoring(Errno::EXIST, added)
    }

    /// Has them take it no more.
    pub(super) fn forget(&mut self, mark: NodeMark) -> Result<(), Errno> {
        let removed = self.kernel.request(RTM_DELRULE, 0, &way(mark));
        ignoring(Errno::NOENT, removed)
    }

    /// The routes that there are, and the node that each leads by.
    pub(super) fn routes(&mut self) -> Result<BTreeMap<Destination, Ipv6Addr>, Errno> {
        let mut all = RouteMessage::default();
        all.header.address_family = AddressFamily::Inet;
        let index = self.index;
        let routes = self.kernel.dump(RTM_GETROUTE, &all)?;
        Ok(routes
            .iter()
            .filter_map(|route| parse(route, index))
            .collect())
    }

    /// The marks that have a way.
    pub(super) fn ways(&mut self) -> Result<BTreeMap<NodeMark, ()>, Errno> {
        let mut all = RuleMessage::default();
        all.header.family = AddressFamily::Inet;
        let rules = self.kernel.dump(RTM_GETRULE, &all)?;
        let ours = rules.iter().filter(|rule| {
            let priority = RuleAttribute::Priority(WAYS_PRIORITY);
            rule.attributes.contains(&priority)
        });
        let marks = ours.flat_map(|rule| &rule.attributes).filter_map(|a| {
            let RuleAttribute::FwMark(mark) = a else {
                return None;
            };
            Some((NodeMark(u32::from_be_bytes(mark.to_ne_bytes())), ()))
        });
        Ok(marks.collect())
    }

    fn route(&self, to: Destination) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let table = match to {
            Destination::Pod(address) => {
                message.header.destination_prefix_length = 32;
                let address = RouteAddress::Inet(address);
                message
                    .attributes
                    .push(RouteAttribute::Destination(address));
                MAIN
            }
            Destination::Answers(mark) => mark.table(),
        };
        message.attributes.extend([
            RouteAttribute::Table(table),
            RouteAttribute::Priority(METRIC),
            RouteAttribute::Oif(self.index),
        ]);
        message
    }
}

/// A route of the link's; none of anything else's.
fn parse(route: &RouteMessage, index: u32) -> Option<(Destination, Ipv6Addr)> {
    let (mut table, mut pod, mut node, mut on_link) = (0, None, None, false);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(RouteAddress::Inet(address)) => pod = Some(*address),
            RouteAttribute::Oif(oif) => on_link = *oif == index,
            RouteAttribute::Encap(parts) => {
                node = parts.iter().find_map(|part| match part {
                    RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Destination(node)) => Some(*node),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let node = node.filter(|_| on_link)?;
    let to = match pod {
        Some(address) => Destination::Pod(address),
        None => Destination::Answers(NodeMark::of(node).filter(|mark| mark.table() == table)?),
    };
    Some((to, node))
}

fn way(mark: NodeMark) -> RuleMessage {
    let mut message = rule(WAYS_PRIORITY, mark.table());
    message
        .attributes
        .push(RuleAttribute::FwMark(mark.on_packets()));
    message
}

fn rule(priority: u32, table: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(priority),
        RuleAttribute::Table(table),
    ];
    message
}

fn ignoring(expected: Errno, result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(errno) if errno == expected => Ok(()),
        result => result,
    }
}
