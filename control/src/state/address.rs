//! Addresses of the pods.

use std::net::Ipv4Addr;

use super::tree::Tree;

/// The pods' network, 10.88.0.0/14: private (RFC 1918), and beginning where podman's users already know to avoid it elsewhere. The lowest free
/// address is given, so that a home never sees more of it than its first part, and whatever is connected by a longer prefix is reached first;
/// there is room for more than twice the pods of the largest cluster that is measured.
pub const NETWORK: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 0);
/// Bits of [`NETWORK`].
pub const PREFIX: u8 = 14;
/// The node's own address in it, every pod's next hop.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// The first that a pod may have.
const FIRST: u32 = Ipv4Addr::new(10, 88, 0, 2).to_bits();
/// The last: the one after it is the network's broadcast address.
const LAST: u32 = Ipv4Addr::new(10, 91, 255, 254).to_bits();

/// Addresses that nobody has, as ranges: first and last of each.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gaps(Tree<u32, u32>);

impl Default for Gaps {
    fn default() -> Self {
        Self([(FIRST, LAST)].into_iter().collect())
    }
}

impl Gaps {
    /// The lowest address that nobody has.
    pub fn lowest(&self) -> Option<Ipv4Addr> {
        let (first, _) = self.0.iter().next()?;
        Some(Ipv4Addr::from_bits(*first))
    }

    /// Somebody has it now.
    pub fn take(&mut self, address: Ipv4Addr) {
        let address = address.to_bits();
        let Some((first, last)) = self.around(address) else {
            return;
        };
        self.0.remove(&first);
        if first < address {
            self.0.insert(first, address - 1);
        }
        if address < last {
            self.0.insert(address + 1, last);
        }
    }

    /// Nobody has it any more.
    pub fn give_back(&mut self, address: Ipv4Addr) {
        let address = address.to_bits();
        if !(FIRST..=LAST).contains(&address) || self.around(address).is_some() {
            return;
        }
        let (mut first, mut last) = (address, address);
        if let Some((below, _)) = self.around(address - 1) {
            self.0.remove(&below);
            first = below;
        }
        if let Some((above, end)) = self.around(address + 1) {
            self.0.remove(&above);
            last = end;
        }
        self.0.insert(first, last);
    }

    /// Somebody has all but the last few, of which there are so many. Returns how many there were.
    #[cfg(test)]
    pub fn leave(&mut self, few: u32) -> u32 {
        let free = self.0.iter().map(|(first, last)| last - first + 1).sum();
        self.0 = [(LAST + 1 - few, LAST)].into_iter().collect();
        free
    }

    /// The range that an address is in.
    fn around(&self, address: u32) -> Option<(u32, u32)> {
        let (first, last) = self.0.last_to(&address)?;
        (*last >= address).then_some((*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_not_taken_is_free_and_the_lowest_of_it_is_given(
            steps in proptest::collection::vec((any::<bool>(), 0u32..40), 0..200)
        ) {
            let (mut gaps, mut taken) = (Gaps::default(), BTreeSet::new());
            for (take, offset) in steps {
                let address = Ipv4Addr::from_bits(FIRST - 2 + offset);
                if take {
                    gaps.take(address);
                    taken.insert(address.to_bits());
                } else {
                    gaps.give_back(address);
                    taken.remove(&address.to_bits());
                }
                let lowest = (FIRST..=LAST).find(|address| !taken.contains(address));
                prop_assert_eq!(gaps.lowest().map(Ipv4Addr::to_bits), lowest);
                let mut anew = Gaps::default();
                taken.iter().for_each(|address| anew.take(Ipv4Addr::from_bits(*address)));
                prop_assert_eq!(&gaps, &anew);
            }
        }
    }
}
