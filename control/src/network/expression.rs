//! The instructions that rules are made of: few, of the kernel's own virtual machine (linux/netfilter/nf_tables.h).
//!
//! A rule's expressions run in order on 16 registers of 32 bits; one that doesn't match ends the rule.

use std::ffi::CStr;

use netlink_bindings::nftables::PushExprListAttrs;
use netlink_bindings::traits::Pusher;
use netlink_bindings::utils::{finalize_nested_header, push_header, push_nested_header};

/// One of the 16 32-bit registers, and those after it as far as a value needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Register(pub(super) u8);

impl Register {
    /// `NFT_REG32_00` is 8.
    fn number(self) -> u32 {
        debug_assert!(self.0 < 16, "there are 16 registers");
        u32::from(self.0) + 8
    }
}

/// See [`Expression::Meta`]; `enum nft_meta_keys`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meta {
    /// A number that rules keep with the packet, 32 bits.
    Mark = 3,
    /// Of the link it came in by, 16 bytes.
    InputName = 6,
    /// Of the link it will leave by, 16 bytes.
    OutputName = 7,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`, one byte.
    NetworkProtocol = 15,
    /// Transport protocol, one byte.
    TransportProtocol = 16,
}

/// See [`Expression::Payload`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payload {
    /// IPv4 source address.
    Source,
    /// IPv4 destination address.
    Destination,
    /// The last four bytes of an IPv6 source address.
    SourceEnd,
    /// TCP's or UDP's.
    DestinationPort,
}

/// See [`Expression::Connection`]; `enum nft_ct_keys`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    /// Bits of [`state`].
    State = 0,
    /// Bits of [`status`].
    Status = 2,
    /// A number that rules keep with it.
    Mark = 3,
}

/// `NF_CT_STATE_BIT`, linux/netfilter/nf_conntrack_common.h.
pub(super) mod state {
    pub(crate) const ESTABLISHED: u32 = 2;
    pub(crate) const RELATED: u32 = 4;
}

/// `enum ip_conntrack_status`.
pub(super) mod status {
    pub(crate) const DESTINATION_TRANSLATED: u32 = 1 << 5;
}

/// What a rule does, step by step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    /// Load a fact about the packet.
    Meta(Meta, Register),
    /// Load some of its bytes.
    Payload(Payload, Register),
    /// Load a fact about its connection, 32 bits in host byte order.
    Connection(Connection, Register),
    /// Set the packet's mark, 32 bits.
    SetMark(Register),
    /// Set its connection's mark, 32 bits.
    SetConnectionMark(Register),
    /// Clear the bits of a 32-bit register that are not in the mask, given as the bytes lie.
    Masked(Register, [u8; 4]),
    /// Go on if any of these bits of a number in host byte order is set. Keeps only them.
    AnyOf(Register, u32),
    /// Go on if the register begins with these bytes.
    Equal(Register, Vec<u8>),
    /// Go on if it doesn't.
    Unequal(Register, Vec<u8>),
    /// Go on if the destination is one of the node's own addresses. Uses the register.
    DestinationIsLocal(Register),
    /// Go on if the set has the key in these registers.
    In(&'static CStr, Register),
    /// Go on if the map has the key in the first; its value goes to the second.
    Map(&'static CStr, Register, Register),
    /// Load constant bytes.
    Constant(Vec<u8>, Register),
    /// The connection goes to this IPv4 address and port instead.
    Redirect { address: Register, port: Register },
    /// The connection comes from this IPv4 address.
    ComeFrom(Register),
    /// The connection comes from the address of the link that it leaves by.
    Masquerade,
    /// The packet goes on.
    Accept,
    /// It does not.
    Drop,
}

/// `NFPROTO_IPV4`.
pub(super) const IPV4: u8 = 2;
/// `NFPROTO_IPV6`.
pub(super) const IPV6: u8 = 10;

impl Expression {
    /// Appends it to a rule's list.
    pub(super) fn encode(&self, list: PushExprListAttrs<Vec<u8>>) -> PushExprListAttrs<Vec<u8>> {
        /// `enum nft_cmp_ops`.
        const EQ: u32 = 0;
        const NEQ: u32 = 1;
        /// `enum nft_nat_types`.
        const SNAT: u32 = 0;
        const DNAT: u32 = 1;

        let element = list.nested_elem();
        match self {
            Self::Meta(key, to) => element
                .nested_data_meta()
                .push_dreg(to.number())
                .push_key(*key as u32)
                .end_nested()
                .end_nested(),
            Self::Payload(field, to) => {
                // Base of `enum nft_payload_bases` (1: network, 2: transport header), offset, length: RFC 791, 9293, 768.
                let (base, offset, length) = match field {
                    Payload::Source => (1, 12, 4),
                    Payload::Destination => (1, 16, 4),
                    // RFC 8200.
                    Payload::SourceEnd => (1, 20, 4),
                    Payload::DestinationPort => (2, 2, 2),
                };
                element
                    .nested_data_payload()
                    .push_dreg(to.number())
                    .push_base(base)
                    .push_offset(offset)
                    .push_len(length)
                    .end_nested()
                    .end_nested()
            }
            Self::Connection(key, to) => element
                .nested_data_ct()
                .push_dreg(to.number())
                .push_key(*key as u32)
                .end_nested()
                .end_nested(),
            Self::SetMark(from) => element
                .nested_data_meta()
                .push_key(Meta::Mark as u32)
                .push_sreg(from.number())
                .end_nested()
                .end_nested(),
            Self::SetConnectionMark(from) => element
                .nested_data_ct()
                .push_key(Connection::Mark as u32)
                .push_sreg(from.number())
                .end_nested()
                .end_nested(),
            Self::Masked(register, bits) => mask(element, *register, *bits),
            Self::AnyOf(register, bits) => {
                let masked = mask(element, *register, bits.to_ne_bytes());
                compare(masked.nested_elem(), NEQ, *register, &[0; 4])
            }
            Self::Equal(register, value) => compare(element, EQ, *register, value),
            Self::Unequal(register, value) => compare(element, NEQ, *register, value),
            Self::DestinationIsLocal(register) => {
                /// `NFT_FIB_RESULT_ADDRTYPE`.
                const ADDRESS_TYPE: u32 = 3;
                /// `NFTA_FIB_F_DADDR`.
                const OF_DESTINATION: u32 = 2;
                /// `RTN_LOCAL`.
                const LOCAL: u32 = 2;
                let loaded = element
                    .nested_data_fib()
                    .push_dreg(register.number())
                    .push_result(ADDRESS_TYPE)
                    .push_flags(OF_DESTINATION)
                    .end_nested()
                    .end_nested();
                compare(loaded.nested_elem(), EQ, *register, &LOCAL.to_ne_bytes())
            }
            Self::In(set, key) => lookup(element, set, *key, None),
            Self::Map(map, key, to) => lookup(element, map, *key, Some(*to)),
            Self::Constant(value, to) => element
                .nested_data_immediate()
                .push_dreg(to.number())
                .nested_data()
                .push_value(value)
                .end_nested()
                .end_nested()
                .end_nested(),
            Self::Redirect { address, port } => element
                .nested_data_nat()
                .push_type(DNAT)
                .push_family(IPV4.into())
                .push_reg_addr_min(address.number())
                .push_reg_proto_min(port.number())
                .end_nested()
                .end_nested(),
            Self::ComeFrom(address) => element
                .nested_data_nat()
                .push_type(SNAT)
                .push_family(IPV4.into())
                .push_reg_addr_min(address.number())
                .end_nested()
                .end_nested(),
            Self::Masquerade => element.push_name(c"masq").end_nested(),
            Self::Accept => verdict(element, NF_ACCEPT),
            Self::Drop => verdict(element, NF_DROP),
        }
    }
}

const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;

type List = PushExprListAttrs<Vec<u8>>;
type Item = netlink_bindings::nftables::PushExprAttrs<List>;

fn mask(element: Item, register: Register, bits: [u8; 4]) -> List {
    element
        .nested_data_bitwise()
        .push_sreg(register.number())
        .push_dreg(register.number())
        .push_len(4)
        .nested_mask()
        .push_value(&bits)
        .end_nested()
        .nested_xor()
        .push_value(&[0; 4])
        .end_nested()
        .end_nested()
        .end_nested()
}

fn compare(element: Item, operation: u32, register: Register, value: &[u8]) -> List {
    element
        .nested_data_cmp()
        .push_sreg(register.number())
        .push_op(operation)
        .nested_data()
        .push_value(value)
        .end_nested()
        .end_nested()
        .end_nested()
}

/// The kernel's specification, and so the crate, has this expression's attributes in another order than its header
/// (linux/netfilter/nf_tables.h, `enum nft_lookup_attributes`), which is right.
fn lookup(element: Item, set: &CStr, key: Register, to: Option<Register>) -> List {
    /// `NFTA_EXPR_DATA`.
    const DATA: u16 = 2;
    /// `NFTA_LOOKUP_SET`, `NFTA_LOOKUP_SREG`, `NFTA_LOOKUP_DREG`.
    const SET: u16 = 1;
    const SOURCE: u16 = 2;
    const DESTINATION: u16 = 3;
    let mut element = element.push_name(c"lookup");
    let bytes = element.as_vec_mut();
    let data = push_nested_header(bytes, DATA);
    let set = set.to_bytes_with_nul();
    // A set's name of ours is a few letters.
    push_header(bytes, SET, set.len() as u16);
    bytes.extend(set);
    for (attribute, register) in [(SOURCE, Some(key)), (DESTINATION, to)] {
        if let Some(register) = register {
            push_header(bytes, attribute, 4);
            bytes.extend(register.number().to_be_bytes());
        }
    }
    finalize_nested_header(bytes, data);
    element.end_nested()
}

fn verdict(element: Item, code: u32) -> List {
    // A verdict goes to register 0, `NFT_REG_VERDICT`.
    element
        .nested_data_immediate()
        .push_dreg(0)
        .nested_data()
        .nested_verdict()
        .push_code(code)
        .end_nested()
        .end_nested()
        .end_nested()
        .end_nested()
}
