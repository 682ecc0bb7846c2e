//! A DHCP client on one link: smoltcp's, on its own little interface. The kernel's stack is configured with what it is granted.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::Device;
use smoltcp::socket::dhcpv4::{self, RetryConfig};
use smoltcp::time::Instant;
use smoltcp::wire::{DhcpOption, EthernetAddress, IpCidr, Ipv4Cidr};

use super::wire::Wire;
use crate::host::config::Cidr;
use crate::netlink::Link;

/// First wait for an answer. smoltcp's own 10 s would be felt by everybody whose switch port takes a moment; but it must be longer than
/// servers take that first probe whether the address is free (dnsmasq: 3 s), for each new question makes the last one's answer void.
const DISCOVER_TIMEOUT: smoltcp::time::Duration = smoltcp::time::Duration::from_millis(5000);
/// First wait for the answer to a request; doubled with every second retry.
const REQUEST_TIMEOUT: smoltcp::time::Duration = smoltcp::time::Duration::from_millis(2000);
/// DHCP's option for the client's name (RFC 2132, section 3.14).
const OPTION_HOST_NAME: u8 = 12;

/// What a server has granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The node's address.
    pub address: Cidr,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
}

/// What has changed.
#[derive(Debug)]
pub enum Change {
    /// Nothing.
    None,
    /// A lease has been granted, or renewed with other contents.
    Granted(Lease),
    /// The lease has ended.
    Ended,
}

/// The client on one link.
pub struct Client<W = Wire> {
    /// The link.
    pub link: Link,
    wire: W,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl Client {
    /// Begins to ask. `hostname` tells the server who asks.
    pub fn start(link: Link, hostname: &'static str) -> io::Result<Self> {
        let wire = Wire::open(link.index)?;
        Self::on(wire, link, hostname)
    }
}

impl<W: Device> Client<W> {
    /// As [`Client::start`], on a wire that there is.
    pub(super) fn on(mut wire: W, link: Link, hostname: &'static str) -> io::Result<Self> {
        let mac = <[u8; 6]>::try_from(link.address.as_slice())
            .map_err(|_| io::Error::other("the link has no Ethernet address"))?;
        let mut config = Config::new(EthernetAddress(mac).into());
        let mut seed = [0; 8];
        // Not blocking at boot: the seed only tells concurrent clients apart, and the Ethernet address does so too.
        let _ = getrandom(&mut seed, GetRandomFlags::INSECURE);
        config.random_seed = u64::from_ne_bytes(seed);
        let interface = Interface::new(config, &mut wire, now());

        let mut socket = dhcpv4::Socket::new();
        let mut retry = RetryConfig::default();
        retry.discover_timeout = DISCOVER_TIMEOUT;
        retry.initial_request_timeout = REQUEST_TIMEOUT;
        socket.set_retry_config(retry);
        // Leaked once per link and boot: smoltcp borrows options for as long as the socket lives.
        let options: &'static [DhcpOption<'static>] = Box::leak(Box::new([DhcpOption {
            kind: OPTION_HOST_NAME,
            data: hostname.as_bytes(),
        }]));
        socket.set_outgoing_options(options);
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Ok(Self {
            link,
            wire,
            interface,
            sockets,
            handle,
        })
    }

    /// What it asks over.
    #[cfg(feature = "fuzzing")]
    pub(super) fn wire(&mut self) -> &mut W {
        &mut self.wire
    }

    /// Sends what is due and takes what has come.
    pub fn advance(&mut self) -> Change {
        self.interface
            .poll(now(), &mut self.wire, &mut self.sockets);
        let change = match self
            .sockets
            .get_mut::<dhcpv4::Socket<'_>>(self.handle)
            .poll()
        {
            None => Change::None,
            Some(dhcpv4::Event::Deconfigured) => Change::Ended,
            Some(dhcpv4::Event::Configured(config)) => Change::Granted(Lease {
                address: Cidr {
                    address: IpAddr::V4(config.address.address()),
                    prefix_len: config.address.prefix_len(),
                },
                // smoltcp panics when it looks for another's Ethernet address (0.14, `neighbor::Cache::lookup`), and the kernel has
                // no route over it.
                gateway: config.router.filter(is_one_machine).map(IpAddr::V4),
                dns: config.dns_servers.iter().copied().map(IpAddr::V4).collect(),
            }),
        };
        match &change {
            Change::None => {}
            Change::Ended => self.set_address(None),
            Change::Granted(lease) => self.set_address(Some(lease)),
        }
        change
    }

    /// How long it has nothing to do unless a frame comes.
    pub fn idle(&mut self) -> Option<Duration> {
        let wait = self.interface.poll_delay(now(), &self.sockets)?;
        Some(Duration::from_micros(wait.total_micros()))
    }

    /// Begins anew, as after the link was down.
    pub fn restart(&mut self) {
        self.sockets
            .get_mut::<dhcpv4::Socket<'_>>(self.handle)
            .reset();
        self.set_address(None);
    }

    /// smoltcp's own interface needs the address for renewals, which go to the server alone.
    fn set_address(&mut self, lease: Option<&Lease>) {
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            if let Some((address, prefix_len)) = lease.and_then(|lease| v4(lease.address)) {
                // There is room: it was just emptied.
                let _ = addresses.push(IpCidr::Ipv4(Ipv4Cidr::new(address, prefix_len)));
            }
        });
        let routes = self.interface.routes_mut();
        routes.remove_default_ipv4_route();
        if let Some(IpAddr::V4(gateway)) = lease.and_then(|lease| lease.gateway) {
            let _ = routes.add_default_ipv4_route(gateway);
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.as_fd()
    }
}

fn is_one_machine(address: &Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_broadcast() || address.is_multicast())
}

fn v4(cidr: Cidr) -> Option<(Ipv4Addr, u8)> {
    match cidr.address {
        IpAddr::V4(address) => Some((address, cidr.prefix_len)),
        IpAddr::V6(_) => None,
    }
}

fn now() -> Instant {
    // Time asleep counts for a lease.
    let time = clock_gettime(ClockId::Boottime);
    Instant::from_micros(time.tv_sec * 1_000_000 + time.tv_nsec / 1000)
}
