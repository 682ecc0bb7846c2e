//! Ports on the nodes.

use std::net::IpAddr;

use super::{Container, PortBinding, PortRequest, Protocol, Refusal, State};

/// Where ports are picked when none is named: Linux's own default for ephemeral ports, the habit users know from docker.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32768..=60999;
/// TCP ports that the node itself listens on, or will: the Docker API, peers, the Kubernetes API.
const RESERVED_TCP: [u16; 3] = [2376, 2377, 6443];

/// The ports of a container's next run: those asked for, checked against every other run on its node, free ones filled in.
pub(super) fn assign(state: &State, container: &Container) -> Result<Vec<PortBinding>, Refusal> {
    let mut taken: Vec<PortBinding> = state
        .containers
        .up_on(container.node)
        .filter(|other| other.id != container.id)
        .flat_map(|other| other.status.ports.iter().cloned())
        .collect();
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
            .find(|candidate| is_free(&taken, candidate))
            .ok_or_else(|| in_use(request))?;
        taken.push(free.clone());
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

fn is_free(taken: &[PortBinding], wanted: &PortBinding) -> bool {
    let reserved = wanted.protocol == Protocol::Tcp && RESERVED_TCP.contains(&wanted.host_port);
    !reserved
        && !taken.iter().any(|other| {
            other.protocol == wanted.protocol
                && other.host_port == wanted.host_port
                && overlap(other.host_ip, wanted.host_ip)
        })
}

/// Two listeners would collide: same address, or one of them on all.
fn overlap(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    let any = |ip: Option<IpAddr>| ip.is_none_or(|ip| ip.is_unspecified());
    any(a) || any(b) || a == b
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{ContainerId, ContainerSpec, NodeId, Phase, Status};

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
        Container {
            id: ContainerId::from_random([id; 32]),
            tenant: "acme".parse().unwrap(),
            name: "name".parse().unwrap(),
            node: NodeId(1),
            created_ns: 0,
            image: String::new(),
            image_name: String::new(),
            spec: ContainerSpec {
                ports,
                ..Default::default()
            },
            status: Status::default(),
            address: None,
        }
    }

    #[test]
    fn of_a_range_the_first_free_port_is_taken_and_ports_that_are_named_come_first() {
        let mut state = State::default();
        let range = || vec![request(18_000, Some(18_002)), request(18_000, None)];
        let mut first = container(1, range());
        let ports = |assigned: Vec<PortBinding>| -> Vec<u16> {
            assigned.iter().map(|binding| binding.host_port).collect()
        };
        let assigned = assign(&state, &first).unwrap();
        first.status.ports.clone_from(&assigned);
        first.status.phase = Phase::Running;
        assert_eq!(ports(assigned), [18_001, 18_000]);
        state.containers.insert(first);
        let one = container(2, vec![request(18_000, Some(18_002))]);
        assert_eq!(ports(assign(&state, &one).unwrap()), [18_002]);
        let two = container(3, vec![request(18_000, Some(18_002)); 2]);
        assert_eq!(
            assign(&state, &two).unwrap_err().to_string(),
            "Bind for 0.0.0.0:18002 failed: port is already allocated"
        );
        // The node's own ports are in the middle of this one.
        let around = container(4, vec![request(2376, Some(2378))]);
        assert_eq!(ports(assign(&state, &around).unwrap()), [2378]);
    }
}
