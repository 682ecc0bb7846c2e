//! What must get through.

use super::super::Error;
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
fn what_can_not_be_published_is_told_and_hinders_nothing_else() {
    on_a_node(|node| {
        let web = node.pod("web", "a", WEB);
        let good = published(None, 53, Protocol::Udp, WEB, 53);
        let mut v6 = good.clone();
        v6.binding.host_ip = Some(std::net::Ipv6Addr::LOCALHOST.into());
        let told = node.network.publish(&[v6, good.clone()]);
        assert!(
            matches!(told, Err(Error::Ipv6Binding { port: 53, .. })),
            "{told:?}"
        );
        node.world
            .send(&Packet::udp((CLIENT, 1), (NODE, 53), "first"));
        assert_eq!(web.next().payload, b"first");
        let twice = published(Some(Ipv4Addr::UNSPECIFIED), 53, Protocol::Udp, DB, 1);
        let told = node.network.publish(&[good, twice]);
        assert!(
            matches!(told, Err(Error::PublishedTwice { port: 53 })),
            "{told:?}"
        );
        node.world
            .send(&Packet::udp((CLIENT, 2), (NODE, 53), "second"));
        assert_eq!(web.next().payload, b"second");
    });
}

#[test]
fn a_flow_that_began_before_its_port_was_published_finds_its_pod() {
    on_a_node(|node| {
        let web = node.pod("web", "a", WEB);
        let question = Packet::udp((CLIENT, 4000), (NODE, 53), "anybody?");
        node.world.send(&question);
        let refused = node.world.next();
        assert_eq!(refused.content, Content::Icmp(UNREACHABLE));
        node.network
            .publish(&[published(None, 53, Protocol::Udp, WEB, 53)])
            .unwrap();
        node.world.send(&question);
        assert_eq!(web.next().payload, b"anybody?");
    });
}

#[test]
fn a_flow_follows_its_port_to_another_pod_and_others_stay() {
    on_a_node(|node| {
        let web = node.pod("web", "a", WEB);
        let db = node.pod("db", "a", DB);
        let stays = published(None, 54, Protocol::Udp, WEB, 54);
        node.network
            .publish(&[published(None, 53, Protocol::Udp, WEB, 53), stays.clone()])
            .unwrap();
        let moving = Packet::udp((CLIENT, 4000), (NODE, 53), "moving");
        let staying = Packet::udp((CLIENT, 4000), (NODE, 54), "staying");
        node.world.send(&moving);
        assert_eq!(web.next().to, (WEB, 53));
        node.world.send(&staying);
        let seen = web.next();
        // Somebody's way out to a port with the same number isn't the published one's.
        db.send(&Packet::udp((DB, 4000), (CLIENT, 53), "a way out"));
        let way_out = node.world.next();
        node.network
            .publish(&[published(None, 53, Protocol::Udp, DB, 53), stays])
            .unwrap();
        node.world.send(&moving);
        assert_eq!(db.next().to, (DB, 53));
        web.send(&seen.reply("stayed"));
        assert_eq!(
            node.world.next(),
            Packet::udp((NODE, 54), (CLIENT, 4000), "stayed")
        );
        node.world.send(&way_out.reply("back"));
        assert_eq!(db.next(), Packet::udp((CLIENT, 53), (DB, 4000), "back"));
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
