//! How a monitor process is configured and commanded.
//!
//! One `vmm` process is one microVM. Whoever starts it leaves open descriptors behind on fixed numbers and writes a
//! [`Config`] as JSON into a pipe or memfd that it leaves on descriptor [`CONFIG_FD`]; every other descriptor that the monitor
//! uses is named by number in the configuration, already open. The monitor opens nothing by path after it has jailed itself.
//!
//! - `api` is a listening Unix stream socket. A client sends one [`Command`] a line as JSON and gets one [`Answer`] a line.
//!   A connection that stays open sees end-of-file when, and only when, the microVM is gone.
//! - `vsock` is a listening Unix stream socket. A client sends a little-endian `u32` port, then the connection is the guest's
//!   vsock stream, half-close included. Connections made before the guest has knocked (connected once to any port of the
//!   host, which is always refused) wait; afterwards one that the guest refuses is closed.
//!
//! - `lease`, where there is one, is the node's [`lease`] page: after the deadline in it the monitor ends itself.
//!
//! The monitor exits with status 0 when the guest powers off or `Stop` is commanded, with [`lease::STATUS_OVER`] when its lease is
//! over, and with another after an error. Unless it is 0 it has written to stderr, as one line, why.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub mod lease;

/// Where the monitor finds its [`Config`].
pub const CONFIG_FD: i32 = 3;

/// A file descriptor number that the monitor has inherited.
pub type Fd = i32;

/// All a monitor needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// For logs only.
    pub name: String,
    /// Virtual CPUs, 1–32.
    pub vcpus: u8,
    /// Guest memory, MiB. Not allocated before it is touched.
    pub memory_mib: u32,
    /// Guest kernel, an uncompressed ELF `vmlinux`, read-only.
    pub kernel: Fd,
    /// Initial RAM file system, read-only.
    pub initramfs: Fd,
    /// Appended to the kernel command line that the monitor makes for itself.
    pub command_line: String,
    /// Block devices in order: `vda`, `vdb`, …
    pub disks: Vec<Disk>,
    /// The one network interface.
    pub network: Option<Network>,
    /// Listening socket for [`Command`]s.
    pub api: Fd,
    /// Listening socket for connections to the guest.
    pub vsock: Fd,
    /// Where the serial console goes. None: no serial device at all, which saves the guest a good part of its start.
    pub console: Option<Fd>,
    /// What the process confines itself to before the guest runs.
    pub jail: Jail,
    /// The node's [`lease`] page, open for reading only. None: the pod stays where it is, and needs no lease.
    #[serde(default)]
    pub lease: Option<Fd>,
}

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// A regular file, its size a multiple of 512.
    pub file: Fd,
    /// The device refuses writes; `file` may be open read-only.
    pub read_only: bool,
}

/// The network interface: Ethernet towards the guest, IP packets on the TUN queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// A TUN queue opened with `IFF_TUN | IFF_NO_PI | IFF_VNET_HDR`, non-blocking.
    pub tun: Fd,
    /// The guest's Ethernet address.
    pub mac: [u8; 6],
    /// The address that the gateway answers ARP and neighbour solicitations with.
    pub gateway_mac: [u8; 6],
    /// The gateway's IP addresses.
    pub gateway: Vec<IpAddr>,
    /// The guest's: a packet from any other source is dropped, as is one for any other destination.
    pub addresses: Vec<IpAddr>,
    /// Bytes.
    pub mtu: u16,
}

/// See [`Config::jail`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jail {
    /// User and group id, nobody else's.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// An empty directory to make the root of the mount namespace, by descriptor.
    pub root: Fd,
}

/// A line from a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Answered with [`Answer::Description`].
    Describe,
    /// Stop all virtual CPUs and devices at a point where their state can be described.
    Pause,
    /// Go on after `Pause`.
    Resume,
    /// End the microVM at once.
    Stop,
}

/// The monitor's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Done as asked.
    Done,
    /// Answer to [`Command::Describe`].
    Description(Description),
    /// Not done, and why.
    Error(String),
}

/// A microVM as its monitor sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// `name` of the configuration.
    pub name: String,
    /// Of the monitor, as the host sees it when it shares the pid namespace.
    pub pid: u32,
    /// Virtual CPUs stand still.
    pub paused: bool,
    /// The guest has knocked.
    pub ready: bool,
    /// Exits of all virtual CPUs to the monitor's user space so far.
    pub exits_to_monitor: u64,
    /// Exits of all virtual CPUs that the kernel saw (`exits` of `KVM_GET_STATS_FD`); 0 where the kernel has no such count.
    pub exits: u64,
    /// When the first virtual CPU was let run: nanoseconds of the host's `CLOCK_MONOTONIC`.
    pub running_since_ns: u64,
    /// Guest memory given back by the balloon (free page reporting), bytes so far.
    pub reported_free: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_from_before_there_were_leases_has_none() {
        let text = r#"{"name":"n","vcpus":1,"memory_mib":64,"kernel":4,"initramfs":5,"command_line":"","disks":[],
            "network":null,"api":6,"vsock":7,"console":null,"jail":{"uid":1,"gid":1,"root":8}}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!(config.lease, None);
    }
}
