//! Published ports as elements of the table's maps.

use std::net::{IpAddr, Ipv4Addr};

use super::super::Published;
use super::super::connections::number;
use super::super::nftables::Element;

/// The address of the node that a port is published on, where it isn't all of them.
fn specific(published: &Published) -> Option<Ipv4Addr> {
    match published.binding.host_ip {
        Some(IpAddr::V4(address)) if !address.is_unspecified() => Some(address),
        _ => None,
    }
}

/// What goes to the map of bound ports, and what to that of ports on all addresses.
pub(super) fn elements(ports: &[Published]) -> (Vec<Element>, Vec<Element>) {
    let (bound, anywhere): (Vec<_>, Vec<_>) = ports.iter().partition(|p| specific(p).is_some());
    (
        bound.into_iter().map(element).collect(),
        anywhere.into_iter().map(element).collect(),
    )
}

fn element(published: &Published) -> Element {
    let binding = &published.binding;
    let mut key = specific(published).map_or_else(Vec::new, |address| address.octets().to_vec());
    key.extend([number(binding.protocol), 0, 0, 0]);
    key.extend(port(binding.host_port));
    Element {
        key,
        value: [published.address.octets(), port(binding.container_port)].concat(),
    }
}

/// A port as a register holds it.
fn port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}
