//! One Ethernet segment for several machines, without root.
//!
//! ```text
//! machine 1 ── UDP on loopback ──┐
//! machine 2 ── UDP on loopback ── switch ── UDP on loopback ── the way out: DHCP, names, forwarded ports
//! machine 3 ── UDP on loopback ──┘
//! ```
//!
//! Each cable is a pair of UDP ports, with one frame in a datagram (QEMU manual, `-netdev dgram`). The way out is a QEMU without a
//! machine, which has a user-mode network. Nobody is connected to anybody: a machine whose plug is pulled takes nothing with it, and is
//! plugged in again by starting it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::forward::USER_NETWORK;
use super::{Gateway, Running, Switch};

/// First bytes of the machines' Ethernet addresses: QEMU's own range, in which nobody else's cards are.
const MAC_PREFIX: [u8; 5] = [0x52, 0x54, 0x00, 0x48, 0x54];

/// What init writes before its address on the console.
const ADDRESS_WORDS: &str = "address ";

/// One cable of a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plug {
    /// 0 is the way out, which has a card of its own.
    number: u8,
    /// UDP ports of loopback.
    machine: u16,
    switch: u16,
}

impl Plug {
    /// The card's address: the same each time the machine starts, so that DHCP gives it the same address too.
    pub fn mac(self) -> [u8; 6] {
        let mut mac = [self.number; 6];
        mac[..MAC_PREFIX.len()].copy_from_slice(&MAC_PREFIX);
        mac
    }

    /// The machine's end, and the switch's.
    pub(super) fn ends(self) -> (SocketAddrV4, SocketAddrV4) {
        let end = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        (end(self.machine), end(self.switch))
    }

    /// QEMU's network backend at the machine's end.
    pub(super) fn backend(self, id: &str) -> String {
        format!(
            "dgram,id={id},local.type=inet,local.host=127.0.0.1,local.port={},\
             remote.type=inet,remote.host=127.0.0.1,remote.port={}",
            self.machine, self.switch
        )
    }
}

/// A segment: which cables it has.
#[derive(Debug, Clone)]
pub struct Segment {
    dir: PathBuf,
    way_out: Plug,
    machines: Vec<Plug>,
}

impl Segment {
    /// One for so many machines, with its files in `dir`. Nothing is started yet.
    pub fn plan(dir: &Path, machines: u8) -> Result<Self> {
        // All are held until all are known: else two could get the same.
        let sockets = (0..2 * (usize::from(machines) + 1))
            .map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<Result<Vec<_>, _>>()?;
        let ports = sockets
            .iter()
            .map(|socket| Ok(socket.local_addr()?.port()))
            .collect::<Result<Vec<_>>>()?;
        Self::of(dir, &ports)
    }

    /// The one with these ports, as [`Segment::ports`] gives them.
    pub fn of(dir: &Path, ports: &[u16]) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let plugs: Vec<_> = (0..)
            .zip(ports.chunks_exact(2))
            .map(|(number, ends)| Plug {
                number,
                machine: ends[0],
                switch: ends[1],
            })
            .collect();
        let (way_out, machines) = plugs.split_first().context("a segment has a way out")?;
        Ok(Self {
            dir: dir.to_owned(),
            way_out: *way_out,
            machines: machines.to_vec(),
        })
    }

    /// The UDP ports of all its cables.
    pub fn ports(&self) -> Vec<u16> {
        let ends = |plug: &Plug| [plug.machine, plug.switch];
        self.plugs().iter().flat_map(ends).collect()
    }

    pub(super) fn plugs(&self) -> Vec<Plug> {
        [&[self.way_out], &self.machines[..]].concat()
    }

    /// Where machines are plugged in.
    pub fn machines(&self) -> &[Plug] {
        &self.machines
    }

    /// Starts the switch on a thread of this process.
    pub fn switch(&self) -> Result<Switch> {
        Switch::start(&self.plugs())
    }

    /// Starts the way out, in a process group of its own.
    pub fn start_way_out(&self) -> Result<Running> {
        Running::launch(&self.dir, self.way_out())
    }

    /// The command that [`Segment::start_way_out`] runs.
    pub fn way_out(&self) -> Command {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-machine", "none", "-nodefaults", "-no-user-config"]);
        qemu.args(["-display", "none"]);
        qemu.arg("-pidfile").arg(self.dir.join("pid"));
        qemu.arg("-qmp").arg(format!(
            "unix:{},server=on,wait=off",
            self.dir.join("qmp").display()
        ));
        let networks = [
            (USER_NETWORK, format!("user,id={USER_NETWORK},ipv6=off")),
            ("cable", self.way_out.backend("cable")),
        ];
        for (id, network) in networks {
            let port = format!("hubport,hubid=0,id={id}-port,netdev={id}");
            qemu.args(["-netdev", &network, "-netdev", &port]);
        }
        qemu
    }

    /// The way from loopback to the machine with this address.
    pub fn gateway(&self, machine: Ipv4Addr) -> Gateway {
        gateway(&self.dir, machine)
    }
}

/// The way from loopback to the machine with this address, on the segment whose files are in `dir`.
pub fn gateway(dir: &Path, machine: Ipv4Addr) -> Gateway {
    Gateway::by(&dir.join("qmp"), Some(machine))
}

/// The address that a node has, by its console.
pub fn address_in(console: &str) -> Option<Ipv4Addr> {
    // The last line may not be whole yet.
    let (whole, _) = console.rsplit_once('\n')?;
    whole.lines().rev().find_map(|line| {
        let (_, address) = line.split_once(ADDRESS_WORDS)?;
        address.split_once('/')?.0.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_read_again_from_its_ports() {
        let dir = tempfile::tempdir().expect("the temporary folder is writable");
        let segment = Segment::plan(dir.path(), 3).expect("loopback has free ports");
        let again = Segment::of(dir.path(), &segment.ports()).expect("it has a way out");
        assert_eq!(again.plugs(), segment.plugs());
        let macs: Vec<_> = segment
            .machines()
            .iter()
            .map(|plug| plug.mac()[5])
            .collect();
        assert_eq!(macs, [1, 2, 3]);
    }

    #[test]
    fn an_address_is_read_from_a_whole_line() {
        let console =
            "init: address 10.0.2.15/24 on eth0\r\ninit: address 10.0.2.16/24 on eth0\r\n";
        assert_eq!(address_in(console), Some(Ipv4Addr::new(10, 0, 2, 16)));
        assert_eq!(address_in("init: address 10.0.2.1"), None);
        assert_eq!(address_in(""), None);
    }
}
