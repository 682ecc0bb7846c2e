//! The node's kernel as the network needs it.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::Error;
use super::connections::{Connections, Tracking};
use super::firewall::{Change, LINKS, Member, Pod, TABLE};
use super::nftables::{Batch, Nftables};
use super::route::Routes;
use super::tun;

/// What [`super::Network`] does to the node. Called from any thread, one call after another for one pod; every call but
/// [`Kernel::create_link`] may be repeated and then changes nothing.
pub trait Kernel: Send + Sync {
    /// Set a kernel parameter under `/proc/sys`, where it exists: `net/ipv4/ip_forward`.
    fn set_parameter(&self, name: &str, value: &str) -> Result<(), Error>;
    /// Make a TUN link; it is down. It goes when the last descriptor of its queue is closed.
    fn create_link(&self, name: &str) -> Result<OwnedFd, Error>;
    /// Give the node an address that belongs to no link in particular.
    fn add_own_address(&self, address: Ipv4Addr) -> Result<(), Error>;
    /// Whether the node has an address, on whatever link.
    fn has_address(&self, address: IpAddr) -> Result<bool, Error>;
    /// Answer packets for a network's absent addresses with "unreachable".
    fn add_unreachable(&self, network: Ipv4Addr, prefix: u8) -> Result<(), Error>;
    /// Bring a link up and lead an address to it; packets of the node itself go there from `source`.
    fn lead(&self, link: &str, mtu: u16, address: Ipv4Addr, source: Ipv4Addr) -> Result<(), Error>;
    /// Change the rules: all of the changes at once or none.
    fn change(&self, changes: &[Change]) -> Result<(), Error>;
    /// Forget connections: packets of theirs that still come begin anew, under the rules as they are then.
    fn forget(&self, connections: &[Connections]) -> Result<(), Error>;
    /// The pods that the rules know, from this process or an earlier one.
    fn pods(&self) -> Result<Vec<Pod>, Error>;
}

/// The one real [`Kernel`], of the network namespace of the thread that opens it.
#[derive(Debug)]
pub struct Linux {
    /// Protects one exchange: a request and all its answers.
    routes: Mutex<Routes>,
    /// As `routes`.
    nftables: Mutex<Nftables>,
    /// As `routes`.
    tracking: Mutex<Tracking>,
}

impl Linux {
    /// Opens sockets to the kernel. Needs CAP_NET_ADMIN.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            routes: Mutex::new(
                Routes::open().map_err(failed("opening a socket to the routing tables"))?,
            ),
            nftables: Mutex::new(Nftables::open().map_err(failed("opening a socket to nftables"))?),
            tracking: Mutex::new(
                Tracking::open().map_err(failed("opening a socket to connection tracking"))?,
            ),
        })
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        // An exchange that panicked leaves nothing behind that the next doesn't throw away.
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nftables(&self) -> MutexGuard<'_, Nftables> {
        self.nftables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kernel for Linux {
    fn set_parameter(&self, name: &str, value: &str) -> Result<(), Error> {
        match fs::write(Path::new("/proc/sys").join(name), value) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(Error::Kernel {
                doing: format!("setting {name} to {value}"),
                source,
            }),
            _ => Ok(()),
        }
    }

    fn create_link(&self, name: &str) -> Result<OwnedFd, Error> {
        tun::create(name).map_err(|errno| Error::Kernel {
            doing: format!("making the link {name}"),
            source: errno.into(),
        })
    }

    fn add_own_address(&self, address: Ipv4Addr) -> Result<(), Error> {
        self.routes()
            .add_own_address(address)
            .map_err(failed("adding the gateway's address"))
    }

    fn has_address(&self, address: IpAddr) -> Result<bool, Error> {
        // The kernel's own answer to whoever would listen there.
        match UdpSocket::bind((address, 0)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Ok(false),
            Err(source) => Err(Error::Kernel {
                doing: format!("looking for the address {address}"),
                source,
            }),
        }
    }

    fn add_unreachable(&self, network: Ipv4Addr, prefix: u8) -> Result<(), Error> {
        self.routes()
            .add_unreachable(network, prefix)
            .map_err(failed("adding the pods' network"))
    }

    fn lead(&self, link: &str, mtu: u16, address: Ipv4Addr, source: Ipv4Addr) -> Result<(), Error> {
        self.routes()
            .lead(link, mtu, address, source)
            .map_err(|errno| Error::Kernel {
                doing: format!("routing {address} to {link}"),
                source: errno.into(),
            })
    }

    fn change(&self, changes: &[Change]) -> Result<(), Error> {
        let mut batch = Batch::new(TABLE);
        changes.iter().for_each(|change| change.encode(&mut batch));
        self.nftables().apply(batch).map_err(|e| Error::Kernel {
            doing: format!("changing the rules for packets ({})", e.subject),
            source: e.errno.into(),
        })
    }

    fn forget(&self, connections: &[Connections]) -> Result<(), Error> {
        let mut tracking = self.tracking.lock().unwrap_or_else(PoisonError::into_inner);
        tracking
            .forget(connections)
            .map_err(failed("forgetting connections"))
    }

    fn pods(&self) -> Result<Vec<Pod>, Error> {
        let elements = self
            .nftables()
            .elements(TABLE, &LINKS)
            .map_err(failed("reading the rules for packets"))?;
        Ok(elements.iter().filter_map(Member::parse).map(Pod).collect())
    }
}

fn failed(doing: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Kernel {
        doing: doing.into(),
        source: errno.into(),
    }
}
