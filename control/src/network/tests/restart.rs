//! Links and rules across the lives of monitors and of the controller.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use super::super::{Change, Connections, Error, Pod};
use super::packet::Packet;
use super::*;

fn links_of(network: &Network) -> BTreeSet<String> {
    network
        .inner
        .kernel
        .pods()
        .unwrap()
        .iter()
        .map(|pod| pod.link().to_owned())
        .collect()
}

#[test]
fn a_link_lives_as_long_as_its_monitor() {
    on_a_node(|node| {
        let link = node.attach("web", "a", WEB);
        let again = node.network.attach("web", "a", WEB);
        assert!(
            matches!(again, Err(Error::Kernel { .. })),
            "the first monitor still has it"
        );
        drop(link.tun);
        let web = node.pod("web", "a", WEB);
        web.send(&Packet::udp((WEB, 1), (CLIENT, 1), "hello"));
        assert_eq!(node.world.next().payload, b"hello");
    });
}

#[test]
fn a_restarted_controller_finds_pods_ports_and_connections_as_they_were() {
    on_a_node(|node| {
        let web = node.pod("web", "a", WEB);
        let db = node.pod("db", "a", DB);
        let stranger = node.pod("stranger", "b", STRANGER);
        let ports = [published(None, 53, Protocol::Udp, WEB, 53)];
        node.network.publish(&ports).unwrap();
        web.send(&Packet::udp((WEB, 4000), (CLIENT, 7), "before"));
        let connection = node.world.next();
        let before = links_of(&node.network);

        drop(node.network);
        let network = Network::start(CONFIG).unwrap();
        assert_eq!(links_of(&network), before);
        // Before anything is taken up again: the connection and the port are there.
        node.world.send(&connection.reply("after"));
        assert_eq!(web.next(), Packet::udp((CLIENT, 7), (WEB, 4000), "after"));
        node.world
            .send(&Packet::udp((CLIENT, 2), (NODE, 53), "still published"));
        assert_eq!(web.next().payload, b"still published");

        network.readopt("web", "a", WEB).unwrap();
        network.readopt("db", "a", DB).unwrap();
        network.detach("stranger").unwrap();
        network.publish(&ports).unwrap();
        assert_eq!(links_of(&network).len(), 2);
        let node = Node {
            network,
            world: node.world,
        };
        let wrong = Packet::udp((STRANGER, 1), (CLIENT, 9), "expelled");
        let right = Packet::udp((WEB, 1), (CLIENT, 9), "at home");
        node.only_the_second_arrives(&stranger, &wrong, &web, &right, &node.world);
        web.send(&Packet::udp((WEB, 5), (DB, 5), "neighbour"));
        assert_eq!(db.next().payload, b"neighbour");
    });
}

#[test]
fn a_pod_is_forgotten_with_its_address_and_its_tenant() {
    on_a_node(|node| {
        let old = node.pod("old", "a", DB);
        let web = node.pod("web", "a", WEB);
        node.network.detach("old").unwrap();
        node.network.detach("old").unwrap();
        node.network.detach("never there").unwrap();
        drop(old);
        // The address goes to another tenant's pod: the first tenant's don't reach it.
        let new = node.pod("new", "b", DB);
        let friend = node.pod("friend", "b", STRANGER);
        let wrong = Packet::udp((WEB, 1), (DB, 1), "from tenant a");
        let right = Packet::udp((STRANGER, 1), (DB, 1), "from tenant b");
        node.only_the_second_arrives(&web, &wrong, &friend, &right, &new);
    });
}

#[test]
fn a_connection_of_a_pod_that_is_gone_does_not_reach_the_next_with_its_address() {
    on_a_node(|node| {
        let old = node.pod("old", "a", WEB);
        old.send(&Packet::udp((WEB, 4000), (CLIENT, 53), "question"));
        let seen = node.world.next();
        drop(old);
        node.network.detach("old").unwrap();
        let new = node.pod("new", "b", WEB);
        node.network
            .publish(&[published(None, 53, Protocol::Udp, WEB, 53)])
            .unwrap();
        let wrong = seen.reply("for the old pod");
        let right = Packet::udp((CLIENT, 2), (NODE, 53), "for the new pod");
        node.only_the_second_arrives(&node.world, &wrong, &node.world, &right, &new);
    });
}

/// Counts, and does nothing.
#[derive(Default, Clone)]
struct Ledger(Arc<Mutex<Vec<String>>>);

impl Kernel for Ledger {
    fn set_parameter(&self, name: &str, value: &str) -> Result<(), Error> {
        self.note(format!("{name}={value}"))
    }
    fn create_link(&self, _name: &str) -> Result<OwnedFd, Error> {
        self.note("link".into())?;
        Ok(std::fs::File::open("/dev/null").unwrap().into())
    }
    fn add_own_address(&self, address: Ipv4Addr) -> Result<(), Error> {
        self.note(format!("own {address}"))
    }
    fn has_address(&self, _: IpAddr) -> Result<bool, Error> {
        Ok(true)
    }

    fn add_unreachable(&self, network: Ipv4Addr, prefix: u8) -> Result<(), Error> {
        self.note(format!("unreachable {network}/{prefix}"))
    }
    fn lead(
        &self,
        _link: &str,
        _mtu: u16,
        address: Ipv4Addr,
        _source: Ipv4Addr,
    ) -> Result<(), Error> {
        self.note(format!("lead {address}"))
    }
    fn change(&self, changes: &[Change]) -> Result<(), Error> {
        let words = changes.iter().map(|change| match change {
            Change::Base(_) => "base".to_owned(),
            Change::Admit(pod) => format!("admit {}", pod.address()),
            Change::Expel(pod) => format!("expel {}", pod.address()),
            Change::Elsewhere { gone, come } => {
                format!("elsewhere -{} +{}", gone.len(), come.len())
            }
            Change::Publish(ports) => format!("publish {}", ports.len()),
        });
        self.note(words.collect::<Vec<_>>().join(", "))
    }
    fn forget(&self, connections: &[Connections]) -> Result<(), Error> {
        self.note(format!("forget {}", connections.len()))
    }
    fn pods(&self) -> Result<Vec<Pod>, Error> {
        Ok(Vec::new())
    }
}

impl Ledger {
    fn note(&self, word: String) -> Result<(), Error> {
        self.0.lock().unwrap().push(word);
        Ok(())
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[test]
fn the_rules_stand_before_anything_is_forwarded_or_linked() {
    let ledger = Ledger::default();
    let network = Network::start_on(Box::new(ledger.clone()), CONFIG).unwrap();
    let started = ledger.take();
    assert_eq!(started.first().map(String::as_str), Some("base"));
    assert_eq!(
        started.last().map(String::as_str),
        Some("net/ipv4/ip_forward=1")
    );

    network.attach("web", "a", WEB).unwrap();
    let attached = ledger.take();
    let position = |word: &str| attached.iter().position(|w| w == word);
    assert!(
        position("admit 10.88.0.2") < position("lead 10.88.0.2"),
        "{attached:?}"
    );
    network.detach("web").unwrap();
    network.detach("web").unwrap();
    assert_eq!(ledger.take(), ["expel 10.88.0.2", "forget 2"]);
}

#[test]
fn a_pod_that_comes_back_elsewhere_is_moved_in_one_step() {
    let ledger = Ledger::default();
    let network = Network::start_on(Box::new(ledger.clone()), CONFIG).unwrap();
    network.readopt("web", "a", WEB).unwrap();
    ledger.take();
    network.readopt("web", "a", DB).unwrap();
    assert!(
        ledger
            .take()
            .contains(&"expel 10.88.0.2, admit 10.88.0.3".to_owned())
    );
}
