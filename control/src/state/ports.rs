//! Ports on the nodes.

use std::net::IpAddr;

use super::{Container, PodId, Pods, PortBinding, PortRequest, Protocol, Refusal};

/// Where ports are picked when none is named: Linux's own default for ephemeral ports, the habit users know from docker.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32768..=60999;
/// TCP ports that the node itself listens on, or will: the Docker API, peers, the Kubernetes API.
const RESERVED_TCP: [u16; 3] = [2376, 2377, 6443];
/// UDP ports that the node itself listens on where it has others: their pods' packets (WireGuard). Led to a pod, it would part its node
/// from all others' pods.
const RESERVED_UDP: [u16; 1] = [51_820];

/// The ports of a pod whose container is started: those asked for, checked against every other pod's, free ones filled in. A port leads
/// to its pod from every node, so that nobody has to know where that is.
pub(super) fn assign(pods: &Pods, container: &Container) -> Result<Vec<PortBinding>, Refusal> {
    let mut own: Vec<PortBinding> = Vec::new();
    let mut wanted = container.spec.ports.clone();
    if container.spec.publish_all {
        wanted.extend(exposed(container));
    }
    // Those with the least choice first: none that is picked may take what another names.
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&at| candidates(&wanted[at]).count());
    let mut assigned = vec![None; wanted.len()];
    for at in order {
        let request = &wanted[at];
        let free = candidates(request)
            .map(|port| request.at(port))
            .find(|candidate| is_free(pods, container.pod, &own, candidate))
            .ok_or_else(|| in_use(request))?;
        own.push(free.clone());
        assigned[at] = Some(free);
    }
    Ok(assigned.into_iter().flatten().collect())
}

/// The ports on the node that will do.
fn candidates(request: &PortRequest) -> std::ops::RangeInclusive<u16> {
    match (request.host_port, request.host_port_last) {
        (0, _) => EPHEMERAL,
        (first, last) => first..=last.unwrap_or(first),
    }
}

fn in_use(request: &PortRequest) -> Refusal {
    Refusal::PortInUse {
        address: request
            .host_ip
            .map_or_else(|| "0.0.0.0".into(), |ip| ip.to_string()),
        port: *candidates(request).end(),
    }
}

/// Requests for the exposed ports that none names.
fn exposed(container: &Container) -> impl Iterator<Item = PortRequest> + '_ {
    let spec = &container.spec;
    spec.exposed_ports.iter().filter_map(|text| {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        };
        let container_port = port.parse().ok()?;
        let named = spec
            .ports
            .iter()
            .any(|b| b.container_port == container_port && b.protocol == protocol);
        (!named).then_some(PortRequest {
            container_port,
            protocol,
            host_ip: None,
            host_port: 0,
            host_port_last: None,
        })
    })
}

fn is_free(pods: &Pods, pod: PodId, own: &[PortBinding], wanted: &PortBinding) -> bool {
    let reserved: &[u16] = match wanted.protocol {
        Protocol::Tcp => &RESERVED_TCP,
        Protocol::Udp => &RESERVED_UDP,
    };
    let is_reserved = reserved.contains(&wanted.host_port);
    let of_others = pods
        .holders(wanted.protocol, wanted.host_port)
        .any(|(address, holder)| holder != pod && overlap(address, wanted.host_ip));
    let of_own = own.iter().any(|other| {
        other.protocol == wanted.protocol
            && other.host_port == wanted.host_port
            && overlap(other.host_ip, wanted.host_ip)
    });
    !is_reserved && !of_others && !of_own
}

/// Two listeners would collide: same address, or one of them on all.
fn overlap(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    let any = |ip: Option<IpAddr>| ip.is_none_or(|ip| ip.is_unspecified());
    any(a) || any(b) || a == b
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Pod;

    fn request(host_port: u16, host_port_last: Option<u16>) -> PortRequest {
        PortRequest {
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: None,
            host_port,
            host_port_last,
        }
    }

    fn container(id: u8, ports: Vec<PortRequest>) -> Container {
        let mut container = Container::sample(id);
        container.spec.ports = ports;
        container
    }

    #[test]
    fn of_a_range_the_first_free_port_is_taken_and_ports_that_are_named_come_first() {
        let mut pods = Pods::default();
        let range = || vec![request(18_000, Some(18_002)), request(18_000, None)];
        let ports = |assigned: Vec<PortBinding>| -> Vec<u16> {
            assigned.iter().map(|binding| binding.host_port).collect()
        };
        let assigned = assign(&pods, &container(1, range())).unwrap();
        assert_eq!(ports(assigned.clone()), [18_001, 18_000]);
        let mut first = Pod::sample(1);
        first.ports = assigned;
        pods.insert(first);
        let one = container(2, vec![request(18_000, Some(18_002))]);
        assert_eq!(ports(assign(&pods, &one).unwrap()), [18_002]);
        let two = container(3, vec![request(18_000, Some(18_002)); 2]);
        assert_eq!(
            assign(&pods, &two).unwrap_err().to_string(),
            "Bind for 0.0.0.0:18002 failed: port is already allocated"
        );
        // The node's own ports are in the middle of this one.
        let around = container(4, vec![request(2376, Some(2378))]);
        assert_eq!(ports(assign(&pods, &around).unwrap()), [2378]);
        let udp = |last| PortRequest {
            protocol: Protocol::Udp,
            ..request(51_820, last)
        };
        let around = container(5, vec![udp(Some(51_821))]);
        assert_eq!(ports(assign(&pods, &around).unwrap()), [51_821]);
        assert!(assign(&pods, &container(6, vec![udp(None)])).is_err());
    }
}
