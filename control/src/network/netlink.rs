//! A netlink socket: requests as bytes, each answered before the next.
//!
//! ```text
//! 0        4      6       8          12         16
//! | length | type | flags | sequence | port (0) | body …, padded to 4 bytes |      linux/netlink.h, host byte order
//! ```

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send,
    socket_with, sockopt,
};

const HEADER_LEN: usize = 16;
/// Room for one datagram of a dump: the kernel fills at most 32 KiB (NLMSG_GOODSIZE's cap on a dump's buffer).
const RECEIVE_LEN: usize = 32 << 10;
/// The kernel takes a whole batch as one datagram, and refuses one that is larger than the send buffer: room for some 50,000 published
/// ports, used only while a batch is on its way.
const SEND_BUFFER_LEN: usize = 8 << 20;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Flags of a request, linux/netlink.h.
pub(super) mod flags {
    pub(crate) const REQUEST: u16 = 0x1;
    pub(crate) const ACK: u16 = 0x4;
    pub(crate) const REPLACE: u16 = 0x100;
    pub(crate) const EXCLUSIVE: u16 = 0x200;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
    pub(crate) const DUMP: u16 = 0x300;
}

/// The kernel's refusal of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    /// The message's sequence number; 0 where the datagram as a whole was refused.
    pub(super) sequence: u32,
    /// Why.
    pub(super) errno: Errno,
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self { sequence: 0, errno }
    }
}

/// One or more messages for one datagram. Sequence numbers count from 1.
#[derive(Debug, Default)]
pub(super) struct Messages {
    bytes: Vec<u8>,
    count: u32,
}

impl Messages {
    /// Adds a message whose body `fill` appends; returns its sequence number.
    pub(super) fn push(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Vec<u8>)) -> u32 {
        self.count += 1;
        let start = self.bytes.len();
        self.bytes.extend([0; HEADER_LEN]);
        fill(&mut self.bytes);
        // Our largest is a chunk of set elements, some tens of KiB.
        let length = (self.bytes.len() - start) as u32;
        let header = &mut self.bytes[start..start + HEADER_LEN];
        header[0..4].copy_from_slice(&length.to_ne_bytes());
        header[4..6].copy_from_slice(&kind.to_ne_bytes());
        header[6..8].copy_from_slice(&(flags | flags::REQUEST).to_ne_bytes());
        header[8..12].copy_from_slice(&self.count.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.count
    }
}

/// A socket of one netlink family.
#[derive(Debug)]
pub(super) struct Socket {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Socket {
    /// A socket in the calling thread's network namespace, and of it from then on.
    pub(super) fn open(family: Option<Protocol>) -> Result<Self, Errno> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            family,
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER_LEN)?;
        Ok(Self {
            socket,
            buffer: vec![0; RECEIVE_LEN],
        })
    }

    /// Sends and waits for the acknowledgement of message `last`, which carries [`flags::ACK`], or for the end of the
    /// dump that it asks for. `each` gets type and body of what comes before it.
    pub(super) fn exchange(
        &mut self,
        messages: &Messages,
        last: u32,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), Refused> {
        self.forget_answers();
        send(&self.socket, &messages.bytes, SendFlags::empty())?;
        let mut refused = None;
        // The kernel works in the sender's context: when `send` returns, every acknowledgement and error waits in the socket.
        // Only a dump comes in several pieces, each made when the one before it is read.
        loop {
            let length = match recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Err(refused.unwrap_or(Errno::PROTO.into())),
                Err(errno) => return Err(refused.unwrap_or(errno.into())),
            };
            let mut rest = &self.buffer[..length];
            while let Some((message, next)) = split(rest) {
                rest = next;
                match message.kind {
                    NLMSG_DONE if message.sequence == last => return refused.map_or(Ok(()), Err),
                    NLMSG_ERROR => {
                        let code = message
                            .body
                            .first_chunk()
                            .map_or(0, |code| i32::from_ne_bytes(*code));
                        if code != 0 {
                            let errno = Errno::from_raw_os_error(-code);
                            refused = refused.or(Some(Refused {
                                sequence: message.sequence,
                                errno,
                            }));
                        }
                        if message.sequence == last {
                            return refused.map_or(Ok(()), Err);
                        }
                    }
                    kind => each(kind, message.body),
                }
            }
        }
    }

    /// Sends one message that has no answer but its acknowledgement.
    pub(super) fn request(
        &mut self,
        kind: u16,
        flags: u16,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Errno> {
        let mut messages = Messages::default();
        let last = messages.push(kind, flags | flags::ACK, fill);
        self.exchange(&messages, last, |_, _| ())
            .map_err(|refused| refused.errno)
    }

    /// What an exchange that failed has left unread.
    fn forget_answers(&mut self) {
        while recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT).is_ok() {}
    }
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The first message, and what follows it.
fn split(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let header = bytes.first_chunk::<HEADER_LEN>()?;
    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    let body = bytes.get(HEADER_LEN..length)?;
    Some((
        Message {
            kind,
            sequence,
            body,
        },
        bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_messages_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let mut rest = bytes.as_slice();
            while let Some((_, next)) = split(rest) {
                prop_assert!(next.len() < rest.len());
                rest = next;
            }
        }

        #[test]
        fn messages_are_found_again_in_a_datagram(bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..8)) {
            let mut messages = Messages::default();
            for (n, body) in bodies.iter().enumerate() {
                messages.push(n as u16, flags::ACK, |bytes| bytes.extend(body));
            }
            let mut rest = messages.bytes.as_slice();
            for (n, body) in bodies.iter().enumerate() {
                let (message, next) = split(rest).unwrap();
                prop_assert_eq!((message.kind, message.sequence), (n as u16, n as u32 + 1));
                prop_assert_eq!(message.body, body.as_slice());
                rest = next;
            }
            prop_assert!(rest.is_empty());
        }
    }
}
