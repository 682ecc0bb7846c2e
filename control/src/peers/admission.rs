//! Who is let in at the peers' port, and who has to make room: strangers can't keep nodes out, nor each other.
//!
//! ```text
//! accepted ──▶ a stranger ──certificate──▶ a node      counted by node
//!              counted by address  └─none─▶ a guest    counted by address
//! ```
//!
//! A newcomer never waits. Where there is no room, the oldest connection makes room, of the address that has most; so an address that
//! opens connections without end closes its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::state::NodeId;

/// Connections at the same time whose handshake is under way, some 20 KiB each: it takes a round trip and some milliseconds.
const STRANGERS_MAX: usize = 128;
/// Connections at the same time of those who have no certificate, and may ask to join.
const GUESTS_MAX: usize = 32;
/// Connections of one node: it needs one, has another while it hasn't noticed that the first is broken, and begins anew after a crash.
const NODE_MAX: usize = 4;

/// Where a connection comes from, as far as an address says who somebody is: an IPv4 address, or a /64 of IPv6.
type Origin = [u16; 4];

fn origin(address: IpAddr) -> Origin {
    let v6 = |address: Ipv6Addr| {
        let [a, b, c, d, ..] = address.segments();
        [a, b, c, d]
    };
    match address.to_canonical() {
        // Documentation's prefix (RFC 3849), which nobody has.
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            let pair = |high, low| u16::from_be_bytes([high, low]);
            [0x2001, 0x0db8, pair(a, b), pair(c, d)]
        }
        IpAddr::V6(address) => v6(address),
    }
}

/// All connections. Cheap to clone.
#[derive(Clone, Default)]
pub struct Admission(Arc<Mutex<Connections>>);

#[derive(Default)]
struct Connections {
    strangers: Crowd<Origin>,
    guests: Crowd<Origin>,
    nodes: Crowd<NodeId>,
    /// Counts admissions: what has a greater number came later.
    now: u64,
}

/// Connections by number, and what they are counted by.
struct Crowd<K>(BTreeMap<u64, (K, CancellationToken)>);

impl<K> Default for Crowd<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Copy> Crowd<K> {
    fn close_oldest(&mut self, of: K) {
        let oldest = self.0.iter().find(|(_, (key, _))| *key == of);
        if let Some((&number, (_, closed))) = oldest {
            closed.cancel();
            self.0.remove(&number);
        }
    }

    fn count(&self, of: K) -> usize {
        self.0.values().filter(|(key, _)| *key == of).count()
    }

    /// Who has most of them.
    fn greediest(&self) -> Option<K> {
        let mut shares: BTreeMap<K, usize> = BTreeMap::new();
        for (key, _) in self.0.values() {
            *shares.entry(*key).or_default() += 1;
        }
        let most = shares.into_iter().max_by_key(|(_, share)| *share);
        most.map(|(key, _)| key)
    }

    fn make_room(&mut self, max: usize) {
        if self.0.len() >= max
            && let Some(key) = self.greediest()
        {
            self.close_oldest(key);
        }
    }
}

impl Admission {
    /// Takes a connection in.
    pub fn admit(&self, address: IpAddr) -> Place {
        let (origin, closed) = (origin(address), CancellationToken::new());
        let mut connections = self.lock();
        connections.now += 1;
        let number = connections.now;
        connections.strangers.make_room(STRANGERS_MAX);
        let stranger = (origin, closed.clone());
        connections.strangers.0.insert(number, stranger);
        drop(connections);
        Place {
            admission: self.clone(),
            number,
            origin,
            closed,
        }
    }

    /// Closes what a node has.
    pub fn close(&self, node: NodeId) {
        let mut connections = self.lock();
        while connections.nodes.count(node) > 0 {
            connections.nodes.close_oldest(node);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place, until it is dropped.
pub struct Place {
    admission: Admission,
    number: u64,
    origin: Origin,
    closed: CancellationToken,
}

impl Place {
    /// Waits until the connection has to make room for another.
    pub fn closed(&self) -> WaitForCancellationFuture<'_> {
        self.closed.cancelled()
    }

    /// It is known whose it is; None: nobody's.
    pub fn is_of(&self, node: Option<NodeId>) {
        let mut connections = self.admission.lock();
        // It may have had to make room meanwhile.
        if connections.strangers.0.remove(&self.number).is_none() {
            return;
        }
        let closed = self.closed.clone();
        match node {
            Some(node) => {
                if connections.nodes.count(node) >= NODE_MAX {
                    connections.nodes.close_oldest(node);
                }
                connections.nodes.0.insert(self.number, (node, closed));
            }
            None => {
                connections.guests.make_room(GUESTS_MAX);
                let guest = (self.origin, closed);
                connections.guests.0.insert(self.number, guest);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connections = self.admission.lock();
        connections.strangers.0.remove(&self.number);
        connections.guests.0.remove(&self.number);
        connections.nodes.0.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(n: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, n).into()
    }

    #[test]
    fn an_address_that_opens_connections_without_end_closes_its_own() {
        let admission = Admission::default();
        let quiet = admission.admit(address(1));
        let mut many: Vec<_> = (0..STRANGERS_MAX + 10)
            .map(|_| admission.admit(address(2)))
            .collect();
        assert!(!quiet.closed.is_cancelled());
        let closed = many.iter().filter(|place| place.closed.is_cancelled());
        assert_eq!(closed.count(), 11);
        assert!(many[0].closed.is_cancelled());
        // The same for those who are through the handshake, and have no certificate.
        many.drain(..11);
        quiet.is_of(None);
        many.iter().for_each(|place| place.is_of(None));
        assert!(!quiet.closed.is_cancelled());
        let open = many.iter().filter(|place| !place.closed.is_cancelled());
        assert_eq!(open.count(), GUESTS_MAX - 1);
    }

    #[test]
    fn strangers_take_no_nodes_place_and_a_node_no_other_nodes() {
        let admission = Admission::default();
        let node = admission.admit(address(1));
        node.is_of(Some(NodeId(1)));
        let mut others: Vec<_> = (0..200).map(|_| admission.admit(address(1))).collect();
        let greedy = others.split_off(150);
        greedy.iter().for_each(|place| place.is_of(Some(NodeId(2))));
        others.iter().for_each(|place| place.is_of(None));
        assert!(!node.closed.is_cancelled());
        let open = greedy.iter().filter(|place| !place.closed.is_cancelled());
        assert_eq!(open.count(), NODE_MAX);
        assert!(!greedy[49].closed.is_cancelled());
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_has_gone_and_a_node_that_is_cut_has_none() {
        let admission = Admission::default();
        for node in [None, Some(NodeId(1))] {
            let place = admission.admit(address(1));
            place.is_of(node);
        }
        drop(admission.admit(address(1)));
        let cut = admission.admit(address(1));
        cut.is_of(Some(NodeId(1)));
        assert!(!cut.closed.is_cancelled());
        admission.close(NodeId(1));
        assert!(cut.closed.is_cancelled());
        let connections = admission.lock();
        assert!(connections.strangers.0.is_empty() && connections.guests.0.is_empty());
        assert!(connections.nodes.0.is_empty());
    }
}
