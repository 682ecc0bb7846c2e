//! nftables as the kernel takes it: changes of tables, chains, rules and sets, applied as one transaction.
//!
//! The attributes are netlink-bindings', made from the kernel's own specification (Documentation/netlink/specs/nftables.yaml); this
//! module knows what makes a batch.

use std::ffi::CStr;

use netlink_bindings::nftables::{
    PushChainAttrs, PushExprListAttrs, PushRuleAttrs, PushSetAttrs, PushSetelemListAttrs,
    PushTableAttrs, SetelemListAttrs,
};
use netlink_bindings::traits::Pusher;
use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;

use super::expression::Expression;
use super::netlink::{Messages, Refused, Socket, flags};

/// `NFNL_SUBSYS_NFTABLES` in the high byte of a message's type; linux/netfilter/nf_tables.h `enum nf_tables_msg_types`.
mod kind {
    const SUBSYSTEM: u16 = 10 << 8;
    pub(super) const NEW_TABLE: u16 = SUBSYSTEM;
    pub(super) const NEW_CHAIN: u16 = SUBSYSTEM + 3;
    pub(super) const NEW_RULE: u16 = SUBSYSTEM + 6;
    pub(super) const DELETE_RULE: u16 = SUBSYSTEM + 8;
    pub(super) const NEW_SET: u16 = SUBSYSTEM + 9;
    pub(super) const NEW_ELEMENTS: u16 = SUBSYSTEM + 12;
    pub(super) const GET_ELEMENTS: u16 = SUBSYSTEM + 13;
    pub(super) const DELETE_ELEMENTS: u16 = SUBSYSTEM + 14;
    /// Like delete, but what is not there is no error. Since Linux 6.3.
    pub(super) const DESTROY_ELEMENTS: u16 = SUBSYSTEM + 30;
    pub(super) const BATCH_BEGIN: u16 = 16;
    pub(super) const BATCH_END: u16 = 17;
}

/// `NFPROTO_UNSPEC`, for what is of no family.
const UNSPECIFIED: u8 = 0;
/// `NFPROTO_INET`: IPv4 and IPv6.
const INET: u8 = 1;
/// `NFNL_SUBSYS_NFTABLES`, which a batch is for.
const SUBSYSTEM: u16 = 10;
/// Elements in one message: an attribute's length has 16 bits, and an element of ours takes at most some 100 bytes.
const ELEMENTS_PER_MESSAGE: usize = 256;

/// A chain that the kernel calls from one of its hooks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain {
    pub(super) name: &'static CStr,
    /// `filter` or `nat`.
    pub(super) class: &'static CStr,
    pub(super) hook: Hook,
    pub(super) priority: i32,
    /// What happens at its end: true: the packet goes on.
    pub(super) accept: bool,
}

/// `enum nf_inet_hooks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// A set of keys, or a map from keys to values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Set {
    pub(super) name: &'static CStr,
    pub(super) key: &'static [Field],
    /// Empty: a set.
    pub(super) value: &'static [Field],
}

/// One part of a set's key or value. Each fills whole 32-bit registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    InterfaceName,
    Ipv4,
    Protocol,
    Port,
    /// 16 bytes that only we know the meaning of.
    Opaque,
}

impl Field {
    /// Bytes in registers.
    const fn len(self) -> u32 {
        match self {
            Self::InterfaceName | Self::Opaque => 16,
            Self::Ipv4 | Self::Protocol | Self::Port => 4,
        }
    }

    /// nft's number for the type, kept by the kernel for whoever lists the set (nftables, include/datatype.h).
    const fn display_type(self) -> u32 {
        match self {
            Self::Opaque => 4,
            Self::Ipv4 => 7,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::InterfaceName => 41,
        }
    }
}

fn length(fields: &[Field]) -> u32 {
    fields.iter().map(|field| field.len()).sum()
}

/// nft writes a concatenation's types in six bits each.
fn display_type(fields: &[Field]) -> u32 {
    fields
        .iter()
        .fold(0, |all, field| all << 6 | field.display_type())
}

/// A key of a set with its value, as bytes of registers; the value is empty in a set that is no map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// Changes that take effect together or not at all.
#[derive(Debug)]
pub(super) struct Batch {
    table: &'static CStr,
    messages: Messages,
    /// What message 2, 3, … is about, for errors.
    subjects: Vec<&'static CStr>,
}

impl Batch {
    pub(super) fn new(table: &'static CStr) -> Self {
        let mut messages = Messages::default();
        messages.push(kind::BATCH_BEGIN, 0, |bytes| {
            begin(bytes, UNSPECIFIED, SUBSYSTEM)
        });
        Self {
            table,
            messages,
            subjects: Vec::new(),
        }
    }

    /// Makes the table where it isn't there.
    pub(super) fn add_table(&mut self) {
        let table = self.table;
        self.push(kind::NEW_TABLE, flags::CREATE, table, |bytes| {
            PushTableAttrs::new(bytes).push_name(table).push_flags(0);
        });
    }

    /// Makes a set where it isn't there; its elements stay.
    pub(super) fn add_set(&mut self, set: &Set) {
        /// `NFT_SET_MAP`.
        const MAP: u32 = 8;
        let table = self.table;
        self.push(kind::NEW_SET, flags::CREATE, set.name, |bytes| {
            let attributes = PushSetAttrs::new(bytes)
                .push_table(table)
                .push_name(set.name)
                .push_flags(if set.value.is_empty() { 0 } else { MAP })
                .push_key_type(display_type(set.key))
                .push_key_len(length(set.key))
                // An id by which rules of the same batch may name the set; the kernel wants one, we go by name.
                .push_id(1);
            if !set.value.is_empty() {
                attributes
                    .push_data_type(display_type(set.value))
                    .push_data_len(length(set.value));
            }
        });
    }

    /// Makes a chain where it isn't there, and empties it.
    pub(super) fn add_empty_chain(&mut self, chain: &Chain) {
        let table = self.table;
        self.push(kind::NEW_CHAIN, flags::CREATE, chain.name, |bytes| {
            PushChainAttrs::new(bytes)
                .push_table(table)
                .push_name(chain.name)
                .nested_hook()
                .push_num(chain.hook as u32)
                .push_priority(chain.priority)
                .end_nested()
                .push_policy(chain.accept.into())
                .push_type(chain.class);
        });
        self.push(kind::DELETE_RULE, 0, chain.name, |bytes| {
            PushRuleAttrs::new(bytes)
                .push_table(table)
                .push_chain(chain.name);
        });
    }

    /// Adds a rule at the end of a chain.
    pub(super) fn add_rule(&mut self, chain: &Chain, expressions: &[Expression]) {
        let table = self.table;
        self.push(
            kind::NEW_RULE,
            flags::CREATE | flags::APPEND,
            chain.name,
            |bytes| {
                let mut list = PushRuleAttrs::new(bytes)
                    .push_table(table)
                    .push_chain(chain.name)
                    .nested_expressions();
                let start = list.as_vec().len();
                let encoded = expressions
                    .iter()
                    .fold(PushExprListAttrs::new(Vec::new()), |list, e| e.encode(list));
                list.as_vec_mut().extend(encoded.end_nested());
                debug_assert_eq!(
                    start % 4,
                    0,
                    "attributes are aligned to the datagram's start"
                );
            },
        );
    }

    /// Adds elements. Those of a map whose key is there with another value make the batch fail.
    pub(super) fn add_elements(&mut self, set: &Set, elements: &[Element]) {
        self.push_elements(kind::NEW_ELEMENTS, flags::CREATE, set, elements);
    }

    /// Removes elements; those that aren't there are no error.
    pub(super) fn destroy_elements(&mut self, set: &Set, elements: &[Element]) {
        self.push_elements(kind::DESTROY_ELEMENTS, 0, set, elements);
    }

    /// Removes all elements of a set.
    pub(super) fn clear(&mut self, set: &Set) {
        let table = self.table;
        self.push(kind::DELETE_ELEMENTS, 0, set.name, |bytes| {
            PushSetelemListAttrs::new(bytes)
                .push_table(table)
                .push_set(set.name);
        });
    }

    fn push_elements(&mut self, kind: u16, flags: u16, set: &Set, elements: &[Element]) {
        let table = self.table;
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.push(kind, flags, set.name, |bytes| {
                let list = PushSetelemListAttrs::new(bytes)
                    .push_table(table)
                    .push_set(set.name)
                    .nested_elements();
                chunk.iter().fold(list, |list, element| {
                    let attributes = list
                        .nested_elem()
                        .nested_key()
                        .push_value(&element.key)
                        .end_nested();
                    if element.value.is_empty() {
                        attributes.end_nested()
                    } else {
                        attributes
                            .nested_data()
                            .push_value(&element.value)
                            .end_nested()
                            .end_nested()
                    }
                });
            });
        }
    }

    fn push(
        &mut self,
        kind: u16,
        flags: u16,
        subject: &'static CStr,
        fill: impl FnOnce(&mut Vec<u8>),
    ) {
        // Every message is acknowledged: the one that ends the batch can't be before Linux 6.10, and which is the last before
        // it isn't known yet.
        self.messages.push(kind, flags | flags::ACK, |bytes| {
            begin(bytes, INET, 0);
            fill(bytes);
        });
        self.subjects.push(subject);
    }
}

/// `struct nfgenmsg`.
fn begin(bytes: &mut Vec<u8>, family: u8, resource: u16) {
    let [high, low] = resource.to_be_bytes();
    bytes.extend([family, 0, high, low]);
}

/// The kernel's refusal of a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nftables refused {subject}: {errno}")]
pub(super) struct BatchError {
    /// The chain or set that the first refused message is about.
    pub(super) subject: String,
    /// Why.
    pub(super) errno: Errno,
}

/// The nftables side of one network namespace.
#[derive(Debug)]
pub(super) struct Nftables {
    socket: Socket,
}

impl Nftables {
    pub(super) fn open() -> Result<Self, Errno> {
        Ok(Self {
            socket: Socket::open(Some(NETFILTER))?,
        })
    }

    /// Applies a batch, all of it or nothing.
    pub(super) fn apply(&mut self, batch: Batch) -> Result<(), BatchError> {
        let Batch {
            mut messages,
            subjects,
            ..
        } = batch;
        let last = messages.push(kind::BATCH_END, 0, |bytes| {
            begin(bytes, UNSPECIFIED, SUBSYSTEM)
        }) - 1;
        self.socket
            .exchange(&messages, last, |_, _| ())
            .map_err(|Refused { sequence, errno }| {
                let subject = (sequence as usize)
                    .checked_sub(2)
                    .and_then(|n| subjects.get(n));
                BatchError {
                    subject: subject
                        .map_or("the batch".into(), |s| s.to_string_lossy().into_owned()),
                    errno,
                }
            })
    }

    /// The elements of a set; none where there is no such set.
    pub(super) fn elements(&mut self, table: &CStr, set: &Set) -> Result<Vec<Element>, Errno> {
        let mut messages = Messages::default();
        let last = messages.push(kind::GET_ELEMENTS, flags::DUMP | flags::ACK, |bytes| {
            begin(bytes, INET, 0);
            PushSetelemListAttrs::new(bytes)
                .push_table(table)
                .push_set(set.name);
        });
        let mut elements = Vec::new();
        let answer = self.socket.exchange(&messages, last, |kind, body| {
            if kind == kind::NEW_ELEMENTS {
                elements.extend(body.get(4..).into_iter().flat_map(parse_elements));
            }
        });
        match answer {
            Ok(()) => Ok(elements),
            Err(Refused {
                errno: Errno::NOENT,
                ..
            }) => Ok(Vec::new()),
            Err(refused) => Err(refused.errno),
        }
    }
}

/// The elements in the attributes of one message.
fn parse_elements(attributes: &[u8]) -> Vec<Element> {
    let Ok(list) = SetelemListAttrs::new(attributes).get_elements() else {
        return Vec::new();
    };
    let bytes = |data: Result<&[u8], _>| data.map(<[u8]>::to_vec);
    list.get_elem()
        .filter_map(|element| {
            let key = bytes(element.get_key().ok()?.get_value()).ok()?;
            let value = element
                .get_data()
                .and_then(|data| data.get_value())
                .map(<[u8]>::to_vec)
                .unwrap_or_default();
            Some(Element { key, value })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_elements_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            parse_elements(&bytes);
        }
    }
}
