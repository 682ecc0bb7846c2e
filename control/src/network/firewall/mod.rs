//! The node's nftables table: what pods may do, and which ports of the node lead to them. In nft's words:
//!
//! ```text
//! table inet hearth {
//!     map links { type ifname . ipv4_addr : tenant }       # who speaks on a link, and for which tenant; of other nodes' pods: pod-mesh
//!     set members { type tenant . ifname . ipv4_addr }     # the pods of each tenant, and where they are
//!     set targets { type ipv4_addr . inet_proto . inet_service }                                # what published ports lead to
//!     map ports { type inet_proto . inet_service : ipv4_addr . inet_service }                   # published on all addresses
//!     map bound-ports { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service } # on one
//!
//!     chain source { type filter hook prerouting priority raw; policy accept;      # before connection tracking
//!         iifname "pod-*" iifname . ip saddr map @links accept
//!         iifname "pod-mesh" ip saddr != POD-NETWORK accept                        # a client of a port, by the node that it asked
//!         iifname "pod-*" drop                                                     # somebody else's address; IPv6
//!         iifname != "lo" ip saddr POD-NETWORK drop                                # a pod's address from outside
//!     }
//!     chain entry { type filter hook prerouting priority mangle; policy accept;    # which node a client has come by
//!         iifname "hearth-wg" meta mark set (the last 4 bytes of ip6 saddr)        # what is inside keeps the mark
//!         iifname "pod-mesh" ip saddr != POD-NETWORK ct mark set meta mark
//!         iifname "pod-mesh" meta mark set 0 accept
//!         iifname "pod-*" meta mark set ct mark                                    # an answer: back to that node, by its routing table
//!     }
//!     chain input { type filter hook input priority filter; policy accept;         # the node's own ports are not for pods
//!         iifname != "hearth-wg" udp dport VXLAN drop                              # nobody's but the nodes'
//!         ct state established,related accept
//!         iifname "pod-*" meta l4proto icmp accept
//!         iifname "pod-*" drop
//!     }
//!     chain output { type filter hook output priority filter; policy accept;
//!         oifname != "hearth-wg" udp dport VXLAN drop                              # never in clear
//!     }
//!     chain forward { type filter hook forward priority filter; policy drop;
//!         iifname "pod-mesh" oifname "pod-mesh" drop                               # its sender is to know better where a pod is
//!         ct state established,related accept
//!         ct status dnat accept                                                    # a published port is for everybody
//!         iifname "pod-mesh" oifname "pod-*" ip daddr . meta l4proto . th dport @targets accept        # as much, redirected elsewhere
//!         iifname "pod-*" oifname "pod-*" (iifname . ip saddr map @links) . oifname . ip daddr @members accept   # tenant's own
//!         iifname "pod-mesh" drop
//!         iifname "pod-*" oifname != "pod-*" accept                                # the world
//!     }
//!     chain publish { type nat hook prerouting priority dstnat; policy accept;     # and the same on output
//!         dnat ip to ip daddr . meta l4proto . th dport map @bound-ports
//!         fib daddr type local dnat ip to meta l4proto . th dport map @ports
//!     }
//!     chain leave { type nat hook postrouting priority srcnat; policy accept;
//!         ip saddr POD-NETWORK oifname != "pod-*" masquerade
//!         oifname "pod-mesh" accept                                                # answers come back to this node anyhow
//!         ct status dnat ip saddr POD-NETWORK oifname "pod-*" snat ip to GATEWAY   # pod to published port: answers come by the node
//!     }
//! }
//! ```
//!
//! A tenant is 16 bytes of its name's SHA-256: the kernel can't compare two registers, but it can look up a set by both.

mod ports;
mod rules;

use std::ffi::CStr;
use std::net::Ipv4Addr;

use sha2::{Digest, Sha256};

use super::nftables::{Batch, Chain, Element, Field, Hook, Set};
use super::tun::NAME_LEN;
use super::{NetworkConfig, Published};

/// What a pod's link is called begins so; nothing else's does.
pub(super) const LINK_PREFIX: &str = "pod-";
/// The link that leads to the pods of all other nodes. To the rules it is one of the pods' links, by which many of them speak; no pod's
/// own is called so, since `m` is no hexadecimal digit.
pub(super) const MESH_LINK: &str = "pod-mesh";
/// The link on which nodes speak to each other, encrypted: what leads to [`MESH_LINK`] travels in it.
pub(super) const WIREGUARD_LINK: &str = "hearth-wg";
/// Where nodes expect each other's pods' packets, UDP: VXLAN-GPE's by IANA.
pub(super) const VXLAN_PORT: u16 = 4790;
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
    key: &[Field::Opaque, Field::InterfaceName, Field::Ipv4],
    value: &[],
};
const TARGETS: Set = Set {
    name: c"targets",
    key: &[Field::Ipv4, Field::Protocol, Field::Port],
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
const ENTRY: Chain = Chain {
    name: c"entry",
    class: c"filter",
    hook: Hook::Prerouting,
    priority: -150,
    accept: true,
};
const OUTPUT: Chain = Chain {
    name: c"output",
    class: c"filter",
    hook: Hook::Output,
    priority: 0,
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
    /// Other nodes' pods: forget some and let others in, at once for all.
    Elsewhere {
        /// To be forgotten.
        gone: Vec<Pod>,
        /// To be let in; of none of them is anything else known.
        come: Vec<Pod>,
    },
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
            Self::Base(config) => rules::lay(config, batch),
            Self::Admit(Pod(member)) => {
                // An element of a map can't be given another value; so it goes first.
                batch.destroy_elements(&LINKS, &[member.link_key()]);
                batch.add_elements(&LINKS, &[member.link_element()]);
                batch.add_elements(&MEMBERS, &[member.member_element()]);
            }
            Self::Expel(Pod(member)) => {
                batch.destroy_elements(&LINKS, &[member.link_key()]);
                batch.destroy_elements(&MEMBERS, &[member.member_element()]);
            }
            Self::Elsewhere { gone, come } => {
                let all = |pods: &[Pod], element: fn(&Member) -> Element| -> Vec<Element> {
                    pods.iter().map(|Pod(member)| element(member)).collect()
                };
                batch.destroy_elements(&LINKS, &all(gone, Member::link_key));
                batch.destroy_elements(&MEMBERS, &all(gone, Member::member_element));
                batch.add_elements(&LINKS, &all(come, Member::link_element));
                batch.add_elements(&MEMBERS, &all(come, Member::member_element));
            }
            Self::Publish(ports) => {
                batch.clear(&PORTS);
                batch.clear(&BOUND_PORTS);
                batch.clear(&TARGETS);
                let (bound, anywhere) = ports::elements(ports);
                batch.add_elements(&PORTS, &anywhere);
                batch.add_elements(&BOUND_PORTS, &bound);
                batch.add_elements(&TARGETS, &ports::targets(ports));
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

    fn link_key(&self) -> Element {
        Element {
            value: Vec::new(),
            ..self.link_element()
        }
    }

    fn member_element(&self) -> Element {
        let link = name(&self.link);
        Element {
            key: [self.tenant.0.as_slice(), &link, &self.address.octets()].concat(),
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

/// A link's name as a register holds it; ours are shorter than that.
fn name(link: &str) -> [u8; NAME_LEN] {
    let mut name = [0; NAME_LEN];
    for (to, from) in name.iter_mut().zip(link.bytes()) {
        *to = from;
    }
    name
}
