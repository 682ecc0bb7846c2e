//! What the state says that a node's kernel is to know of the others.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::PublicKey;
use crate::network::Published;
use crate::state::{NodeId, State, Tenant};

/// What one node needs to know of all others; from the state and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The other nodes, as far as they have told how they are reached.
    pub peers: BTreeMap<NodeId, Reached>,
    /// The pods there, by address.
    pub pods: BTreeMap<Ipv4Addr, Elsewhere>,
    /// Ports that lead to those pods, sorted.
    pub ports: Vec<Published>,
    /// There is a pod somewhere. Where there is none, nodes carry nothing for each other, and have no WireGuard: the kernel's looks through
    /// its tables once a second for as long as it is there, which costs more than all else that an idle node does.
    pub carries: bool,
}

/// How a node is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// What it proves itself by.
    pub key: PublicKey,
    /// Where peers reach it.
    pub address: IpAddr,
}

/// A pod of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// Whose it is.
    pub tenant: Tenant,
    /// Where it is: one of the peers.
    pub node: NodeId,
}

impl Plan {
    /// What `own` needs to know.
    pub fn of(state: &State, own: NodeId) -> Self {
        let others = state.nodes.values().filter(|node| node.id != own);
        let peers: BTreeMap<NodeId, Reached> = others
            .filter_map(|node| {
                let reached = Reached {
                    key: node.is.wireguard?,
                    address: node.is.address?.ip(),
                };
                Some((node.id, reached))
            })
            .collect();
        let (mut pods, mut ports) = (BTreeMap::new(), Vec::new());
        let mut carries = false;
        for pod in state.pods.iter() {
            // Until a node has let go of it, it is there and nowhere else.
            let (Some(address), Some(node)) = (pod.address, pod.previous.or(pod.node)) else {
                continue;
            };
            carries |= !peers.is_empty();
            if !peers.contains_key(&node) {
                continue;
            }
            let tenant = pod.tenant.clone();
            pods.insert(address, Elsewhere { tenant, node });
            ports.extend(pod.ports.iter().map(|binding| Published {
                binding: binding.clone(),
                address,
            }));
        }
        ports.sort();
        Self {
            peers,
            pods,
            ports,
            carries,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Health, Node, NodeIs, NodeWanted, Pod, PortBinding, Protocol};

    const OWN: NodeId = NodeId(1);

    fn node(id: u64, wireguard: Option<[u8; 32]>) -> Node {
        Node {
            id: NodeId(id),
            joined_ns: 0,
            tenure: 0,
            wanted: NodeWanted::default(),
            is: NodeIs {
                address: Some(([192, 0, 2, id as u8], 2377).into()),
                wireguard,
                ..NodeIs::default()
            },
            health: Health::Ready,
            version: 0,
        }
    }

    fn cluster() -> State {
        let mut state = State::default();
        for id in 1..=3 {
            let node = node(id, Some([id as u8; 32]));
            state.nodes.insert_mut(node.id, node);
        }
        state
    }

    fn pod(number: u8, node: Option<u64>, previous: Option<u64>) -> Pod {
        let mut pod = Pod::sample(number);
        pod.node = node.map(NodeId);
        pod.previous = previous.map(NodeId);
        pod.ports = vec![PortBinding {
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: None,
            host_port: 8000 + u16::from(number),
        }];
        pod
    }

    fn led_to(plan: &Plan) -> Vec<(u8, u64)> {
        let pods = plan.pods.iter();
        pods.map(|(address, pod)| (address.octets()[3] - 1, pod.node.0))
            .collect()
    }

    #[test]
    fn a_pod_is_led_to_where_it_is_until_that_node_has_let_go() {
        let mut state = cluster();
        let places = [
            (Some(1), None),
            (Some(2), None),
            (Some(2), Some(3)),
            (Some(2), Some(1)),
            (Some(1), Some(2)),
            (None, Some(3)),
            (None, None),
        ];
        for (number, (node, previous)) in (1..).zip(places) {
            state.pods.insert(pod(number, node, previous));
        }
        let plan = Plan::of(&state, OWN);
        assert_eq!(led_to(&plan), [(2, 2), (3, 3), (5, 2), (6, 3)]);
        let ports: Vec<u16> = plan.ports.iter().map(|p| p.binding.host_port).collect();
        assert_eq!(ports, [8002, 8003, 8005, 8006]);
        // Every pod that is somewhere is led to by all nodes but that one.
        assert_eq!(
            led_to(&Plan::of(&state, NodeId(2))),
            [(1, 1), (3, 3), (4, 1), (6, 3)]
        );
    }

    #[test]
    fn a_node_that_has_not_told_how_it_is_reached_is_no_peer_and_its_pods_are_not_led_to() {
        let mut state = cluster();
        state.pods.insert(pod(1, Some(2), None));
        state.pods.insert(pod(2, Some(3), None));
        state.nodes.insert_mut(NodeId(2), node(2, None));
        let plan = Plan::of(&state, OWN);
        assert_eq!(plan.peers.keys().collect::<Vec<_>>(), [&NodeId(3)]);
        assert_eq!(led_to(&plan), [(2, 3)]);
    }

    #[test]
    fn nodes_carry_for_each_other_once_there_is_a_pod_on_any_of_them() {
        let mut state = cluster();
        let carries = |state: &State| Plan::of(state, OWN).carries;
        assert!(!carries(&state));
        state.pods.insert(pod(1, None, None));
        assert!(!carries(&state));
        for place in [(Some(1), None), (Some(2), None), (None, Some(3))] {
            state.pods.insert(pod(1, place.0, place.1));
            assert!(carries(&state), "{place:?}");
        }
        for other in [2, 3].map(NodeId) {
            state.nodes.remove_mut(&other);
        }
        assert!(!carries(&state), "there is nobody else");
    }

    #[test]
    fn a_pod_without_a_network_is_led_to_nowhere() {
        let mut state = cluster();
        let mut pod = pod(1, Some(2), None);
        pod.address = None;
        state.pods.insert(pod);
        let plan = Plan::of(&state, OWN);
        assert!(plan.pods.is_empty() && plan.ports.is_empty(), "{plan:?}");
    }
}
