//! Nodes of one token find each other on their link: DNS-based service discovery over multicast DNS (RFC 6763, RFC 6762).
//!
//! A node tells its id, its cluster's, whether that holds anything yet, and what is drawn from the token: only nodes of the same token look at
//! each other further. None of it is believed: whoever is found must prove who it is when it is spoken to.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use mdns_sd::{IfKind, IfPredicate, ServiceDaemon, ServiceEvent, ServiceInfo};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::links;
use crate::state::{NodeId, State};

/// What nodes announce themselves as.
const SERVICE: &str = "_hearth._tcp.local.";
/// Nodes that are remembered: more than there are on a link of people who know each other, and no end of memory for whoever floods it.
const FOUND_MAX: usize = 256;
/// Between two looks for other addresses of this machine, seconds: they change when a cable is pulled or a lease ends.
const ADDRESS_CHECK_S: u32 = 60;

/// What a node tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// Which it is.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: [u8; 16],
    /// That holds nothing yet, and nobody else.
    pub empty: bool,
}

impl Announced {
    /// What this node has to tell.
    pub fn of(node: NodeId, state: &State) -> Self {
        Self {
            node,
            cluster: state.cluster.id,
            empty: state.is_empty(),
        }
    }
}

/// A node that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it says.
    pub announced: Announced,
    /// Where it says that peers reach it.
    pub addresses: Vec<SocketAddr>,
}

/// Looks for others, and is found by them, until dropped.
pub struct Discovery {
    daemon: ServiceDaemon,
    token: String,
    hostname: String,
    port: u16,
    found: Arc<Mutex<HashMap<String, Found>>>,
    changed: Arc<Notify>,
}

/// Why nodes can't find each other.
#[derive(Debug, thiserror::Error)]
#[error("nodes can't find each other on the link: {0}")]
pub struct DiscoveryError(#[from] mdns_sd::Error);

impl Discovery {
    /// Begins to look for nodes of the same stick, which `tag` tells ([`crate::trust::ClusterSecret::discovery_tag`]), and whose peers
    /// are reached on `port`.
    pub fn start(tag: [u8; 16], hostname: &str, port: u16) -> Result<Self, DiscoveryError> {
        let daemon = ServiceDaemon::new()?;
        daemon.disable_interface(IfKind::All)?;
        let to_others = IfPredicate::new(|link| {
            matches!(link.addr.ip(), IpAddr::V4(_)) && links::leads_out(&link.name)
        });
        daemon.enable_interface(IfKind::Predicate(to_others))?;
        daemon.set_ip_check_interval(ADDRESS_CHECK_S)?;
        let events = daemon.browse(SERVICE)?;
        let discovery = Self {
            daemon,
            token: hex::encode(tag),
            hostname: hostname.to_owned(),
            port,
            found: Arc::default(),
            changed: Arc::default(),
        };
        let (found, changed) = (Arc::clone(&discovery.found), Arc::clone(&discovery.changed));
        let token = discovery.token.clone();
        tokio::spawn(async move {
            while let Ok(event) = events.recv_async().await {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                let changes = match event {
                    ServiceEvent::ServiceResolved(service) => {
                        let property = |name| service.txt_properties.get_property_val_str(name);
                        let addresses = service.addresses.iter().map(|ip| ip.to_ip_addr());
                        let read = stranger(property, addresses, service.port, &token);
                        let room = found.len() < FOUND_MAX || found.contains_key(&service.fullname);
                        match read.filter(|_| room) {
                            Some(node) => {
                                found.insert(service.fullname.clone(), node.clone()) != Some(node)
                            }
                            None => found.remove(&service.fullname).is_some(),
                        }
                    }
                    ServiceEvent::ServiceRemoved(_, name) => found.remove(&name).is_some(),
                    _ => false,
                };
                drop(found);
                if changes {
                    changed.notify_one();
                }
            }
        });
        Ok(discovery)
    }

    /// Tells others of this node, in place of what was told before.
    pub fn announce(&self, announced: &Announced) -> Result<(), DiscoveryError> {
        let properties = [
            ("token", self.token.clone()),
            ("node", announced.node.to_string()),
            ("cluster", hex::encode(announced.cluster)),
            ("empty", u8::from(announced.empty).to_string()),
        ];
        let name = announced.node.to_string();
        let host = format!("{}.local.", self.hostname);
        let mut service = ServiceInfo::new(SERVICE, &name, &host, "", self.port, &properties[..])?
            .enable_addr_auto();
        // The name is random: nobody else has it.
        service.set_requires_probe(false);
        Ok(self.daemon.register(service)?)
    }

    /// Tells others of this node no more.
    pub fn withdraw(&self, node: NodeId) {
        // An error: the daemon has ended, and told them then.
        let _ = self.daemon.unregister(&format!("{node}.{SERVICE}"));
    }

    /// The nodes of the same token that are there now, by their ids.
    pub fn found(&self) -> Vec<Found> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Found> = found.values().cloned().collect();
        all.sort_by_key(|found| found.announced.node);
        all
    }

    /// Where a node says that peers reach it; nothing, if it isn't on the link. Doesn't block.
    pub fn addresses_of(&self, node: NodeId) -> Vec<String> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = found.values().filter(|it| it.announced.node == node);
        of_it
            .flat_map(|it| &it.addresses)
            .map(ToString::to_string)
            .collect()
    }

    /// Returns once others are there than before the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        // An error: it has ended before.
        let _ = self.daemon.shutdown();
    }
}

/// What a stranger says; None: it is no node of this token.
fn stranger<'a>(
    property: impl Fn(&'static str) -> Option<&'a str>,
    addresses: impl Iterator<Item = IpAddr>,
    port: u16,
    token: &str,
) -> Option<Found> {
    if property("token") != Some(token) {
        return None;
    }
    let mut cluster = [0; 16];
    hex::decode_to_slice(property("cluster")?, &mut cluster).ok()?;
    let announced = Announced {
        node: NodeId(u64::from_str_radix(property("node")?, 16).ok()?),
        cluster,
        empty: property("empty")? == "1",
    };
    let mut addresses: Vec<SocketAddr> = addresses
        .filter(|ip| ip.is_ipv4() && !ip.is_loopback() && !ip.is_unspecified())
        .map(|ip| SocketAddr::new(ip, port))
        .collect();
    addresses.sort_unstable();
    Some(Found {
        announced,
        addresses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_of_the_same_token_that_say_all_are_looked_at() {
        let whole = [
            ("token", "t"),
            ("node", "00000000000000ff"),
            ("cluster", "000102030405060708090a0b0c0d0e0f"),
            ("empty", "1"),
        ];
        let read = |properties: &[(&'static str, &'static str)]| {
            let properties: HashMap<_, _> = properties.iter().copied().collect();
            let addresses = ["10.0.2.15", "127.0.0.1", "fe80::1"].map(|ip| ip.parse().unwrap());
            let property = |name| properties.get(name).copied();
            stranger(property, addresses.into_iter(), 2377, "t")
        };
        let found = read(&whole).unwrap();
        assert_eq!(found.announced.node, NodeId(255));
        assert!(found.announced.empty);
        assert_eq!(found.addresses, ["10.0.2.15:2377".parse().unwrap()]);
        for left_out in 0..whole.len() {
            let mut part = whole.to_vec();
            part.remove(left_out);
            assert_eq!(read(&part), None);
        }
        for (name, odd) in [("token", "u"), ("node", "xyz"), ("cluster", "00")] {
            let odd = whole.map(|(n, value)| (n, if n == name { odd } else { value }));
            assert_eq!(read(&odd), None, "{name}");
        }
    }
}
