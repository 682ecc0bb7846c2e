//! The pods' network on one node: a TUN link and a route for each pod, NAT, published ports, and the walls between tenants.
//!
//! A pod has an IPv4 address and no Ethernet segment: its monitor strips Ethernet and passes IP packets to a TUN
//! queue; the rest is the kernel's routing and one nftables table.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::state::PortBinding;

/// Bytes of the largest IP packet of a pod. Ethernet's own, so that what a pod sends needs no fragments on an ordinary uplink; within
/// a node larger TCP segments travel whole through the TUN queue's offloads, so a larger MTU would win nothing.
pub const MTU: u16 = 1500;

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
        source: std::io::Error,
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
}

/// The node's network. Cheap to clone.
///
/// Order: `start` once in a process's life; then `readopt` for each pod whose monitor has survived the last process and `detach` for each
/// whose hasn't; then `publish` and any number of (`attach` … `detach`) for each pod. All calls are short system calls,
/// made on the calling thread; none waits for anything but the kernel. From any thread.
#[derive(Clone)]
pub struct Network {
    inner: Arc<NetworkConfig>,
}

fn soon<T>() -> Result<T, Error> {
    Err(Error::Kernel {
        doing: "pods' network".into(),
        source: std::io::Error::other("being written"),
    })
}

impl Network {
    /// Prepare the node: forwarding, the gateway's address, the rules. What an earlier process has set up for its pods
    /// stays in force throughout.
    pub fn start(config: NetworkConfig) -> Result<Self, Error> {
        Ok(Self {
            inner: Arc::new(config),
        })
    }

    /// Make a pod's link, route and rules. `pod` names it on this node; its link's name is derived from it.
    pub fn attach(&self, _pod: &str, _tenant: &str, _address: Ipv4Addr) -> Result<PodLink, Error> {
        let _ = &self.inner;
        soon()
    }

    /// Take up a pod again whose monitor (and with it its link) has outlived the process that attached it.
    pub fn readopt(&self, _pod: &str, _tenant: &str, _address: Ipv4Addr) -> Result<(), Error> {
        soon()
    }

    /// Remove a pod's rules; its link goes with its monitor. Of a pod that is not there: nothing to do, no error.
    pub fn detach(&self, _pod: &str) -> Result<(), Error> {
        soon()
    }

    /// Make exactly these ports lead to pods, at once for all. Connections that are established stay.
    pub fn publish(&self, _ports: &[Published]) -> Result<(), Error> {
        soon()
    }
}
