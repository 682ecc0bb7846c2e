//! The node's address: by DHCP on the first link that answers, or the one from the configuration on the first link that has a
//! carrier.

mod lease;
mod wire;

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::kmsg;
use crate::netlink::{Link, Netlink};

use super::config::Static;
pub use lease::Lease;
use lease::{Change, Client};

/// The port that DHCP servers answer to.
const DHCP_CLIENT_PORT: u16 = 68;

/// The node's network. Owned by the node's one thread, which calls [`Network::advance`] whenever one of [`Network::fds`] is
/// readable or the time that the last call returned is over.
pub struct Network {
    netlink: Netlink,
    events: Netlink,
    mode: Mode,
    hostname: &'static str,
    current: Option<Current>,
    /// Links have been looked at once; from then on events tell.
    listed: bool,
    /// Takes DHCP's answers that also reach the kernel's stack, and is never read: without it the kernel would tell the server that
    /// nobody listens.
    _sink: Option<UdpSocket>,
}

enum Mode {
    Dhcp(Vec<Client>),
    Static(Lease),
}

/// What the kernel has been told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// On this link.
    pub link: Link,
    /// These.
    pub lease: Lease,
}

impl Network {
    /// Brings up loopback and every Ethernet link.
    pub fn open(wanted: Option<Static>, hostname: &'static str) -> io::Result<Self> {
        let events = Netlink::open_link_events()?;
        let mode = match wanted {
            None => Mode::Dhcp(Vec::new()),
            Some(Static {
                address,
                gateway,
                dns,
            }) => Mode::Static(Lease {
                address,
                gateway,
                dns,
            }),
        };
        let sink = matches!(mode, Mode::Dhcp(_))
            .then(|| UdpSocket::bind(("0.0.0.0", DHCP_CLIENT_PORT)).ok())
            .flatten();
        Ok(Self {
            netlink: Netlink::open()?,
            events,
            mode,
            hostname,
            current: None,
            listed: false,
            _sink: sink,
        })
    }

    /// What to wait for.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.events.as_fd()];
        if let Mode::Dhcp(clients) = &self.mode {
            fds.extend(clients.iter().map(AsFd::as_fd));
        }
        fds
    }

    /// How long to wait at most.
    pub fn idle(&mut self) -> Option<Duration> {
        match &mut self.mode {
            Mode::Dhcp(clients) => clients
                .iter_mut()
                // One without a carrier waits for the event that says it is back.
                .filter(|client| client.link.carrier)
                .filter_map(Client::idle)
                .min(),
            Mode::Static(_) => None,
        }
    }

    /// What holds now.
    pub fn current(&self) -> Option<&Current> {
        self.current.as_ref()
    }

    /// Does what is due. True: what holds has changed.
    pub fn advance(&mut self) -> bool {
        let before = self.current.clone();
        if self.events.ethernet_changed() || !self.listed {
            match self.netlink.links() {
                Ok(links) => self.follow_links(&links),
                Err(error) => kmsg::log(&format!("init: listing links: {error}")),
            }
            self.listed = true;
        }
        self.ask();
        self.current != before
    }

    fn follow_links(&mut self, links: &[Link]) {
        for link in links
            .iter()
            .filter(|link| (link.loopback || link.ethernet) && !link.up)
        {
            if let Err(error) = self.netlink.set_link_up(link.index, None) {
                kmsg::log(&format!("init: bringing up {}: {error}", link.name));
            }
        }
        let ready: Vec<&Link> = links
            .iter()
            .filter(|link| link.ethernet && link.up && link.carrier)
            .collect();
        match &mut self.mode {
            Mode::Static(lease) => {
                if self.current.is_none()
                    && let Some(link) = ready.first()
                {
                    let lease = lease.clone();
                    self.apply((*link).clone(), lease);
                }
            }
            Mode::Dhcp(clients) => {
                // The link of the lease that holds is asked again once its carrier is back; others have had their chance.
                for client in clients.iter_mut() {
                    let link = links.iter().find(|link| link.index == client.link.index);
                    let carrier = link.is_some_and(|link| link.carrier);
                    if carrier && !client.link.carrier {
                        client.restart();
                    }
                    client.link.carrier = carrier;
                }
                clients.retain(|client| links.iter().any(|link| link.index == client.link.index));
                if self.current.is_none() {
                    for link in ready {
                        if clients.iter().any(|client| client.link.index == link.index) {
                            continue;
                        }
                        match Client::start(link.clone(), self.hostname) {
                            Ok(client) => clients.push(client),
                            Err(error) => {
                                kmsg::log(&format!("init: DHCP on {}: {error}", link.name))
                            }
                        }
                    }
                }
            }
        }
    }

    fn ask(&mut self) {
        let Mode::Dhcp(clients) = &mut self.mode else {
            return;
        };
        let mut changes = Vec::new();
        for client in clients.iter_mut().filter(|client| client.link.carrier) {
            match client.advance() {
                Change::None => {}
                change => changes.push((client.link.clone(), change)),
            }
        }
        for (link, change) in changes {
            let ours = self
                .current
                .as_ref()
                .is_none_or(|current| current.link.index == link.index);
            match change {
                Change::Granted(lease) if ours => self.apply(link, lease),
                Change::Ended if ours => {
                    self.withdraw();
                    // All links may answer now.
                    self.listed = false;
                }
                _ => {}
            }
        }
    }

    fn apply(&mut self, link: Link, lease: Lease) {
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.lease == lease && current.link.index == link.index)
        {
            return;
        }
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.lease.address != lease.address)
        {
            self.withdraw();
        }
        let (address, index) = (lease.address, link.index);
        let mut set = || -> io::Result<()> {
            self.netlink
                .set_address(index, address.address, address.prefix_len)?;
            match lease.gateway {
                Some(gateway) => self.netlink.set_default_route(index, gateway),
                None => Ok(()),
            }
        };
        if let Err(error) = set() {
            kmsg::log(&format!(
                "init: setting {address} on {}: {error}",
                link.name
            ));
            return;
        }
        // The first link that answered has won.
        if let Mode::Dhcp(clients) = &mut self.mode {
            clients.retain(|client| client.link.index == index);
        }
        self.current = Some(Current { link, lease });
    }

    fn withdraw(&mut self) {
        if let Some(Current { link, lease }) = self.current.take() {
            // Its routes go with it.
            let address = lease.address;
            if let Err(error) =
                self.netlink
                    .delete_address(link.index, address.address, address.prefix_len)
            {
                kmsg::log(&format!(
                    "init: taking {address} from {}: {error}",
                    link.name
                ));
            }
        }
    }
}
