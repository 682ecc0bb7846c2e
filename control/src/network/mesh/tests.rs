//! Two nodes, each in a network namespace of its own, on the real kernel: its tunnels, routes and rules, and its WireGuard. Where it has
//! none, as kernels that tests run on may, a pair of virtual Ethernet links stands in; what is said to WireGuard is tested in
//! its module.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rustix::fs::{Mode, OFlags, open};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::super::firewall::WIREGUARD_LINK;
use super::super::route::{RTM_DELLINK, RTM_NEWLINK, Routes};
use super::super::tests::packet::{Content, Packet, SYN, SYN_ACK, UNREACHABLE};
use super::super::tests::{
    CLIENT, CONFIG, DB, NODE, STRANGER, WEB, Wire, in_a_namespace, published,
};
use super::super::{Kernel, Linux, MTU, Published};
use super::*;
use crate::state::{Health, Node, NodeIs, NodeWanted, Pod as PodState, Protocol, State};

/// Random, as real ones are.
const NODES: [NodeId; 2] = [NodeId(0x1f2e_3d4c_5b6a_7988), NodeId(0xa0b1_c2d3_e4f5_0617)];
/// As the world knows them.
const ADDRESSES: [Ipv4Addr; 2] = [NODE, Ipv4Addr::new(192, 0, 2, 9)];

/// As they know each other.
const LAN: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)];
/// The wire between them.
const LAN_LINK: &str = "lan0";

/// Stands where WireGuard does.
#[derive(Clone, Default)]
struct Cable(Arc<Mutex<BTreeMap<PublicKey, Peer>>>);

impl Underlay for Cable {
    fn start(&mut self, address: Ipv6Addr) -> Result<PublicKey, Error> {
        let mut routes = Routes::open().unwrap();
        let index = routes.make_link(WIREGUARD_LINK, Vec::new()).unwrap();
        routes
            .add_link_address(index, address, NODES_PREFIX)
            .unwrap();
        routes.set_up(index, Some(WIREGUARD_MTU)).unwrap();
        Ok([address.octets()[15]; 32])
    }
    fn stop(&mut self) -> Result<(), Error> {
        // The other end's would go with it.
        let mut routes = Routes::open().unwrap();
        let mut link = LinkMessage::default();
        link.header.index = routes.make_link(WIREGUARD_LINK, Vec::new()).unwrap();
        link.header.change_mask = LinkFlags::Up;
        routes.request(RTM_NEWLINK, 0, &link).unwrap();
        self.0.lock().unwrap().clear();
        Ok(())
    }
    fn peers(&mut self) -> Result<BTreeMap<PublicKey, Peer>, Error> {
        Ok(self.0.lock().unwrap().clone())
    }
    fn change(&mut self, gone: &[PublicKey], come: &[(PublicKey, Peer)]) -> Result<(), Error> {
        let mut peers = self.0.lock().unwrap();
        peers.retain(|key, _| !gone.contains(key));
        peers.extend(come.iter().copied());
        Ok(())
    }
}

struct Machine {
    namespace: OwnedFd,
    network: Network,
    mesh: Mesh,
    key: [u8; 32],
    cable: Cable,
    world: Wire,
}

/// WireGuard, or what stands in for it.
fn underlay(key: [u8; 32], cable: &Cable) -> Box<dyn Underlay> {
    match has_wireguard() {
        true => Box::new(WireGuard::open(key).unwrap()),
        false => Box::new(cable.clone()),
    }
}

fn has_wireguard() -> bool {
    WireGuard::open([1; 32]).is_ok()
}

impl Machine {
    /// In the thread's namespace.
    fn start(number: usize) -> Self {
        let kernel = Linux::open().unwrap();
        let world = kernel.create_link("wan0").unwrap();
        kernel.add_own_address(ADDRESSES[number]).unwrap();
        for address in [CLIENT, ADDRESSES[1 - number]] {
            kernel
                .lead("wan0", MTU, address, ADDRESSES[number])
                .unwrap();
        }
        if has_wireguard() {
            kernel.add_own_address(LAN[number]).unwrap();
            let other = LAN[1 - number];
            kernel.lead(LAN_LINK, 1500, other, LAN[number]).unwrap();
        }
        let network = Network::start(CONFIG).unwrap();
        let (key, cable) = ([number as u8 * 8 + 0x40; 32], Cable::default());
        let mesh = Mesh::start_on(&network, NODES[number], underlay(key, &cable)).unwrap();
        Self {
            namespace: namespace(),
            network,
            mesh,
            key,
            cable,
            world: Wire(world),
        }
    }

    fn enter(&self) {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(self.namespace.as_fd(), kind).unwrap();
    }
}

struct Cluster {
    nodes: [Machine; 2],
    state: State,
}

impl Cluster {
    fn machine(&self, number: usize) -> &Machine {
        let machine = &self.nodes[number];
        machine.enter();
        machine
    }

    /// Gives a pod to a node, in the state; its number is the last of its address.
    fn place(&mut self, address: Ipv4Addr, tenant: &str, number: usize, port: Option<u16>) {
        let mut pod = PodState::sample(address.octets()[3] - 1);
        pod.tenant = tenant.parse().unwrap();
        pod.node = Some(NODES[number]);
        let ports = port.map(|port| published(None, port, Protocol::Udp, address, 53).binding);
        pod.ports = ports.into_iter().collect();
        self.state.pods.insert(pod);
    }

    /// Runs it there.
    fn pod(&mut self, address: Ipv4Addr, tenant: &str, number: usize, port: Option<u16>) -> Wire {
        self.place(address, tenant, number, port);
        let network = &self.machine(number).network;
        let pod = network.attach(&address.to_string(), tenant, address);
        let of_node: Vec<Published> = self
            .state
            .pods
            .on(NODES[number])
            .flat_map(|pod| {
                let address = pod.address.unwrap();
                pod.ports.iter().map(move |binding| Published {
                    binding: binding.clone(),
                    address,
                })
            })
            .collect();
        network.publish(&of_node).unwrap();
        Wire(pod.unwrap().tun)
    }

    /// Makes every node know the state.
    fn apply(&self) {
        for (number, node) in NODES.iter().enumerate() {
            let plan = Plan::of(&self.state, *node);
            let machine = self.machine(number);
            machine.mesh.apply(&plan).unwrap();
            let mut there = machine.mesh.read(&mut machine.mesh.ground()).unwrap();
            // What is published is tried, not read.
            there.ports = Some(plan.ports.clone());
            assert_eq!(there, There::wanted(&plan), "what the kernel has");
        }
    }
}

fn namespace() -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    open("/proc/thread-self/ns/net", flags, Mode::empty()).unwrap()
}

fn on_two_nodes(test: impl FnOnce(Cluster) + Send + 'static) {
    in_a_namespace(|| {
        let first = namespace();
        // SAFETY: no descriptor table is unshared, only the network namespace of this thread.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        let link = match has_wireguard() {
            true => LAN_LINK,
            false => WIREGUARD_LINK,
        };
        let mut far_end = LinkMessage::default();
        far_end.attributes = vec![
            LinkAttribute::IfName(link.into()),
            LinkAttribute::NetNsFd(first.as_raw_fd()),
        ];
        let veth = vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far_end))),
        ];
        let mut routes = Routes::open().unwrap();
        routes.make_link(link, veth).unwrap();
        let second = Machine::start(1);
        move_into_link_name_space(first.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let first = Machine::start(0);
        let nodes = [first, second];
        let mut state = State::default();
        for (number, node) in NODES.iter().enumerate() {
            let is = NodeIs {
                address: Some((LAN[number], 2377).into()),
                wireguard: Some(nodes[number].mesh.public_key()),
                ..NodeIs::default()
            };
            let node = Node {
                id: *node,
                joined_ns: 0,
                tenure: 0,
                wanted: NodeWanted::default(),
                is,
                health: Health::Ready,
                version: 0,
            };
            state.nodes.insert_mut(node.id, node);
        }
        test(Cluster { nodes, state });
    });
}

/// Sends what must not arrive, then what must: `to` sees only that.
fn only_the_second_arrives(
    (from, dropped): (&Wire, &Packet),
    (via, passed): (&Wire, &Packet),
    to: &Wire,
) {
    from.send(dropped);
    via.send(passed);
    let seen = to.next();
    assert_eq!(
        (seen.payload.as_slice(), to.is_silent()),
        (passed.payload.as_slice(), true),
        "{seen:?}"
    );
}

#[test]
fn pods_of_a_tenant_reach_each_other_across_nodes_and_nobody_elses() {
    on_two_nodes(|mut cluster| {
        let web = cluster.pod(WEB, "a", 0, None);
        let stranger = cluster.pod(STRANGER, "b", 0, None);
        let db = cluster.pod(DB, "a", 1, None);
        cluster.apply();
        let wrong = Packet::udp((STRANGER, 1), (DB, 5432), "from a stranger");
        let right = Packet::udp((WEB, 1), (DB, 5432), "from web");
        only_the_second_arrives((&stranger, &wrong), (&web, &right), &db);
        db.send(&right.reply("to web"));
        assert_eq!(web.next(), right.reply("to web"));
        let wrong = Packet::udp((DB, 9), (STRANGER, 1), "to a stranger");
        let right = Packet::udp((DB, 9), (WEB, 2), "to web again");
        only_the_second_arrives((&db, &wrong), (&db, &right), &web);
        assert!(stranger.is_silent());
        assert!(cluster.nodes.iter().all(|node| node.world.is_silent()));
    });
}

#[test]
fn the_receivers_node_holds_the_wall_though_the_senders_does_not() {
    on_two_nodes(|mut cluster| {
        let web = cluster.pod(WEB, "a", 0, None);
        let db = cluster.pod(DB, "a", 1, None);
        // Its own node takes it for the tenant's.
        let stranger = cluster.pod(STRANGER, "a", 0, None);
        cluster.place(STRANGER, "b", 0, None);
        cluster.apply();
        let good = Packet::udp((WEB, 1), (DB, 1), "from web");
        let wrong = Packet::udp((STRANGER, 1), (DB, 1), "from a stranger");
        only_the_second_arrives((&stranger, &wrong), (&web, &good), &db);
        // Nor is the node itself reached by pods of others.
        let wrong = Packet::udp((STRANGER, 1), (CONFIG.gateway, 2376), "to a node");
        only_the_second_arrives((&stranger, &wrong), (&web, &good), &db);
    });
}

#[test]
fn a_published_port_answers_on_every_node_and_its_answers_leave_by_the_node_of_entry() {
    on_two_nodes(|mut cluster| {
        let db = cluster.pod(DB, "a", 1, Some(5353));
        cluster.apply();
        for (number, address) in ADDRESSES.into_iter().enumerate() {
            let client = (CLIENT, 4000 + number as u16);
            let world = &cluster.nodes[number].world;
            for (question, answer) in [("first", "one"), ("second", "two")] {
                world.send(&Packet::udp(client, (address, 5353), question));
                let seen = db.next();
                assert_eq!(seen, Packet::udp(client, (DB, 53), question));
                db.send(&seen.reply(answer));
                assert_eq!(world.next(), Packet::udp((address, 5353), client, answer));
            }
            let others = &cluster.nodes[1 - number].world;
            assert!(others.is_silent());
        }
        // What the pod begins itself goes out by its own node.
        db.send(&Packet::udp((DB, 1), (CLIENT, 1), "a way out"));
        assert_eq!(cluster.nodes[1].world.next().from.0, ADDRESSES[1]);
        // Where the node of entry is gone, nothing takes another way.
        cluster.nodes[0]
            .world
            .send(&Packet::udp((CLIENT, 2), (NODE, 5353), "last"));
        let seen = db.next();
        cluster.state.nodes.remove_mut(&NODES[0]);
        cluster.apply();
        db.send(&seen.reply("to nobody"));
        assert_eq!(db.next().content, Content::Icmp(UNREACHABLE));
        assert!(cluster.nodes.iter().all(|node| node.world.is_silent()));
    });
}

#[test]
fn a_published_port_is_reached_through_another_node_by_other_tenants_by_nodes_and_by_its_neighbours()
 {
    on_two_nodes(|mut cluster| {
        let stranger = cluster.pod(STRANGER, "b", 0, None);
        let db = cluster.pod(DB, "a", 1, Some(5353));
        let web = cluster.pod(WEB, "a", 1, None);
        cluster.apply();
        // By the stranger's node, which isn't the pod's.
        stranger.send(&Packet::udp((STRANGER, 1), (NODE, 5353), "a stranger's"));
        let seen = db.next();
        assert_eq!(seen.to, (DB, 53));
        db.send(&seen.reply("answer"));
        assert_eq!(
            stranger.next(),
            Packet::udp((NODE, 5353), (STRANGER, 1), "answer")
        );
        // Only so: not by the pod's own address.
        let wrong = Packet::udp((STRANGER, 2), (DB, 53), "straight");
        let right = Packet::udp((STRANGER, 2), (NODE, 5353), "by the node");
        only_the_second_arrives((&stranger, &wrong), (&stranger, &right), &db);
        // A program of the node.
        cluster.machine(0);
        let socket = std::net::UdpSocket::bind((NODE, 0)).unwrap();
        socket.send_to(b"a node's", (NODE, 5353)).unwrap();
        let seen = db.next();
        assert_eq!(seen.from.0, NODE);
        db.send(&seen.reply("to the node"));
        let mut answer = [0; 32];
        let (length, from) = socket.recv_from(&mut answer).unwrap();
        assert_eq!(
            (&answer[..length], from),
            (&b"to the node"[..], (NODE, 5353).into())
        );
        // A neighbour on the same node that has asked the other one: under its node's address, across the world and back by the tunnel.
        web.send(&Packet::udp((WEB, 7), (NODE, 5353), "round about"));
        let [first, second] = cluster.nodes.each_ref().map(|node| &node.world);
        first.send(&second.next());
        let seen = db.next();
        assert_eq!(seen.from.0, ADDRESSES[1]);
        db.send(&seen.reply("and back"));
        second.send(&first.next());
        assert_eq!(web.next(), Packet::udp((NODE, 5353), (WEB, 7), "and back"));
    });
}

#[test]
fn what_does_not_come_from_a_node_does_not_come_into_the_tunnel() {
    on_two_nodes(|mut cluster| {
        let web = cluster.pod(WEB, "a", 0, None);
        let db = cluster.pod(DB, "a", 1, None);
        cluster.apply();
        let inner = Packet::udp((WEB, 1), (DB, 1), "forged");
        // VXLAN-GPE: version 0, an instance and a next protocol are given; IPv4; network 1.
        let header = [0x0c, 0, 0, 1, 0, 0, 1, 0];
        let mut forged = Packet::udp((CLIENT, 1), (ADDRESSES[1], 4790), "");
        forged.payload = [&header[..], &inner.to_bytes()].concat();
        let good = Packet::udp((WEB, 1), (DB, 1), "web's");
        only_the_second_arrives((&cluster.nodes[1].world, &forged), (&web, &good), &db);
        // A pod's packets may look like that as long as they are going elsewhere.
        let mut outwards = Packet::udp((WEB, 1), (CLIENT, 4790), "");
        outwards.payload = forged.payload.clone();
        web.send(&outwards);
        assert_eq!(cluster.nodes[0].world.next().payload, forged.payload);
    });
}

#[test]
fn a_node_is_no_way_out_for_anothers_pods() {
    on_two_nodes(|mut cluster| {
        let web = cluster.pod(WEB, "a", 0, None);
        let db = cluster.pod(DB, "a", 1, None);
        cluster.apply();
        // The first node takes the world for a pod of the second; its own route there would come first.
        let mut mistaken = Plan::of(&cluster.state, NODES[0]);
        let there = mistaken.pods[&DB].clone();
        mistaken.pods.insert(CLIENT, there);
        cluster.machine(0).mesh.apply(&mistaken).unwrap();
        let mut routes = Routes::open().unwrap();
        let mut link = LinkMessage::default();
        link.header.index = routes.make_link("wan0", Vec::new()).unwrap();
        routes.request(RTM_DELLINK, 0, &link).unwrap();

        let good = Packet::udp((WEB, 1), (DB, 1), "web's");
        let wrong = Packet::udp((WEB, 1), (CLIENT, 1), "to be passed on");
        only_the_second_arrives((&web, &wrong), (&web, &good), &db);
        assert!(cluster.nodes[1].world.is_silent());
    });
}

#[test]
fn without_wireguards_link_nothing_leaves_in_clear() {
    on_two_nodes(|mut cluster| {
        let web = cluster.pod(WEB, "a", 0, None);
        cluster.place(DB, "a", 1, None);
        cluster.apply();
        cluster.machine(0);
        // Another way to what the other node's address looks like.
        let elsewhere = Linux::open().unwrap().create_link("wan1").unwrap();
        let mut routes = Routes::open().unwrap();
        let index = routes.make_link("wan1", Vec::new()).unwrap();
        let address = Ipv6Addr::from_bits(super::NODES | 1 << 64);
        routes.add_link_address(index, address, 48).unwrap();
        routes.set_up(index, None).unwrap();
        let mut link = LinkMessage::default();
        link.header.index = routes.make_link(WIREGUARD_LINK, Vec::new()).unwrap();
        routes.request(RTM_DELLINK, 0, &link).unwrap();

        web.send(&Packet::udp((WEB, 1), (DB, 1), "a secret"));
        let socket = std::net::UdpSocket::bind((address, 0)).unwrap();
        socket
            .send_to(b"a mark", (address_of(NODES[1]), 9))
            .unwrap();
        // Past the kernel's own messages: the first UDP packet is the mark.
        let mut bytes = [0; 2000];
        let payload = loop {
            let length = rustix::io::read(&elsewhere, &mut bytes).unwrap();
            if bytes[10..length].get(6) == Some(&17) {
                break &bytes[10 + 40 + 8..length];
            }
        };
        assert_eq!(payload, b"a mark");
    });
}

#[test]
fn where_no_pod_is_left_no_link_is_and_the_next_one_is_reached_again() {
    on_two_nodes(|mut cluster| {
        for _ in 0..2 {
            let web = cluster.pod(WEB, "a", 0, None);
            let db = cluster.pod(DB, "a", 1, None);
            cluster.apply();
            let packet = Packet::udp((WEB, 1), (DB, 1), "web's");
            web.send(&packet);
            assert_eq!(db.next(), packet);
            for (number, address) in [WEB, DB].into_iter().enumerate() {
                cluster
                    .machine(number)
                    .network
                    .detach(&address.to_string())
                    .unwrap();
                cluster
                    .state
                    .pods
                    .remove(&PodState::sample(address.octets()[3] - 1).id);
            }
            cluster.apply();
            for number in 0..2 {
                let is_up = cluster.machine(number).mesh.ground().is_up;
                assert!(!is_up);
            }
        }
    });
}

#[test]
fn a_pods_largest_packet_goes_to_another_node_whole() {
    on_two_nodes(|mut cluster| {
        let web = cluster.pod(WEB, "a", 0, None);
        let db = cluster.pod(DB, "a", 1, None);
        cluster.apply();
        let largest = "x".repeat(usize::from(MTU) - 28);
        let packet = Packet::udp((WEB, 1), (DB, 1), &largest);
        web.send(&packet);
        assert_eq!(db.next(), packet);
        web.send(&Packet::tcp((WEB, 1), (DB, 1), SYN));
        let seen = db.next();
        db.send(&seen.reply(""));
        assert_eq!(web.next(), Packet::tcp((DB, 1), (WEB, 1), SYN_ACK));
    });
}

#[test]
fn a_pod_keeps_its_address_when_it_moves_and_who_gets_the_address_next_is_no_friend() {
    on_two_nodes(|mut cluster| {
        let web = cluster.pod(WEB, "a", 0, None);
        let db = cluster.pod(DB, "a", 1, Some(5353));
        cluster.apply();
        let question = Packet::udp((WEB, 1), (DB, 53), "question");
        web.send(&question);
        assert_eq!(db.next(), question);
        // From the second node to the first.
        cluster.machine(1).network.detach(&DB.to_string()).unwrap();
        cluster.machine(1).network.publish(&[]).unwrap();
        drop(db);
        let db = cluster.pod(DB, "a", 0, Some(5353));
        cluster.apply();
        web.send(&question);
        assert_eq!(db.next(), question);
        let by_second = Packet::udp((CLIENT, 1), (ADDRESSES[1], 5353), "by the second");
        cluster.nodes[1].world.send(&by_second);
        assert_eq!(db.next().payload, by_second.payload);
        // It goes, and another tenant's gets the address, where the first one was.
        cluster.machine(0).network.detach(&DB.to_string()).unwrap();
        cluster.machine(0).network.publish(&[]).unwrap();
        drop(db);
        let new = cluster.pod(DB, "b", 1, None);
        let friend = cluster.pod(STRANGER, "b", 0, None);
        cluster.apply();
        let right = Packet::udp((STRANGER, 1), (DB, 53), "a friend's");
        only_the_second_arrives((&web, &question), (&friend, &right), &new);
        only_the_second_arrives(
            (&cluster.nodes[0].world, &by_second),
            (&friend, &right),
            &new,
        );
    });
}

#[test]
fn what_survived_a_restart_is_kept_or_goes_as_the_state_says() {
    on_two_nodes(|mut cluster| {
        let web = cluster.pod(WEB, "a", 0, None);
        let db = cluster.pod(DB, "a", 1, Some(5353));
        let _gone = cluster.pod(STRANGER, "a", 1, None);
        cluster.apply();
        let client = Packet::udp((CLIENT, 1), (NODE, 5353), "before");
        cluster.nodes[0].world.send(&client);
        let seen = db.next();

        cluster.machine(0);
        let network = Network::start(CONFIG).unwrap();
        network.readopt(&WEB.to_string(), "a", WEB).unwrap();
        let before = &cluster.nodes[0];
        let underlay = underlay(before.key, &before.cable);
        let mesh = Mesh::start_on(&network, NODES[0], underlay).unwrap();
        (cluster.nodes[0].network, cluster.nodes[0].mesh) = (network, mesh);
        // Before the first plan: all is as it was.
        db.send(&seen.reply("after"));
        assert_eq!(cluster.nodes[0].world.next(), client.reply("after"));
        let good = Packet::udp((WEB, 1), (DB, 1), "web's");
        web.send(&good);
        assert_eq!(db.next(), good);

        let gone = PodState::sample(STRANGER.octets()[3] - 1).id;
        cluster.state.pods.remove(&gone);
        cluster.apply();
        web.send(&good);
        assert_eq!(db.next(), good);
        // Alone: nothing is left of the other node.
        cluster.state.nodes.remove_mut(&NODES[1]);
        cluster.apply();
    });
}
