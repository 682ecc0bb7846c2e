//! A DHCP client on one link: smoltcp's, on its own little interface. The kernel's stack is configured with what it is granted.
//!
//! smoltcp panics on some of what strangers on the link can send, and this is PID 1: a client that has panicked begins anew.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
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
    options: &'static [DhcpOption<'static>],
    stack: Stack,
}

/// smoltcp's part.
struct Stack {
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
        // Leaked once per link and boot: smoltcp borrows options for as long as the socket lives.
        let options: &'static [DhcpOption<'static>] = Box::leak(Box::new([DhcpOption {
            kind: OPTION_HOST_NAME,
            data: hostname.as_bytes(),
        }]));
        let stack = Stack::new(&mut wire, &link, options)?;
        Ok(Self {
            link,
            wire,
            options,
            stack,
        })
    }

    /// What it asks over.
    #[cfg(feature = "fuzzing")]
    pub(super) fn wire(&mut self) -> &mut W {
        &mut self.wire
    }

    /// Sends what is due and takes what has come.
    pub fn advance(&mut self) -> Change {
        let (stack, wire) = (&mut self.stack, &mut self.wire);
        // Nothing of the stack is used after a panic in it.
        if let Ok(change) = catch_unwind(AssertUnwindSafe(|| stack.advance(wire))) {
            return change;
        }
        // The kernel keeps the address that it has: whoever sends such things must not cut the node off.
        if let Ok(fresh) = Stack::new(&mut self.wire, &self.link, self.options) {
            self.stack = fresh;
        }
        Change::None
    }

    /// How long it has nothing to do unless a frame comes.
    pub fn idle(&mut self) -> Option<Duration> {
        self.stack.idle()
    }

    /// Begins anew, as after the link was down.
    pub fn restart(&mut self) {
        self.stack.restart();
    }
}

impl Stack {
    fn new(
        wire: &mut impl Device,
        link: &Link,
        options: &'static [DhcpOption<'static>],
    ) -> io::Result<Self> {
        let mac = <[u8; 6]>::try_from(link.address.as_slice())
            .map_err(|_| io::Error::other("the link has no Ethernet address"))?;
        let mut config = Config::new(EthernetAddress(mac).into());
        let mut seed = [0; 8];
        // Not blocking at boot: the seed only tells concurrent clients apart, and the Ethernet address does so too.
        let _ = getrandom(&mut seed, GetRandomFlags::INSECURE);
        config.random_seed = u64::from_ne_bytes(seed);
        let interface = Interface::new(config, wire, now());

        let mut socket = dhcpv4::Socket::new();
        let mut retry = RetryConfig::default();
        retry.discover_timeout = DISCOVER_TIMEOUT;
        retry.initial_request_timeout = REQUEST_TIMEOUT;
        socket.set_retry_config(retry);
        socket.set_outgoing_options(options);
        // Its first word is that there is no lease: nothing that anybody had has ended.
        let _ = socket.poll();
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Ok(Self {
            interface,
            sockets,
            handle,
        })
    }

    fn advance(&mut self, wire: &mut impl Device) -> Change {
        self.interface.poll(now(), wire, &mut self.sockets);
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

    fn idle(&mut self) -> Option<Duration> {
        let wait = self.interface.poll_delay(now(), &self.sockets)?;
        Some(Duration::from_micros(wait.total_micros()))
    }

    fn restart(&mut self) {
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

#[cfg(test)]
mod tests {
    use smoltcp::phy::{DeviceCapabilities, Medium, RxToken, TxToken};

    use super::*;

    /// A wire on which smoltcp panics over the first frame.
    struct Trap {
        frames: u32,
        sent: u32,
    }

    struct Frame;

    struct Sending<'a>(&'a mut u32);

    impl RxToken for Frame {
        fn consume<R, F: FnOnce(&[u8]) -> R>(self, _: F) -> R {
            panic!("as smoltcp does over some frames")
        }
    }

    impl TxToken for Sending<'_> {
        fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
            *self.0 += 1;
            fill(&mut vec![0; length])
        }
    }

    impl Device for Trap {
        type RxToken<'a> = Frame;
        type TxToken<'a> = Sending<'a>;

        fn receive(&mut self, _: Instant) -> Option<(Frame, Sending<'_>)> {
            self.frames = self.frames.checked_sub(1)?;
            Some((Frame, Sending(&mut self.sent)))
        }

        fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
            Some(Sending(&mut self.sent))
        }

        fn capabilities(&self) -> DeviceCapabilities {
            let mut capabilities = DeviceCapabilities::default();
            capabilities.medium = Medium::Ethernet;
            capabilities.max_transmission_unit = 1514;
            capabilities
        }
    }

    #[test]
    fn a_frame_that_smoltcp_panics_over_ends_nobody_and_the_client_asks_on() {
        let link = Link {
            index: 2,
            name: "eth0".to_owned(),
            address: vec![2, 0, 0, 0, 0, 1],
            up: true,
            carrier: true,
            loopback: false,
            ethernet: true,
            software: false,
            mtu: 1500,
        };
        let trap = Trap { frames: 2, sent: 0 };
        let mut client = Client::on(trap, link, "node").unwrap();
        for _ in 0..2 {
            assert!(matches!(client.advance(), Change::None));
        }
        let before = client.wire.sent;
        assert!(matches!(client.advance(), Change::None));
        assert_eq!(client.wire.sent, before + 1, "it asks");
        assert_eq!(client.wire.frames, 0);
    }
}
