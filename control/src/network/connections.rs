//! Forgetting connections that the kernel tracks (conntrack), where going on with them would be wrong.
//!
//! A connection keeps the way that its first packet took: a flow of UDP that began before its port was published, or leads to a pod
//! that is gone, would stay on that way for as long as its client goes on sending.

use std::net::Ipv4Addr;

use netlink_bindings::conntrack::PushConntrackAttrs;
use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;

use super::Published;
use super::netlink::{Messages, Socket, flags};
use crate::state::{PortBinding, Protocol};

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_DELETE`, linux/netfilter/nfnetlink_conntrack.h.
const DELETE: u16 = 1 << 8 | 2;
/// `struct nfgenmsg` for IPv4.
const IPV4: [u8; 4] = [2, 0, 0, 0];

/// Which parts of a tuple count, net/netfilter/nf_internals.h. The kernel can forget by these since Linux 6.8.
mod part {
    pub(super) const SOURCE: u32 = 1 << 0;
    pub(super) const PROTOCOL: u32 = 1 << 3;
    pub(super) const DESTINATION_PORT: u32 = 1 << 5;
}

/// `IPS_SRC_NAT | IPS_DST_NAT`, linux/netfilter/nf_conntrack_common.h.
const TRANSLATED: u32 = 1 << 4 | 1 << 5;

/// Connections that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connections {
    /// All that a pod has begun.
    From(Ipv4Addr),
    /// All that have been led to a pod, whatever address they were begun to.
    To(Ipv4Addr),
    /// Those that a published port has led to its pod.
    Led(Published),
    /// Those that have come to a port of the node and were led nowhere.
    Stray(PortBinding),
}

impl Connections {
    /// Appends the attributes that say which.
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend(IPV4);
        let attributes = PushConntrackAttrs::new(bytes);
        match self {
            Self::From(address) => {
                attributes
                    .nested_tuple_orig()
                    .nested_tuple_ip()
                    .push_ip_v4_src(*address)
                    .end_nested()
                    .end_nested()
                    .nested_filter()
                    .push_orig_flags(part::SOURCE);
            }
            Self::To(address) => {
                attributes
                    .nested_tuple_reply()
                    .nested_tuple_ip()
                    .push_ip_v4_src(*address)
                    .end_nested()
                    .end_nested()
                    .nested_filter()
                    .push_reply_flags(part::SOURCE);
            }
            Self::Led(Published { binding, address }) => {
                attributes
                    .nested_tuple_orig()
                    .nested_tuple_proto()
                    .push_proto_num(number(binding.protocol))
                    .push_proto_dst_port(binding.host_port)
                    .end_nested()
                    .end_nested()
                    .nested_tuple_reply()
                    .nested_tuple_ip()
                    .push_ip_v4_src(*address)
                    .end_nested()
                    .end_nested()
                    .nested_filter()
                    .push_orig_flags(part::PROTOCOL | part::DESTINATION_PORT)
                    .push_reply_flags(part::SOURCE);
            }
            Self::Stray(binding) => {
                attributes
                    .nested_tuple_orig()
                    .nested_tuple_proto()
                    .push_proto_num(number(binding.protocol))
                    .push_proto_dst_port(binding.host_port)
                    .end_nested()
                    .end_nested()
                    .push_status(0)
                    .push_status_mask(TRANSLATED)
                    .nested_filter()
                    .push_orig_flags(part::PROTOCOL | part::DESTINATION_PORT);
            }
        }
    }
}

/// IANA's protocol number.
pub(super) fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

/// The tracking side of one network namespace.
#[derive(Debug)]
pub(super) struct Tracking {
    socket: Socket,
}

impl Tracking {
    pub(super) fn open() -> Result<Self, Errno> {
        Ok(Self {
            socket: Socket::open(Some(NETFILTER))?,
        })
    }

    /// Forgets them. Packets of theirs that still come begin anew, under the rules as they are then.
    pub(super) fn forget(&mut self, connections: &[Connections]) -> Result<(), Errno> {
        let Some((last, others)) = connections.split_last() else {
            return Ok(());
        };
        let mut messages = Messages::default();
        // An error is told in any case; of the others' acknowledgements there could be more than a socket holds.
        for connections in others {
            messages.push(DELETE, 0, |bytes| connections.encode(bytes));
        }
        let last = messages.push(DELETE, flags::ACK, |bytes| last.encode(bytes));
        self.socket
            .exchange(&messages, last, |_, _| ())
            .map_err(|refused| refused.errno)
    }
}
