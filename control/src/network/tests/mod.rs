//! The real kernel's behaviour, in network namespaces of the tests' own: each test plays the monitors at the pods' TUN queues and the
//! world at one more.
//!
//! They need root and /dev/net/tun; without, each says so on stderr and passes. The end-to-end tests go the same ways
//! through the real image.

pub(super) mod packet;
mod restart;
mod walls;
mod ways;

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, write};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use self::packet::Packet;
use super::{Kernel, Linux, MTU, Network, NetworkConfig, PodLink, Published};
use crate::state::{PortBinding, Protocol};

pub(super) const CONFIG: NetworkConfig = NetworkConfig {
    pods: Ipv4Addr::new(10, 88, 0, 0),
    prefix: 16,
    gateway: Ipv4Addr::new(10, 88, 0, 1),
};
/// The node, as the world knows it.
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Another address of the node.
const NODE_TOO: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Somebody in the world.
pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub(super) const WEB: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
pub(super) const DB: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 3);
pub(super) const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 4);

/// How long a packet that must come may take before the test fails; one that comes is there at once.
const PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};
/// `struct virtio_net_hdr`, all zero: no offloads.
const HEADER_LEN: usize = 10;

/// One end of a TUN link.
pub(super) struct Wire(pub(super) OwnedFd);

impl Wire {
    pub(super) fn send(&self, packet: &Packet) {
        let bytes = [vec![0; HEADER_LEN], packet.to_bytes()].concat();
        assert_eq!(write(&self.0, &bytes).unwrap(), bytes.len());
    }

    /// The next packet that the kernel sends here.
    pub(super) fn next(&self) -> Packet {
        let mut bytes = vec![0; HEADER_LEN + usize::from(MTU)];
        loop {
            match read(&self.0, &mut bytes) {
                Ok(length) => {
                    // The kernel's own IPv6 chatter aside.
                    if let Some(packet) = Packet::parse(&bytes[HEADER_LEN..length]) {
                        return packet;
                    }
                }
                Err(Errno::AGAIN) => {
                    let ready =
                        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&PATIENCE)).unwrap();
                    assert_ne!(ready, 0, "no packet came");
                }
                Err(errno) => panic!("reading from a TUN queue: {errno}"),
            }
        }
    }

    /// Nothing has come that no test has asked for.
    pub(super) fn is_silent(&self) -> bool {
        let mut bytes = vec![0; HEADER_LEN + usize::from(MTU)];
        loop {
            match read(&self.0, &mut bytes) {
                Ok(length) if Packet::parse(&bytes[HEADER_LEN..length]).is_some() => return false,
                Ok(_) => {}
                Err(Errno::AGAIN) => return true,
                Err(errno) => panic!("reading from a TUN queue: {errno}"),
            }
        }
    }
}

/// A node with a world around it.
struct Node {
    network: Network,
    world: Wire,
}

impl Node {
    fn start() -> Self {
        let kernel = Linux::open().unwrap();
        let world = kernel.create_link("wan0").unwrap();
        kernel.add_own_address(NODE).unwrap();
        kernel.add_own_address(NODE_TOO).unwrap();
        kernel.lead("wan0", MTU, CLIENT, NODE).unwrap();
        Self {
            network: Network::start(CONFIG).unwrap(),
            world: Wire(world),
        }
    }

    fn pod(&self, name: &str, tenant: &str, address: Ipv4Addr) -> Wire {
        Wire(self.attach(name, tenant, address).tun)
    }

    fn attach(&self, name: &str, tenant: &str, address: Ipv4Addr) -> PodLink {
        self.network.attach(name, tenant, address).unwrap()
    }

    /// Sends what must not arrive, then what must: `to` sees only that.
    fn only_the_second_arrives(
        &self,
        from: &Wire,
        dropped: &Packet,
        via: &Wire,
        passed: &Packet,
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
}

/// Runs `test` on a thread in a network namespace of its own.
fn on_a_node(test: impl FnOnce(Node) + Send + 'static) {
    in_a_namespace(|| test(Node::start()));
}

/// As [`on_a_node`]; nothing is there yet.
pub(super) fn in_a_namespace(test: impl FnOnce() + Send + 'static) {
    if !rustix::process::geteuid().is_root() || !std::path::Path::new("/dev/net/tun").exists() {
        // Past the harness, which holds back what passing tests print: `cargo xtask test` counts these lines.
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"SKIPPED: needs root and /dev/net/tun\n",
        );
        return;
    }
    let thread = thread::spawn(|| {
        // SAFETY: no descriptor table is unshared, only the network namespace of this thread.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub(super) fn published(
    host_ip: Option<Ipv4Addr>,
    host_port: u16,
    protocol: Protocol,
    address: Ipv4Addr,
    port: u16,
) -> Published {
    let host_ip = host_ip.map(IpAddr::V4);
    Published {
        binding: PortBinding {
            container_port: port,
            protocol,
            host_ip,
            host_port,
        },
        address,
    }
}

fn udp_socket(address: (Ipv4Addr, u16)) -> std::net::UdpSocket {
    let socket = std::net::UdpSocket::bind(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(PATIENCE.tv_sec as u64)))
        .unwrap();
    socket
}
