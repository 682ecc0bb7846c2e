//! The node's nftables table: what pods may do, and which ports of the node lead to them. In nft's words:
//!
//! ```text
//! table inet hearth {
//!     map links { type ifname . ipv4_addr : tenant }       # who speaks on a link, and for which tenant
//!     set members { type tenant . ipv4_addr }              # the pods of each tenant
//!     map ports { type inet_proto . inet_service : ipv4_addr . inet_service }                   # published on all addresses
//!     map bound-ports { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service } # on one
//!
//!     chain source { type filter hook prerouting priority raw; policy accept;      # before connection tracking
//!         iifname "pod-*" iifname . ip saddr map @links accept
//!         iifname "pod-*" drop                                                     # somebody else's address; IPv6
//!         iifname != "lo" ip saddr POD-NETWORK drop                                # a pod's address from outside
//!     }
//!     chain input { type filter hook input priority filter; policy accept;         # the node's own ports are not for pods
//!         ct state established,related accept
//!         iifname "pod-*" meta l4proto icmp accept
//!         iifname "pod-*" drop
//!     }
//!     chain forward { type filter hook forward priority filter; policy drop;
//!         ct state established,related accept
//!         ct status dnat accept                                                    # a published port is for everybody
//!         iifname "pod-*" oifname "pod-*" (iifname . ip saddr map @links) . ip daddr @members accept   # tenant's own
//!         iifname "pod-*" oifname != "pod-*" accept                                # the world
//!     }
//!     chain publish { type nat hook prerouting priority dstnat; policy accept;     # and the same on output
//!         dnat ip to ip daddr . meta l4proto . th dport map @bound-ports
//!         fib daddr type local dnat ip to meta l4proto . th dport map @ports
//!     }
//!     chain leave { type nat hook postrouting priority srcnat; policy accept;
//!         ip saddr POD-NETWORK oifname != "pod-*" masquerade
//!         ct status dnat ip saddr POD-NETWORK oifname "pod-*" snat ip to GATEWAY   # pod to published port: answers come by the node
//!     }
//! }
//! ```
//!
//! A tenant is 16 bytes of its name's SHA-256: the kernel can't compare two registers, but it can look up a set by both.

use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr};

use sha2::{Digest, Sha256};

use super::expression::{Connection, Expression, IPV4, Meta, Payload, Register, state, status};
use super::nftables::{Batch, Chain, Element, Field, Hook, Set};
use super::tun::NAME_LEN;
use super::{NetworkConfig, Published};
use crate::state::Protocol;

/// What a pod's link is called begins so; nothing else's does.
pub(super) const LINK_PREFIX: &str = "pod-";
/// Our table.
pub(super) const TABLE: &CStr = c"hearth";

/// See the module's page.
pub(super) const LINKS: Set = Set {
    name: c"links",
    key: &[Field::InterfaceName, Field::Ipv4],
    value: &[Field::Opaque],
};
const MEMBERS: Set = Set {
    name: c"members",
    key: &[Field::Opaque, Field::Ipv4],
    value: &[],
};
const PORTS: Set = Set {
    name: c"ports",
    key: &[Field::Protocol, Field::Port],
    value: &[Field::Ipv4, Field::Port],
};
const BOUND_PORTS: Set = Set {
    name: c"bound-ports",
    key: &[Field::Ipv4, Field::Protocol, Field::Port],
    value: &[Field::Ipv4, Field::Port],
};

const SOURCE: Chain = Chain {
    name: c"source",
    class: c"filter",
    hook: Hook::Prerouting,
    priority: -300,
    accept: true,
};
const INPUT: Chain = Chain {
    name: c"input",
    class: c"filter",
    hook: Hook::Input,
    priority: 0,
    accept: true,
};
const FORWARD: Chain = Chain {
    name: c"forward",
    class: c"filter",
    hook: Hook::Forward,
    priority: 0,
    accept: false,
};
const PUBLISH: Chain = Chain {
    name: c"publish",
    class: c"nat",
    hook: Hook::Prerouting,
    priority: -100,
    accept: true,
};
const PUBLISH_LOCAL: Chain = Chain {
    name: c"publish-local",
    class: c"nat",
    hook: Hook::Output,
    priority: -100,
    accept: true,
};
const LEAVE: Chain = Chain {
    name: c"leave",
    class: c"nat",
    hook: Hook::Postrouting,
    priority: 100,
    accept: true,
};

/// A pod as the rules know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Its link's name.
    pub(super) link: String,
    /// Its address.
    pub(super) address: Ipv4Addr,
    /// Whose it is.
    pub(super) tenant: TenantKey,
}

/// A tenant as the rules know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TenantKey([u8; 16]);

impl TenantKey {
    pub(super) fn of(tenant: &str) -> Self {
        let digest = Sha256::digest(tenant.as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        Self(key)
    }
}

/// A change of the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Lay down all rules anew, keep what is known of pods and ports.
    Base(NetworkConfig),
    /// Let a pod in; in place of what was known of its link.
    Admit(Pod),
    /// Forget a pod.
    Expel(Pod),
    /// Exactly these ports are published.
    Publish(Vec<Published>),
}

/// See [`Change::Admit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod(pub(super) Member);

impl Pod {
    /// The name of its link on the node.
    pub fn link(&self) -> &str {
        &self.0.link
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.0.address
    }
}

impl Change {
    /// Adds what the kernel is to be told.
    pub(super) fn encode(&self, batch: &mut Batch) {
        match self {
            Self::Base(config) => base(config, batch),
            Self::Admit(Pod(member)) => {
                // An element of a map can't be given another value; so it goes first.
                batch.destroy_elements(
                    &LINKS,
                    &[Element {
                        value: Vec::new(),
                        ..member.link_element()
                    }],
                );
                batch.add_elements(&LINKS, &[member.link_element()]);
                batch.add_elements(&MEMBERS, &[member.member_element()]);
            }
            Self::Expel(Pod(member)) => {
                batch.destroy_elements(
                    &LINKS,
                    &[Element {
                        value: Vec::new(),
                        ..member.link_element()
                    }],
                );
                batch.destroy_elements(&MEMBERS, &[member.member_element()]);
            }
            Self::Publish(ports) => {
                batch.clear(&PORTS);
                batch.clear(&BOUND_PORTS);
                let (bound, anywhere): (Vec<_>, Vec<_>) =
                    ports.iter().partition(|p| specific(p).is_some());
                batch.add_elements(&PORTS, &elements(&anywhere));
                batch.add_elements(&BOUND_PORTS, &elements(&bound));
            }
        }
    }
}

impl Member {
    fn link_element(&self) -> Element {
        let key = [name(&self.link).as_slice(), &self.address.octets()].concat();
        Element {
            key,
            value: self.tenant.0.to_vec(),
        }
    }

    fn member_element(&self) -> Element {
        Element {
            key: [self.tenant.0.as_slice(), &self.address.octets()].concat(),
            value: Vec::new(),
        }
    }

    /// What [`LINKS`] says about a pod, read back.
    pub(super) fn parse(element: &Element) -> Option<Self> {
        let (link, address) = element.key.split_at_checked(NAME_LEN)?;
        let link = CStr::from_bytes_until_nul(link)
            .ok()?
            .to_str()
            .ok()?
            .to_owned();
        let address = Ipv4Addr::from(*address.first_chunk::<4>()?);
        Some(Self {
            link,
            address,
            tenant: TenantKey(*element.value.first_chunk()?),
        })
    }
}

/// The address of the node that a port is published on, where it isn't all of them.
fn specific(published: &Published) -> Option<Ipv4Addr> {
    match published.binding.host_ip {
        Some(IpAddr::V4(address)) if !address.is_unspecified() => Some(address),
        _ => None,
    }
}

fn elements(ports: &[&Published]) -> Vec<Element> {
    ports.iter().map(|published| element(published)).collect()
}

fn element(published: &Published) -> Element {
    /// IANA's protocol numbers.
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let binding = &published.binding;
    let protocol = match binding.protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    let mut key = specific(published).map_or_else(Vec::new, |address| address.octets().to_vec());
    key.extend([protocol, 0, 0, 0]);
    key.extend(port(binding.host_port));
    Element {
        key,
        value: [published.address.octets(), port(binding.container_port)].concat(),
    }
}

/// A port as a register holds it.
fn port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// A link's name as a register holds it; ours are shorter than that.
fn name(link: &str) -> [u8; NAME_LEN] {
    let mut name = [0; NAME_LEN];
    for (to, from) in name.iter_mut().zip(link.bytes()) {
        *to = from;
    }
    name
}

fn base(config: &NetworkConfig, batch: &mut Batch) {
    batch.add_table();
    for set in [&LINKS, &MEMBERS, &PORTS, &BOUND_PORTS] {
        batch.add_set(set);
    }
    for chain in [&SOURCE, &INPUT, &FORWARD, &PUBLISH, &PUBLISH_LOCAL, &LEAVE] {
        batch.add_empty_chain(chain);
    }
    let mut rule = |chain: &Chain, parts: &[&[Expression]]| batch.add_rule(chain, &parts.concat());

    rule(
        &SOURCE,
        &[
            &from_pod(),
            &ipv4(),
            &tenant_of_source(),
            &[Expression::Accept],
        ],
    );
    rule(&SOURCE, &[&from_pod(), &[Expression::Drop]]);
    rule(
        &SOURCE,
        &[
            &not_from_loopback(),
            &ipv4(),
            &from_network(config),
            &[Expression::Drop],
        ],
    );

    rule(&INPUT, &[&known_connection(), &[Expression::Accept]]);
    rule(&INPUT, &[&from_pod(), &icmp(), &[Expression::Accept]]);
    rule(&INPUT, &[&from_pod(), &[Expression::Drop]]);

    rule(&FORWARD, &[&known_connection(), &[Expression::Accept]]);
    rule(&FORWARD, &[&redirected(), &[Expression::Accept]]);
    rule(
        &FORWARD,
        &[
            &from_pod(),
            &to_pod(),
            &ipv4(),
            &tenant_of_source(),
            &to_member(),
            &[Expression::Accept],
        ],
    );
    rule(
        &FORWARD,
        &[&from_pod(), &not_to_pod(), &[Expression::Accept]],
    );

    for chain in [&PUBLISH, &PUBLISH_LOCAL] {
        rule(chain, &[&ipv4(), &to_bound_port()]);
        rule(
            chain,
            &[
                &ipv4(),
                &[Expression::DestinationIsLocal(Register(0))],
                &to_port(),
            ],
        );
    }

    rule(
        &LEAVE,
        &[
            &ipv4(),
            &from_network(config),
            &not_to_pod(),
            &[Expression::Masquerade],
        ],
    );
    let come_from_gateway = [
        Expression::Constant(config.gateway.octets().to_vec(), Register(0)),
        Expression::ComeFrom(Register(0)),
    ];
    rule(
        &LEAVE,
        &[
            &ipv4(),
            &from_network(config),
            &redirected(),
            &to_pod(),
            &come_from_gateway,
        ],
    );
}

fn from_pod() -> [Expression; 2] {
    [
        Expression::Meta(Meta::InputName, Register(0)),
        Expression::Equal(Register(0), LINK_PREFIX.into()),
    ]
}

fn not_from_loopback() -> [Expression; 2] {
    [
        Expression::Meta(Meta::InputName, Register(0)),
        Expression::Unequal(Register(0), name("lo").to_vec()),
    ]
}

fn to_pod() -> [Expression; 2] {
    [
        Expression::Meta(Meta::OutputName, Register(0)),
        Expression::Equal(Register(0), LINK_PREFIX.into()),
    ]
}

fn not_to_pod() -> [Expression; 2] {
    [
        Expression::Meta(Meta::OutputName, Register(0)),
        Expression::Unequal(Register(0), LINK_PREFIX.into()),
    ]
}

/// Before any look at an IPv4 header: the table sees IPv6 as well.
fn ipv4() -> [Expression; 2] {
    [
        Expression::Meta(Meta::NetworkProtocol, Register(0)),
        Expression::Equal(Register(0), vec![IPV4]),
    ]
}

fn icmp() -> [Expression; 2] {
    /// IANA's protocol number.
    const ICMP: u8 = 1;
    [
        Expression::Meta(Meta::TransportProtocol, Register(0)),
        Expression::Equal(Register(0), vec![ICMP]),
    ]
}

fn known_connection() -> [Expression; 2] {
    [
        Expression::Connection(Connection::State, Register(0)),
        Expression::AnyOf(Register(0), state::ESTABLISHED | state::RELATED),
    ]
}

fn redirected() -> [Expression; 2] {
    [
        Expression::Connection(Connection::Status, Register(0)),
        Expression::AnyOf(Register(0), status::DESTINATION_TRANSLATED),
    ]
}

/// Goes on if the link may use the source address; its tenant is then in registers 5–8.
fn tenant_of_source() -> [Expression; 3] {
    [
        Expression::Meta(Meta::InputName, Register(0)),
        Expression::Payload(Payload::Source, Register(4)),
        Expression::Map(LINKS.name, Register(0), Register(5)),
    ]
}

/// After [`tenant_of_source`]: goes on if the destination is of the same tenant.
fn to_member() -> [Expression; 2] {
    [
        Expression::Payload(Payload::Destination, Register(9)),
        Expression::In(MEMBERS.name, Register(5)),
    ]
}

fn from_network(config: &NetworkConfig) -> [Expression; 3] {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(config.prefix))
        .unwrap_or(0);
    // Masked as the bytes lie in the packet.
    [
        Expression::Payload(Payload::Source, Register(0)),
        Expression::Masked(Register(0), mask.to_be_bytes()),
        Expression::Equal(Register(0), config.pods.octets().to_vec()),
    ]
}

fn to_bound_port() -> [Expression; 5] {
    let [protocol, number] = protocol_and_port(Register(1), Register(2));
    [
        Expression::Payload(Payload::Destination, Register(0)),
        protocol,
        number,
        Expression::Map(BOUND_PORTS.name, Register(0), Register(4)),
        Expression::Redirect {
            address: Register(4),
            port: Register(5),
        },
    ]
}

fn to_port() -> [Expression; 4] {
    let [protocol, number] = protocol_and_port(Register(0), Register(1));
    [
        protocol,
        number,
        Expression::Map(PORTS.name, Register(0), Register(4)),
        Expression::Redirect {
            address: Register(4),
            port: Register(5),
        },
    ]
}

fn protocol_and_port(protocol: Register, port: Register) -> [Expression; 2] {
    [
        Expression::Meta(Meta::TransportProtocol, protocol),
        Expression::Payload(Payload::DestinationPort, port),
    ]
}
