//! What must not.

use super::packet::Packet;
use super::*;

#[test]
fn pods_of_a_tenant_reach_each_other_and_nobody_elses() {
    on_a_node(|node| {
        let web = node.pod("web", "a", WEB);
        let db = node.pod("db", "a", DB);
        let stranger = node.pod("stranger", "b", STRANGER);
        let wrong = Packet::udp((STRANGER, 1), (DB, 5432), "from a stranger");
        let right = Packet::udp((WEB, 1), (DB, 5432), "from web");
        node.only_the_second_arrives(&stranger, &wrong, &web, &right, &db);
        // The answer gets back, the other way round too.
        db.send(&right.reply("to web"));
        assert_eq!(web.next().payload, b"to web");
        let wrong = Packet::udp((DB, 9), (STRANGER, 1), "to a stranger");
        let right = Packet::udp((DB, 9), (WEB, 2), "to web again");
        node.only_the_second_arrives(&db, &wrong, &db, &right, &web);
        assert!(stranger.is_silent());
    });
}

#[test]
fn a_pod_can_not_speak_with_an_address_that_is_not_its_own() {
    on_a_node(|node| {
        let web = node.pod("web", "a", WEB);
        let _db = node.pod("db", "a", DB);
        let link = super::super::link_name("web");
        let good = Packet::udp((WEB, 1), (CLIENT, 1), "web's own");
        // The reverse path filter and the rules each hold without the other; the rules are tried alone.
        for filter in ["1", "0"] {
            let parameter = format!("net/ipv4/conf/{link}/rp_filter");
            Linux::open()
                .unwrap()
                .set_parameter(&parameter, filter)
                .unwrap();
            for address in [
                DB,
                STRANGER,
                CONFIG.gateway,
                NODE,
                CLIENT,
                Ipv4Addr::new(8, 8, 8, 8),
            ] {
                let spoofed = Packet::udp((address, 1), (CLIENT, 1), "spoofed");
                node.only_the_second_arrives(&web, &spoofed, &web, &good, &node.world);
            }
        }
    });
}

#[test]
fn a_pods_address_is_not_believed_from_outside() {
    on_a_node(|node| {
        let _web = node.pod("web", "a", WEB);
        let db = node.pod("db", "a", DB);
        node.network
            .publish(&[published(None, 53, Protocol::Udp, DB, 53)])
            .unwrap();
        let spoofed = Packet::udp((WEB, 1), (NODE, 53), "as web");
        let good = Packet::udp((CLIENT, 1), (NODE, 53), "as itself");
        node.only_the_second_arrives(&node.world, &spoofed, &node.world, &good, &db);
    });
}

#[test]
fn the_world_reaches_pods_by_published_ports_only() {
    on_a_node(|node| {
        let web = node.pod("web", "a", WEB);
        node.network
            .publish(&[published(None, 53, Protocol::Udp, WEB, 53)])
            .unwrap();
        let closed = Packet::udp((CLIENT, 1), (WEB, 53), "by its own address");
        let open = Packet::udp((CLIENT, 2), (NODE, 53), "by the node's");
        node.only_the_second_arrives(&node.world, &closed, &node.world, &open, &web);
    });
}

#[test]
fn the_nodes_own_ports_are_not_for_pods() {
    on_a_node(|node| {
        let web = node.pod("web", "a", WEB);
        let socket = udp_socket((Ipv4Addr::UNSPECIFIED, 2376));
        for address in [NODE, NODE_TOO, CONFIG.gateway] {
            web.send(&Packet::udp((WEB, 1), (address, 2376), "from a pod"));
            node.world
                .send(&Packet::udp((CLIENT, 1), (NODE, 2376), "from the world"));
            let mut seen = [0; 32];
            let (length, from) = socket.recv_from(&mut seen).unwrap();
            assert_eq!(
                (&seen[..length], from),
                (b"from the world".as_slice(), (CLIENT, 1).into())
            );
        }
    });
}

#[test]
fn the_node_forwards_for_nobody_else() {
    on_a_node(|node| {
        let kernel = Linux::open().unwrap();
        let other = Ipv4Addr::new(203, 0, 113, 9);
        let elsewhere = Wire(kernel.create_link("wan1").unwrap());
        kernel.lead("wan1", MTU, other, NODE).unwrap();
        let web = node.pod("web", "a", WEB);
        let transit = Packet::udp((CLIENT, 1), (other, 1), "transit");
        let good = Packet::udp((WEB, 1), (other, 1), "a pod's");
        node.only_the_second_arrives(&node.world, &transit, &web, &good, &elsewhere);
    });
}
