//! Ports of machines that appear on this machine's loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;

use super::Qmp;

/// The user-mode network's name in every QEMU that has one.
pub(super) const USER_NETWORK: &str = "net";

/// Transport protocol of a forwarded port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

impl Protocol {
    /// As QEMU and docker write it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// A port of the machine that appears on loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Port on 127.0.0.1.
    pub host: u16,
    /// Port of the machine.
    pub machine: u16,
}

impl Forward {
    fn host_side(self) -> String {
        format!("{}:127.0.0.1:{}", self.protocol.name(), self.host)
    }

    /// QEMU's rule for it (QEMU manual, `hostfwd`); without an address it leads to the network's first machine.
    pub(super) fn rule(self, machine: Option<Ipv4Addr>) -> String {
        let address = machine.map_or_else(String::new, |address| address.to_string());
        format!("{}-{address}:{}", self.host_side(), self.machine)
    }
}

/// The way from loopback to one machine, through the QEMU that has its user-mode network.
#[derive(Debug, Clone)]
pub struct Gateway {
    qmp: PathBuf,
    machine: Option<Ipv4Addr>,
}

impl Gateway {
    /// By the QEMU with this monitor, to that machine of its network.
    pub(super) fn by(qmp: &Path, machine: Option<Ipv4Addr>) -> Self {
        Self {
            qmp: qmp.to_owned(),
            machine,
        }
    }

    /// Makes a port of the machine appear on loopback.
    pub fn forward(&self, forward: Forward) -> Result<()> {
        let line = format!("hostfwd_add {USER_NETWORK} {}", forward.rule(self.machine));
        Qmp::connect(&self.qmp)?.monitor(&line)
    }

    /// Undoes [`Gateway::forward`].
    pub fn stop_forwarding(&self, forward: Forward) -> Result<()> {
        // It prints what it removed, which is no complaint.
        let line = format!("hostfwd_remove {USER_NETWORK} {}", forward.host_side());
        Qmp::connect(&self.qmp)?
            .execute("human-monitor-command", json!({ "command-line": line }))?;
        Ok(())
    }
}

/// A free port on loopback.
pub fn free_port(protocol: Protocol) -> Result<u16> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Ok(match protocol {
        Protocol::Tcp => TcpListener::bind(any)?.local_addr()?.port(),
        Protocol::Udp => UdpSocket::bind(any)?.local_addr()?.port(),
    })
}

/// Whether a port on loopback is free for TCP.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
