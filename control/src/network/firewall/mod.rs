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
            Self::Base(config) => rules::lay(config, batch),
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
                let (bound, anywhere) = ports::elements(ports);
                batch.add_elements(&PORTS, &anywhere);
                batch.add_elements(&BOUND_PORTS, &bound);
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

/// A link's name as a register holds it; ours are shorter than that.
fn name(link: &str) -> [u8; NAME_LEN] {
    let mut name = [0; NAME_LEN];
    for (to, from) in name.iter_mut().zip(link.bytes()) {
        *to = from;
    }
    name
}
