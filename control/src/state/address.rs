//! Addresses of the pods.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::State;

/// The pods' network, 10.88.0.0/16: private (RFC 1918), and the one that podman's users already know to avoid elsewhere.
pub const NETWORK: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 0);
/// Bits of [`NETWORK`].
pub const PREFIX: u8 = 16;
/// The node's own address in it, every pod's next hop.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// The first that a pod may have.
const FIRST: u32 = Ipv4Addr::new(10, 88, 0, 2).to_bits();
/// The last: the one after it is the network's broadcast address.
const LAST: u32 = Ipv4Addr::new(10, 88, 255, 254).to_bits();

/// The lowest address that no container has.
pub(super) fn pick(state: &State) -> Option<Ipv4Addr> {
    let taken: BTreeSet<u32> = state
        .containers
        .values()
        .filter_map(|c| c.address)
        .map(Ipv4Addr::to_bits)
        .collect();
    let mut candidate = FIRST;
    for address in taken {
        match address.cmp(&candidate) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => candidate += 1,
            std::cmp::Ordering::Greater => break,
        }
    }
    (candidate <= LAST).then(|| Ipv4Addr::from_bits(candidate))
}
