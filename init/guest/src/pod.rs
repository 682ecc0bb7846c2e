//! What is set once per microVM: clock, entropy, network.

use std::fs;
use std::net::IpAddr;

use hearth_guest_protocol::{Error, Network, Pod};
use rustix::fs::Timespec;
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
use rustix::time::{ClockId, clock_gettime, clock_settime};

use super::system;
use hearth_pid1::entropy;
use hearth_pid1::netlink::Netlink;

const NANOSECONDS: u64 = 1_000_000_000;

/// Kernel settings: of a container's network those that docker makes as well (any user may ping, and listen on any port), and of memory
/// what a docker host with its many gigabytes comes to: programs reserve more addresses than they ever use, and a microVM of 64 MiB would
/// refuse what any host grants. What is really used is limited as before.
const SYSCTLS: [(&str, &str); 3] = [
    ("vm/overcommit_memory", "1"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
    ("net/ipv4/ip_unprivileged_port_start", "0"),
];

/// Sets all of it.
pub fn prepare(pod: &Pod) -> Result<(), Error> {
    let sent = Timespec {
        tv_sec: (pod.clock_ns / NANOSECONDS) as i64,
        tv_nsec: (pod.clock_ns % NANOSECONDS) as _,
    };
    // The request may have waited for this machine to boot: a clock that is past it (the hypervisor's own gives the time) is right.
    if clock_gettime(ClockId::Realtime) < sent {
        clock_settime(ClockId::Realtime, sent).map_err(system("setting the clock"))?;
    }
    entropy::add(&pod.entropy).map_err(system("seeding the random pool"))?;
    set_up_network(pod.network.as_ref()).map_err(system("setting up the network"))?;
    for (name, value) in SYSCTLS {
        // A kernel without it has the feature for nobody or for everybody, which is not worth a container.
        let _ = fs::write(format!("/proc/sys/{name}"), value);
    }
    Ok(())
}

fn set_up_network(network: Option<&Network>) -> std::io::Result<()> {
    let probe = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let mut netlink = Netlink::open()?;
    netlink.set_link_up(name_to_index(&probe, "lo")?, None)?;
    let Some(network) = network else {
        return Ok(());
    };

    let link = name_to_index(&probe, "eth0")?;
    netlink.set_link_up(link, Some(network.mtu))?;
    for &address in &network.addresses {
        netlink.set_address(link, address, host_prefix(address))?;
    }
    netlink.set_neighbour(link, network.gateway, network.gateway_mac)?;
    netlink.set_default_route(link, network.gateway)
}

fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
