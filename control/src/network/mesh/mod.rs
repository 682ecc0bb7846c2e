//! How pods of several nodes reach each other: what the state says of other nodes and their pods, made true on this node.
//!
//! ```text
//! pod-1f2e… ── rules ── route 10.88.0.3/32 ── pod-mesh ── IPv6, UDP 4790, VXLAN-GPE: network 1 ── hearth-wg ── UDP 51820 ── eth0
//! ```
//!
//! WireGuard (`hearth-wg`, [`wireguard`]) knows nodes only, each by an address made of its id ([`address_of`]): what comes from one was sent
//! by it. In it pods' packets travel with the number of their network (`pod-mesh`, [`tunnel`]): VXLAN-GPE, which carries IP without
//! Ethernet. A route for each pod elsewhere says to which node. So networks with the same addresses need another number and other
//! routes, nothing else.
//!
//! To the table of rules ([`super::firewall`]) other nodes' pods are pods like any, on one link: the node of the sender judges a packet, and
//! that of the receiver once more, by the same rules.
//!
//! A published port answers on every node. The node that a client has come to redirects to the pod and keeps the client's address; the
//! pod's node marks the connection with the node that it came from, and what is answered takes the routing table of that mark: it holds
//! one route, to that node.
//!
//! **Invariant:** what the kernel has is a function of the last [`Plan`]. Whatever survived an earlier process, or an earlier call that
//! failed, is read back and compared.

mod key;
mod plan;
#[cfg(test)]
mod tests;
mod tunnel;
mod wireguard;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

pub use self::key::KeyError;
pub use self::plan::{Elsewhere, Plan, Reached};
use self::tunnel::{Destination, Tunnel};
use self::wireguard::WireGuard;
pub use self::wireguard::{Peer, PublicKey};
use super::firewall::{MESH_LINK, Member, TenantKey};
use super::{Change, Connections, Error, Network, Pod, Published};
use crate::state::NodeId;

/// Bytes of the largest IP packet between two nodes' addresses on an Ethernet: 1500 less an IPv6 and a UDP header and WireGuard's own 32
/// (its header and tag; wireguard.com/papers/wireguard.pdf, section 5.4.6).
pub(super) const WIREGUARD_MTU: u16 = 1500 - 40 - 8 - 32;
/// Bytes that go before a pod's packet within: IPv6, UDP, VXLAN.
pub(super) const VXLAN_OVERHEAD: u16 = 40 + 8 + 8;

/// The nodes' addresses among each other, fd48:6561:7274::/64: unique local ones (RFC 4193), that nobody else uses.
const NODES: u128 = 0xfd48_6561_7274 << 80;
/// Bits of [`NODES`].
const NODES_PREFIX: u8 = 64;

/// A node's address among nodes.
pub fn address_of(node: NodeId) -> Ipv6Addr {
    Ipv6Addr::from_bits(NODES | u128::from(node.0))
}

/// What nodes send to each other below the pods' packets. Called by one thread at a time; every call may be repeated and then changes nothing.
pub trait Underlay: Send {
    /// Make the link `hearth-wg` with this address and bring it up; before all else. Returns what other nodes know this one by.
    fn start(&mut self, address: Ipv6Addr) -> Result<PublicKey, Error>;
    /// Take it away, with all that it knows, until it is started again.
    fn stop(&mut self) -> Result<(), Error>;
    /// The nodes that it knows, from this process or an earlier one.
    fn peers(&mut self) -> Result<BTreeMap<PublicKey, Peer>, Error>;
    /// Forget some and know others, each in place of what was known by its key.
    fn change(&mut self, gone: &[PublicKey], come: &[(PublicKey, Peer)]) -> Result<(), Error>;
}

/// This node's part in the mesh.
///
/// Order: `start` once in a process's life, after [`Network::start`]; then `apply`, again at every change of what its plan is made of, and
/// by period, which repairs what has failed. All calls are short system calls made on the calling thread. From any thread.
pub struct Mesh {
    network: Network,
    address: Ipv6Addr,
    public_key: PublicKey,
    /// Held over a change, so that what is known is what is there.
    ground: Mutex<Ground>,
}

struct Ground {
    underlay: Box<dyn Underlay>,
    /// It has been started, and not stopped since.
    is_up: bool,
    tunnel: Tunnel,
    /// What the kernel has; None: to be read.
    there: Option<There>,
}

/// What the kernel is told.
#[derive(Debug, Default, PartialEq)]
struct There {
    peers: BTreeMap<PublicKey, Peer>,
    walls: BTreeMap<Ipv4Addr, Pod>,
    routes: BTreeMap<Destination, Ipv6Addr>,
    /// Nodes that answers are led back to.
    ways: BTreeMap<NodeMark, ()>,
    /// Ports that lead to other nodes' pods; None: not known.
    ports: Option<Vec<Published>>,
}

/// How the kernel names a node where it has room for 32 bits only: the last ones of its address.
///
/// Of a thousand nodes, whose ids are random, two share one in every ten thousandth cluster; then what clients are answered that come by one
/// of the two gets lost, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct NodeMark(u32);

impl NodeMark {
    /// None: it would be no mark.
    fn of(address: Ipv6Addr) -> Option<Self> {
        let low = address.to_bits() as u32;
        (low != 0).then_some(Self(low))
    }

    /// As rules load it: the bytes of the address as they lie.
    fn on_packets(self) -> u32 {
        u32::from_ne_bytes(self.0.to_be_bytes())
    }

    /// The number of its routing table; those below 256 are the kernel's or have a meaning elsewhere.
    fn table(self) -> u32 {
        self.0 | 1 << 31
    }
}

impl There {
    fn wanted(plan: &Plan) -> Self {
        let mut wanted = Self {
            ports: Some(plan.ports.clone()),
            ..Self::default()
        };
        for (node, peer) in &plan.peers {
            let inside = address_of(*node);
            if plan.carries {
                wanted.peers.insert(
                    peer.key,
                    Peer {
                        endpoint: (peer.address, wireguard::PORT).into(),
                        inside,
                    },
                );
            }
            if let Some(mark) = NodeMark::of(inside) {
                wanted.ways.insert(mark, ());
                wanted.routes.insert(Destination::Answers(mark), inside);
            }
        }
        for (address, pod) in &plan.pods {
            let member = Member {
                link: MESH_LINK.to_owned(),
                address: *address,
                tenant: TenantKey::of(pod.tenant.as_str()),
            };
            wanted.walls.insert(*address, Pod(member));
            wanted
                .routes
                .insert(Destination::Pod(*address), address_of(pod.node));
        }
        wanted
    }
}

/// What is to go of one map, and what is to come, to make another of it. What has changed is in both.
struct Difference<K, V> {
    gone: Vec<(K, V)>,
    come: Vec<(K, V)>,
}

fn difference<K: Ord + Clone, V: PartialEq + Clone>(
    there: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
) -> Difference<K, V> {
    let only = |these: &BTreeMap<K, V>, those: &BTreeMap<K, V>| {
        let differ = these
            .iter()
            .filter(|(key, value)| those.get(key) != Some(value));
        differ
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    Difference {
        gone: only(there, wanted),
        come: only(wanted, there),
    }
}

impl Mesh {
    /// Make the node's key, where `folder` has none yet, and its links. What an earlier process has told the kernel stays in force.
    pub fn start(network: &Network, node: NodeId, folder: &Path) -> Result<Self, Error> {
        let key = key::load_or_make(folder)?;
        Self::start_on(network, node, Box::new(WireGuard::open(key)?))
    }

    /// As [`Mesh::start`], on an underlay of the caller's.
    pub fn start_on(
        network: &Network,
        node: NodeId,
        mut underlay: Box<dyn Underlay>,
    ) -> Result<Self, Error> {
        let address = address_of(node);
        let public_key = underlay.start(address)?;
        let mut tunnel = Tunnel::make().map_err(failed("making the link to other nodes' pods"))?;
        let parameters = [
            // Clients come by it that the node would answer by another link.
            ("ipv4", "rp_filter", "0"),
            // One of them is this node, where a pod of its own has asked another node.
            ("ipv4", "accept_local", "1"),
            ("ipv4", "send_redirects", "0"),
            ("ipv6", "disable_ipv6", "1"),
        ];
        for (family, name, value) in parameters {
            let parameter = format!("net/{family}/conf/{MESH_LINK}/{name}");
            network.inner.kernel.set_parameter(&parameter, value)?;
        }
        tunnel
            .bring_up()
            .map_err(failed("bringing up the link to other nodes' pods"))?;
        Ok(Self {
            network: network.clone(),
            address,
            public_key,
            ground: Mutex::new(Ground {
                underlay,
                is_up: true,
                tunnel,
                there: None,
            }),
        })
    }

    /// What other nodes know this one by: `NodeIs::wireguard`.
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// Make the plan true: all of it, and nothing else. After an error some of it may be; the next call begins with what is there.
    pub fn apply(&self, plan: &Plan) -> Result<(), Error> {
        let wanted = There::wanted(plan);
        let mut ground = self.ground();
        let mut there = match ground.there.take() {
            Some(there) => there,
            None => self.read(&mut ground)?,
        };
        if ground.is_up != plan.carries {
            match plan.carries {
                true => drop(ground.underlay.start(self.address)?),
                false => ground.underlay.stop()?,
            }
            ground.is_up = plan.carries;
            there.peers.clear();
        }
        let peers = difference(&there.peers, &wanted.peers);
        if !peers.gone.is_empty() || !peers.come.is_empty() {
            let gone: Vec<PublicKey> = peers.gone.iter().map(|(key, _)| *key).collect();
            let stale: Vec<PublicKey> = gone
                .into_iter()
                .filter(|key| !wanted.peers.contains_key(key))
                .collect();
            ground.underlay.change(&stale, &peers.come)?;
        }
        self.change_walls(difference(&there.walls, &wanted.walls))?;
        let tunnel = &mut ground.tunnel;
        change_routes(tunnel, difference(&there.routes, &wanted.routes))
            .map_err(failed("changing the routes to other nodes' pods"))?;
        let ways = difference(&there.ways, &wanted.ways);
        let changed = ways
            .gone
            .iter()
            .try_for_each(|(mark, ())| tunnel.forget(*mark));
        changed
            .and_then(|()| {
                ways.come
                    .iter()
                    .try_for_each(|(mark, ())| tunnel.answer(*mark))
            })
            .map_err(failed("changing the ways back to other nodes"))?;
        if there.ports != wanted.ports {
            self.network.publish_elsewhere(&plan.ports)?;
        }
        ground.there = Some(wanted);
        Ok(())
    }

    fn ground(&self) -> MutexGuard<'_, Ground> {
        // What is there is taken out before a change, so a change that panicked has left it to be read.
        self.ground.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, ground: &mut Ground) -> Result<There, Error> {
        let pods = self.network.inner.kernel.pods()?.into_iter();
        let reading = || failed("reading the routes to other nodes' pods");
        Ok(There {
            peers: match ground.is_up {
                true => ground.underlay.peers()?,
                false => BTreeMap::new(),
            },
            walls: pods
                .filter(|pod| pod.link() == MESH_LINK)
                .map(|pod| (pod.address(), pod))
                .collect(),
            routes: ground.tunnel.routes().map_err(reading())?,
            ways: ground.tunnel.ways().map_err(reading())?,
            ports: None,
        })
    }

    fn change_walls(&self, walls: Difference<Ipv4Addr, Pod>) -> Result<(), Error> {
        let pods = |all: &[(Ipv4Addr, Pod)]| all.iter().map(|(_, pod)| pod.clone()).collect();
        if walls.gone.is_empty() && walls.come.is_empty() {
            return Ok(());
        }
        let kernel = &self.network.inner.kernel;
        kernel.change(&[Change::Elsewhere {
            gone: pods(&walls.gone),
            come: pods(&walls.come),
        }])?;
        // As for a pod of this node that goes, but for those that have come here.
        let here: BTreeSet<Ipv4Addr> = self.network.pods().values().map(Pod::address).collect();
        let strangers = walls.gone.iter().map(|(address, _)| *address);
        let forgotten: Vec<Connections> = strangers
            .filter(|address| !here.contains(address))
            .flat_map(|address| [Connections::From(address), Connections::To(address)])
            .collect();
        kernel.forget(&forgotten)
    }
}

fn change_routes(
    tunnel: &mut Tunnel,
    routes: Difference<Destination, Ipv6Addr>,
) -> Result<(), Errno> {
    let kept: BTreeSet<Destination> = routes.come.iter().map(|(to, _)| *to).collect();
    for (to, _) in routes.gone.iter().filter(|(to, _)| !kept.contains(to)) {
        tunnel.remove(*to)?;
    }
    // In place of what was there: a pod's address has one route at any time.
    for (to, node) in &routes.come {
        tunnel.lead(*to, *node)?;
    }
    Ok(())
}

fn failed(doing: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Kernel {
        doing: doing.into(),
        source: errno.into(),
    }
}
