//! What must get through.

use super::packet::{Content, ECHO_REPLY, Packet, SYN, SYN_ACK, UNREACHABLE};
use super::*;

#[test]
fn a_pod_reaches_the_world_under_the_nodes_address() {
    on_a_node(|node| {
        let web = node.pod("web", "a", WEB);
        web.send(&Packet::udp((WEB, 4000), (CLIENT, 53), "question"));
        let seen = node.world.next();
        assert_eq!(
            (seen.from.0, seen.to, seen.payload.as_slice()),
            (NODE, (CLIENT, 53), b"question".as_slice())
        );
        node.world.send(&seen.reply("answer"));
        assert_eq!(web.next(), Packet::udp((CLIENT, 53), (WEB, 4000), "answer"));
    });
}

#[test]
fn a_pod_may_ping_its_gateway_and_the_world() {
    on_a_node(|node| {
        let web = node.pod("web", "a", WEB);
        web.send(&Packet::ping(WEB, CONFIG.gateway));
        let answer = web.next();
        assert_eq!(
            (answer.content, answer.from.0),
            (Content::Icmp(ECHO_REPLY), CONFIG.gateway)
        );
        web.send(&Packet::ping(WEB, CLIENT));
        assert_eq!(node.world.next().from.0, NODE);
    });
}

#[test]
fn a_published_port_leads_to_its_pod_from_the_world() {
    on_a_node(|node| {
        let web = node.pod("web", "a", WEB);
        node.network
            .publish(&[
                published(None, 8080, Protocol::Tcp, WEB, 80),
                published(Some(Ipv4Addr::UNSPECIFIED), 5353, Protocol::Udp, WEB, 53),
            ])
            .unwrap();

        node.world
            .send(&Packet::tcp((CLIENT, 4000), (NODE, 8080), SYN));
        let seen = web.next();
        assert_eq!(seen, Packet::tcp((CLIENT, 4000), (WEB, 80), SYN));
        web.send(&seen.reply(""));
        assert_eq!(
            node.world.next(),
            Packet::tcp((NODE, 8080), (CLIENT, 4000), SYN_ACK)
        );

        node.world
            .send(&Packet::udp((CLIENT, 4000), (NODE_TOO, 5353), "question"));
        let seen = web.next();
        assert_eq!(seen, Packet::udp((CLIENT, 4000), (WEB, 53), "question"));
        web.send(&seen.reply("answer"));
        assert_eq!(
            node.world.next(),
            Packet::udp((NODE_TOO, 5353), (CLIENT, 4000), "answer")
        );
    });
}

#[test]
fn a_published_port_leads_to_its_pod_from_other_tenants_from_itself_and_from_the_node() {
    on_a_node(|node| {
        let web = node.pod("web", "a", WEB);
        let stranger = node.pod("stranger", "b", STRANGER);
        node.network
            .publish(&[published(None, 5353, Protocol::Udp, WEB, 53)])
            .unwrap();

        stranger.send(&Packet::udp(
            (STRANGER, 4000),
            (NODE, 5353),
            "from a stranger",
        ));
        let seen = web.next();
        assert_eq!(
            (seen.to, seen.payload.as_slice()),
            ((WEB, 53), b"from a stranger".as_slice())
        );
        web.send(&seen.reply("to a stranger"));
        assert_eq!(
            stranger.next(),
            Packet::udp((NODE, 5353), (STRANGER, 4000), "to a stranger")
        );

        web.send(&Packet::udp((WEB, 4000), (NODE, 5353), "to itself"));
        let seen = web.next();
        assert_eq!((seen.from.0, seen.to), (CONFIG.gateway, (WEB, 53)));
        web.send(&seen.reply("by itself"));
        assert_eq!(
            web.next(),
            Packet::udp((NODE, 5353), (WEB, 4000), "by itself")
        );

        let socket = udp_socket((NODE, 0));
        socket.send_to(b"from the node", (NODE, 5353)).unwrap();
        let seen = web.next();
        assert_eq!(
            (seen.to, seen.payload.as_slice()),
            ((WEB, 53), b"from the node".as_slice())
        );
        web.send(&seen.reply("to the node"));
        let mut answer = [0; 32];
        let (length, from) = socket.recv_from(&mut answer).unwrap();
        assert_eq!(
            (&answer[..length], from),
            (b"to the node".as_slice(), (NODE, 5353).into())
        );
    });
}

#[test]
fn a_port_published_on_one_address_is_closed_on_the_others() {
    on_a_node(|node| {
        let web = node.pod("web", "a", WEB);
        let db = node.pod("db", "a", DB);
        node.network
            .publish(&[
                published(Some(NODE), 53, Protocol::Udp, WEB, 53),
                published(Some(NODE_TOO), 53, Protocol::Udp, DB, 53),
                published(Some(NODE_TOO), 54, Protocol::Udp, DB, 53),
            ])
            .unwrap();
        node.world
            .send(&Packet::udp((CLIENT, 1), (NODE, 53), "web's"));
        assert_eq!(web.next().payload, b"web's");
        let closed = Packet::udp((CLIENT, 2), (NODE, 54), "nobody's");
        let open = Packet::udp((CLIENT, 3), (NODE_TOO, 54), "db's");
        node.only_the_second_arrives(&node.world, &closed, &node.world, &open, &db);
        assert!(web.is_silent());
    });
}

#[test]
fn publishing_replaces_what_was_published() {
    on_a_node(|node| {
        let web = node.pod("web", "a", WEB);
        node.network
            .publish(&[published(None, 53, Protocol::Udp, WEB, 53)])
            .unwrap();
        node.world
            .send(&Packet::udp((CLIENT, 1), (NODE, 53), "first"));
        assert_eq!(web.next().payload, b"first");
        // Many at once, and not in the way of the one that matters.
        let mut ports: Vec<_> = (10_000..20_000)
            .map(|port| published(None, port, Protocol::Udp, DB, 1))
            .collect();
        ports.push(published(None, 54, Protocol::Udp, WEB, 53));
        node.network.publish(&ports).unwrap();
        let closed = Packet::udp((CLIENT, 2), (NODE, 53), "no longer");
        let open = Packet::udp((CLIENT, 3), (NODE, 54), "instead");
        node.only_the_second_arrives(&node.world, &closed, &node.world, &open, &web);
    });
}

#[test]
fn what_can_not_be_published_is_refused_and_changes_nothing() {
    on_a_node(|node| {
        let web = node.pod("web", "a", WEB);
        let good = published(None, 53, Protocol::Udp, WEB, 53);
        node.network.publish(std::slice::from_ref(&good)).unwrap();
        let mut v6 = good.clone();
        v6.binding.host_ip = Some(std::net::Ipv6Addr::LOCALHOST.into());
        assert!(matches!(
            node.network.publish(&[v6]),
            Err(super::super::Error::Ipv6Binding { port: 53, .. })
        ));
        let twice = [
            good.clone(),
            published(Some(Ipv4Addr::UNSPECIFIED), 53, Protocol::Udp, DB, 1),
        ];
        assert!(matches!(
            node.network.publish(&twice),
            Err(super::super::Error::PublishedTwice { port: 53 })
        ));
        node.world
            .send(&Packet::udp((CLIENT, 1), (NODE, 53), "still"));
        assert_eq!(web.next().payload, b"still");
    });
}

#[test]
fn a_pod_that_is_not_there_is_unreachable_and_not_looked_for_outside() {
    on_a_node(|node| {
        let web = node.pod("web", "a", WEB);
        web.send(&Packet::udp((WEB, 1), (DB, 1), "anybody?"));
        let answer = web.next();
        assert_eq!(
            (answer.content, answer.to.0),
            (Content::Icmp(UNREACHABLE), WEB)
        );
        assert!(node.world.is_silent());
    });
}
