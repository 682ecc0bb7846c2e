//! The pods' network on one node: a TUN link and a route for each pod, NAT, published ports, and the walls between tenants.
//!
//! A pod has an IPv4 address and no Ethernet segment: its monitor strips Ethernet and passes IP packets to a TUN
//! queue; the rest is the kernel's routing and one nftables table, whose page is [`firewall`]. How pods of several nodes reach each other
//! is [`mesh`]'s.
//!
//! ```text
//! guest ──Ethernet── monitor ──IP── pod-1f2e3d4c5b6 ─┬─ route 10.88.0.2/32 ── rules ── eth0
//! guest ──Ethernet── monitor ──IP── pod-60a1b2c3d4e ─┘                            │
//!                                   pod-mesh ─── other nodes' pods ─── hearth-wg ─┘
//! ```
//!
//! What the kernel has been told survives this process: links live as long as their monitors, rules until the node
//! stops.

mod connections;
mod expression;
mod firewall;
mod kernel;
pub mod mesh;
mod netlink;
mod nftables;
mod publish;
mod route;
#[cfg(test)]
mod tests;
mod tun;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

pub use self::connections::Connections;
pub use self::firewall::{Change, Pod};
use self::firewall::{LINK_PREFIX, MESH_LINK, Member, TenantKey};
pub use self::kernel::{Kernel, Linux};
use self::publish::Ports;
use crate::state::PortBinding;

/// Bytes of the largest IP packet of a pod: as large as one that travels to another node in one Ethernet frame. So TCP agrees on segments
/// that fit by itself, with the world's clients as well, and nobody depends on path MTU discovery or on segment sizes rewritten under way;
/// it costs a third of a per cent of an uplink's bytes. Within a node larger TCP segments travel whole through the TUN queue's offloads,
/// so a larger MTU would win little. Where the wire between nodes takes less than Ethernet's 1500 bytes, WireGuard's packets travel in
/// fragments.
pub const MTU: u16 = mesh::WIREGUARD_MTU - mesh::VXLAN_OVERHEAD;

/// Hexadecimal digits of a link's name: as many as fit behind [`LINK_PREFIX`]. With 44 bits, two of a million pods would hardly
/// share one, and if they do, the second start fails and says why.
const LINK_DIGITS: usize = tun::NAME_LEN - 1 - LINK_PREFIX.len();

/// First bytes of our Ethernet addresses, the IPv4 address follows: locally administered, unicast (IEEE 802, section 8), and "H".
const MAC_PREFIX: [u8; 2] = [0x02, 0x48];

/// What [`Network::start`] needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The pods' network, [`crate::state`]'s.
    pub pods: Ipv4Addr,
    /// Bits of `pods`.
    pub prefix: u8,
    /// The node's own address in it, every pod's next hop.
    pub gateway: Ipv4Addr,
}

/// A pod's way out, for its monitor.
#[derive(Debug)]
pub struct PodLink {
    /// TUN queue (`IFF_TUN | IFF_NO_PI | IFF_VNET_HDR`, non-blocking, close-on-exec). The link lives as long as some process has it
    /// open: give it to the monitor and drop it.
    pub tun: OwnedFd,
    /// The pod's Ethernet address.
    pub mac: [u8; 6],
    /// The gateway's.
    pub gateway_mac: [u8; 6],
    /// The gateway's addresses.
    pub gateway: Vec<IpAddr>,
    /// Bytes.
    pub mtu: u16,
}

/// A port of the node that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    /// Where on the node, and which port of the pod. The host port is never 0 here.
    pub binding: PortBinding,
    /// The pod's address.
    pub address: Ipv4Addr,
}

/// What went wrong with the node's network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("{doing}: {source}")]
    Kernel {
        /// What it was asked to do.
        doing: String,
        /// Its answer.
        source: io::Error,
    },
    /// Pods have IPv4 addresses only.
    #[error(
        "port {port} can't be published on {address}: pods have IPv4 addresses only; name an IPv4 address of the node or none"
    )]
    Ipv6Binding {
        /// As asked for.
        address: IpAddr,
        /// On the node.
        port: u16,
    },
    /// The node hasn't the address. In docker's words.
    #[error("failed to bind host port {address}:{port}: cannot assign requested address")]
    NoSuchAddress {
        /// As asked for.
        address: IpAddr,
        /// On the node.
        port: u16,
    },
    /// The node has no key to speak to others with.
    #[error(transparent)]
    Key(#[from] mesh::KeyError),
    /// Two ports lead from the same place.
    #[error("port {port} is published twice")]
    PublishedTwice {
        /// On the node.
        port: u16,
    },
}

/// The node's network. Cheap to clone.
///
/// Order: `start` once in a process's life; then `readopt` for each pod whose monitor has survived the last process and `detach` for each
/// whose hasn't; then `publish` and any number of (`attach` … `detach`) for each pod. All calls are short system calls
/// made on the calling thread; none waits for anything but the kernel. From any thread.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    kernel: Box<dyn Kernel>,
    gateway: Ipv4Addr,
    /// The pods that the rules know, by link. Held over a change of the rules, so that both agree.
    pods: Mutex<HashMap<String, Pod>>,
    /// What this process has published last. Held over the change, as `pods`.
    ports: Mutex<Ports>,
}

impl Network {
    /// Prepare the node: forwarding, the gateway's address, the rules. What an earlier process has set up for its pods
    /// stays in force throughout.
    pub fn start(config: NetworkConfig) -> Result<Self, Error> {
        Self::start_on(Box::new(Linux::open()?), config)
    }

    /// As [`Network::start`], on a kernel of the caller's.
    pub fn start_on(kernel: Box<dyn Kernel>, config: NetworkConfig) -> Result<Self, Error> {
        // The rules stand before the first packet is forwarded.
        kernel.change(&[Change::Base(config.clone())])?;
        kernel.add_own_address(config.gateway)?;
        kernel.add_unreachable(config.pods, config.prefix)?;
        // A pod that reaches a port published by itself comes back by its own link; that isn't worth telling it.
        kernel.set_parameter("net/ipv4/conf/all/send_redirects", "0")?;
        kernel.set_parameter("net/ipv4/ip_forward", "1")?;
        let pods = kernel
            .pods()?
            .into_iter()
            .filter(|pod| pod.link() != MESH_LINK)
            .map(|pod| (pod.link().to_owned(), pod))
            .collect();
        Ok(Self {
            inner: Arc::new(Inner {
                kernel,
                gateway: config.gateway,
                pods: Mutex::new(pods),
                ports: Mutex::default(),
            }),
        })
    }

    /// Make a pod's link, route and rules. `pod` names it on this node; its link's name is derived from it. Fails while a
    /// monitor of the same pod has its link open.
    pub fn attach(&self, pod: &str, tenant: &str, address: Ipv4Addr) -> Result<PodLink, Error> {
        let link = link_name(pod);
        // If a step fails, dropping the queue removes the link, and the route with it.
        let tun = self.inner.kernel.create_link(&link)?;
        self.admit(link, tenant, address)?;
        let gateway = self.inner.gateway;
        Ok(PodLink {
            tun,
            mac: mac(address),
            gateway_mac: mac(gateway),
            gateway: vec![gateway.into()],
            mtu: MTU,
        })
    }

    /// Take up a pod again whose monitor (and with it its link) has outlived the process that attached it.
    pub fn readopt(&self, pod: &str, tenant: &str, address: Ipv4Addr) -> Result<(), Error> {
        self.admit(link_name(pod), tenant, address)
    }

    /// Remove a pod's rules, and forget its connections; its link goes with its monitor. Of a pod that is not there: nothing to do, no
    /// error.
    pub fn detach(&self, pod: &str) -> Result<(), Error> {
        let link = link_name(pod);
        let mut pods = self.pods();
        let Some(pod) = pods.get(&link) else {
            return Ok(());
        };
        let address = pod.address();
        self.inner.kernel.change(&[Change::Expel(pod.clone())])?;
        pods.remove(&link);
        drop(pods);
        // The next pod with this address is a stranger to them.
        self.inner
            .kernel
            .forget(&[Connections::From(address), Connections::To(address)])
    }

    fn admit(&self, link: String, tenant: &str, address: Ipv4Addr) -> Result<(), Error> {
        let kernel = &self.inner.kernel;
        // Also by the route back, whatever becomes of the rules.
        kernel.set_parameter(&format!("net/ipv4/conf/{link}/rp_filter"), "1")?;
        // No address of the kernel's own making, and no packets about it.
        kernel.set_parameter(&format!("net/ipv6/conf/{link}/disable_ipv6"), "1")?;
        let pod = Pod(Member {
            link: link.clone(),
            address,
            tenant: TenantKey::of(tenant),
        });
        let mut pods = self.pods();
        let before = pods.get(&link).filter(|before| **before != pod).cloned();
        let changes: Vec<Change> = before
            .map(Change::Expel)
            .into_iter()
            .chain([Change::Admit(pod.clone())])
            .collect();
        kernel.change(&changes)?;
        pods.insert(link.clone(), pod);
        drop(pods);
        kernel.lead(&link, MTU, address, self.inner.gateway)
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<String, Pod>> {
        // An entry is changed in one step, after the kernel has been.
        self.inner
            .pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same for the same pod, in every process.
fn link_name(pod: &str) -> String {
    let digits = hex::encode(Sha256::digest(pod.as_bytes()));
    format!("{LINK_PREFIX}{}", &digits[..LINK_DIGITS])
}

fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [MAC_PREFIX[0], MAC_PREFIX[1], a, b, c, d]
}
