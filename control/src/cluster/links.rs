//! Where this machine is reached by others.

use std::net::IpAddr;

/// Links that are no way to another machine begin so.
const OWN_LINKS: [&str; 4] = ["lo", "pod-", "hearth", "docker"];

/// Whether a link of this name leads to other machines.
pub fn leads_out(link: &str) -> bool {
    !OWN_LINKS.iter().any(|own| link.starts_with(own))
}

/// The machine's addresses on links that lead to others: IPv4 first, in the order of the kernel. Blocks for no longer than the kernel
/// takes to answer. None may be there yet.
pub fn addresses() -> Vec<IpAddr> {
    let found = match if_addrs::get_if_addrs() {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "this machine's addresses can't be read");
            Vec::new()
        }
    };
    let mut addresses: Vec<IpAddr> = found
        .into_iter()
        .filter(|link| !link.is_loopback() && !link.is_link_local() && leads_out(&link.name))
        .map(|link| link.ip())
        .collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
}
