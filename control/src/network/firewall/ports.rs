//! Published ports as elements of the table's maps.

use std::collections::BTreeSet;
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

/// What ports lead to; several may lead to the same.
pub(super) fn targets(ports: &[Published]) -> Vec<Element> {
    let keys: BTreeSet<Vec<u8>> = ports
        .iter()
        .map(|Published { binding, address }| {
            let protocol = [number(binding.protocol), 0, 0, 0];
            [address.octets(), protocol, port(binding.container_port)].concat()
        })
        .collect();
    let element = |key| Element {
        key,
        value: Vec::new(),
    };
    keys.into_iter().map(element).collect()
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
