//! WireGuard as the kernel takes it: generic netlink (linux/wireguard.h). The attributes are netlink-bindings', made from the kernel's own
//! specification (Documentation/netlink/specs/wireguard.yaml).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use netlink_bindings::nlctrl::OpGetfamilyDo;
use netlink_bindings::wireguard::{
    OpGetDeviceDump, OpSetDeviceDo, PROTONAME_CSTR, PushWgdevice, WgpeerFlags,
};
use netlink_packet_route::link::{InfoKind, LinkInfo};
use rustix::io::Errno;
use rustix::net::netlink::GENERIC;

use super::super::firewall::WIREGUARD_LINK;
use super::super::netlink::{Messages, Socket, flags};
use super::super::route::Routes;
use super::key::KEY_LEN;
use super::{Error, NODES_PREFIX, Underlay, WIREGUARD_MTU, failed};

/// Where nodes expect each other, UDP: what WireGuard's own documentation uses.
pub(super) const PORT: u16 = 51820;
/// `GENL_ID_CTRL`, linux/genetlink.h.
const CONTROL: u16 = 16;
/// Peers in one message: an attribute's length has 16 bits, and one of ours takes less than 150 bytes.
const PEERS_PER_MESSAGE: usize = 256;
/// `AF_INET6`.
const INET6: u16 = 10;

/// What a node is known by.
pub type PublicKey = [u8; KEY_LEN];

/// Another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Where it is reached.
    pub endpoint: SocketAddr,
    /// Its address among nodes; what comes from it comes from there.
    pub inside: Ipv6Addr,
}

/// The kernel's.
pub(super) struct WireGuard {
    socket: Socket,
    routes: Routes,
    /// The number under which the kernel answers for WireGuard.
    family: u16,
    key: [u8; KEY_LEN],
}

impl WireGuard {
    /// Opens sockets to the kernel; makes nothing yet.
    pub(super) fn open(key: [u8; KEY_LEN]) -> Result<Self, Error> {
        let open = || {
            let mut socket = Socket::open(Some(GENERIC))?;
            let family = family(&mut socket)?;
            let routes = Routes::open()?;
            Ok(Self {
                socket,
                routes,
                family,
                key,
            })
        };
        open().map_err(failed("looking for the kernel's WireGuard"))
    }

    fn set(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), Errno> {
        self.socket.request(self.family, 0, fill)
    }

    /// Its public key, and what it knows.
    fn read(&mut self) -> Result<(PublicKey, BTreeMap<PublicKey, Peer>), Errno> {
        let mut messages = Messages::default();
        let last = messages.push(self.family, flags::DUMP | flags::ACK, |bytes| {
            OpGetDeviceDump::encode_request(bytes).push_ifname(WIREGUARD_NAME);
        });
        let (mut own, mut peers) = (None, BTreeMap::new());
        self.socket
            .exchange(&messages, last, |_, body| parse(body, &mut own, &mut peers))
            .map_err(|refused| refused.errno)?;
        Ok((own.ok_or(Errno::PROTO)?, peers))
    }
}

/// [`WIREGUARD_LINK`].
const WIREGUARD_NAME: &std::ffi::CStr = c"hearth-wg";

impl Underlay for WireGuard {
    fn start(&mut self, address: Ipv6Addr) -> Result<PublicKey, Error> {
        let info = vec![LinkInfo::Kind(InfoKind::Wireguard)];
        let index = self
            .routes
            .make_link(WIREGUARD_LINK, info)
            .map_err(failed("making the link between nodes"))?;
        let key = self.key;
        self.set(|bytes| device(bytes, &key))
            .map_err(failed("giving WireGuard its key"))?;
        self.routes
            .add_link_address(index, address, NODES_PREFIX)
            .and_then(|()| self.routes.set_up(index, Some(WIREGUARD_MTU)))
            .map_err(failed("bringing up the link between nodes"))?;
        let read = self.read().map_err(failed("asking WireGuard for its key"));
        read.map(|(own, _)| own)
    }

    fn stop(&mut self) -> Result<(), Error> {
        let removed = self.routes.remove_link(WIREGUARD_LINK);
        removed.map_err(failed("removing the link between nodes"))
    }

    fn peers(&mut self) -> Result<BTreeMap<PublicKey, Peer>, Error> {
        let read = self
            .read()
            .map_err(failed("asking WireGuard for its peers"));
        read.map(|(_, peers)| peers)
    }

    fn change(&mut self, gone: &[PublicKey], come: &[(PublicKey, Peer)]) -> Result<(), Error> {
        let mut changed = Ok(());
        for gone in gone.chunks(PEERS_PER_MESSAGE) {
            changed = changed.and_then(|()| self.set(|bytes| without(bytes, gone)));
        }
        for come in come.chunks(PEERS_PER_MESSAGE) {
            changed = changed.and_then(|()| self.set(|bytes| with(bytes, come)));
        }
        changed.map_err(failed("telling WireGuard its peers"))
    }
}

fn family(socket: &mut Socket) -> Result<u16, Errno> {
    let mut messages = Messages::default();
    let last = messages.push(CONTROL, flags::ACK, |bytes| {
        OpGetfamilyDo::encode_request(bytes).push_family_name(PROTONAME_CSTR);
    });
    let mut family = None;
    socket
        .exchange(&messages, last, |_, body| {
            family = OpGetfamilyDo::decode_request(body).get_family_id().ok();
        })
        .map_err(|refused| refused.errno)?;
    family.ok_or(Errno::NOENT)
}

fn to_device(bytes: &mut Vec<u8>) -> PushWgdevice<&mut Vec<u8>> {
    OpSetDeviceDo::encode_request(bytes).push_ifname(WIREGUARD_NAME)
}

fn device(bytes: &mut Vec<u8>, key: &[u8]) {
    to_device(bytes)
        .push_private_key(key)
        .push_listen_port(PORT);
}

fn without(bytes: &mut Vec<u8>, gone: &[PublicKey]) {
    let list = gone
        .iter()
        .fold(to_device(bytes).array_peers(), |list, key| {
            list.entry_nested()
                .push_public_key(key)
                .push_flags(WgpeerFlags::RemoveMe as u32)
                .end_nested()
        });
    list.end_array();
}

fn with(bytes: &mut Vec<u8>, come: &[(PublicKey, Peer)]) {
    let list = to_device(bytes).array_peers();
    let list = come.iter().fold(list, |list, (key, peer)| {
        list.entry_nested()
            .push_public_key(key)
            .push_flags(WgpeerFlags::ReplaceAllowedips as u32)
            .push_endpoint(peer.endpoint)
            .array_allowedips()
            .entry_nested()
            .push_family(INET6)
            .push_ipaddr(peer.inside.into())
            .push_cidr_mask(128)
            .end_nested()
            .end_array()
            .end_nested()
    });
    list.end_array();
}

/// One message of the answer. A peer that isn't as we make them gets addresses that no node has, so that it is made anew.
fn parse(body: &[u8], own: &mut Option<PublicKey>, peers: &mut BTreeMap<PublicKey, Peer>) {
    let device = OpGetDeviceDump::decode_request(body);
    let key = |bytes: &[u8]| bytes.try_into().ok();
    *own = own.or_else(|| key(device.get_public_key().ok()?));
    for peer in device.get_peers().into_iter().flatten() {
        let Some(key) = peer.get_public_key().ok().and_then(key) else {
            continue;
        };
        let allowed = peer.get_allowedips().into_iter().flatten();
        let inside = allowed
            .filter_map(|allowed| match allowed.get_ipaddr() {
                Ok(IpAddr::V6(address)) => Some(address),
                _ => None,
            })
            .next();
        let nowhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        peers.entry(key).or_insert(Peer {
            endpoint: peer.get_endpoint().unwrap_or(nowhere),
            inside: inside.unwrap_or(Ipv6Addr::UNSPECIFIED),
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(number: u8) -> (PublicKey, Peer) {
        let peer = Peer {
            endpoint: match number % 2 {
                0 => ([192, 0, 2, number], PORT).into(),
                _ => (Ipv6Addr::from([number; 16]), PORT).into(),
            },
            inside: Ipv6Addr::from([0xfd; 16]),
        };
        ([number; 32], peer)
    }

    #[test]
    fn a_peer_is_told_as_the_kernels_header_says() {
        let mut bytes = Vec::new();
        with(&mut bytes, &[peer(2)]);
        // linux/wireguard.h, `enum wgdevice_attribute` and those after it; lengths and types in host byte order. Little-endian.
        let key = [2; 32];
        let inside = [0xfd; 16];
        let expected = [
            &[1, 1, 0, 0][..], // struct genlmsghdr: WG_CMD_SET_DEVICE, version 1
            &[14, 0, 2, 0],    // WGDEVICE_A_IFNAME
            b"hearth-wg\0\0\0",
            &[116, 0, 8, 0x80],        // WGDEVICE_A_PEERS, nested
            &[112, 0, 0, 0x80],        // the first
            &[36, 0, 1, 0],            // WGPEER_A_PUBLIC_KEY
            &key,                      //
            &[8, 0, 3, 0, 2, 0, 0, 0], // WGPEER_A_FLAGS: WGPEER_F_REPLACE_ALLOWEDIPS
            &[20, 0, 4, 0, 2, 0],      // WGPEER_A_ENDPOINT: struct sockaddr_in
            &[0xca, 0x6c, 192, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0],
            &[44, 0, 9, 0x80],           // WGPEER_A_ALLOWEDIPS, nested
            &[40, 0, 0, 0x80],           // the first
            &[6, 0, 1, 0, 10, 0, 0, 0],  // WGALLOWEDIP_A_FAMILY: AF_INET6
            &[20, 0, 2, 0],              // WGALLOWEDIP_A_IPADDR
            &inside,                     //
            &[5, 0, 3, 0, 128, 0, 0, 0], // WGALLOWEDIP_A_CIDR_MASK
        ]
        .concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn peers_are_read_back_as_they_were_told() {
        let told: Vec<_> = (0..10).map(peer).collect();
        let mut bytes = Vec::new();
        with(&mut bytes, &told);
        let (mut own, mut peers) = (None, BTreeMap::new());
        parse(&bytes, &mut own, &mut peers);
        assert_eq!((own, peers), (None, told.into_iter().collect()));
    }

    #[test]
    fn many_peers_fit_one_message() {
        let told = vec![peer(1); PEERS_PER_MESSAGE];
        let mut bytes = Vec::new();
        with(&mut bytes, &told);
        assert!(bytes.len() < usize::from(u16::MAX), "{}", bytes.len());
    }

    proptest! {
        #[test]
        fn any_bytes_are_peers_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            parse(&bytes, &mut None, &mut BTreeMap::new());
        }
    }
}
