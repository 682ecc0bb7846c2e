//! The table's rules; what they say together is on [`super`]'s page.

use super::super::connections::number;
use super::super::expression::{
    Connection, Expression, IPV4, IPV6, Meta, Payload, Register, state, status,
};
use super::super::nftables::{Batch, Chain};
use super::{
    BOUND_PORTS, ENTRY, FORWARD, INPUT, LEAVE, LINK_PREFIX, LINKS, MEMBERS, MESH_LINK,
    NetworkConfig, OUTPUT, PORTS, PUBLISH, PUBLISH_LOCAL, SOURCE, TARGETS, VXLAN_PORT,
    WIREGUARD_LINK, name,
};
use crate::state::Protocol;

/// Makes sets and chains where they are missing, and the rules anew.
pub(super) fn lay(config: &NetworkConfig, batch: &mut Batch) {
    batch.add_table();
    for set in [&LINKS, &MEMBERS, &TARGETS, &PORTS, &BOUND_PORTS] {
        batch.add_set(set);
    }
    for chain in [
        &SOURCE,
        &ENTRY,
        &INPUT,
        &OUTPUT,
        &FORWARD,
        &PUBLISH,
        &PUBLISH_LOCAL,
        &LEAVE,
    ] {
        batch.add_empty_chain(chain);
    }
    let mut rule = |chain: &Chain, parts: &[&[Expression]]| batch.add_rule(chain, &parts.concat());

    rule(
        &SOURCE,
        &[
            &from_pod(),
            &ipv4(),
            &tenant_of_source(),
            &[Expression::Accept],
        ],
    );
    let from_client = [
        from(MESH_LINK).as_slice(),
        &ipv4(),
        &not_from_network(config),
    ]
    .concat();
    rule(&SOURCE, &[&from_client, &[Expression::Accept]]);
    rule(&SOURCE, &[&from_pod(), &[Expression::Drop]]);
    rule(
        &SOURCE,
        &[
            &not_from("lo"),
            &ipv4(),
            &from_network(config),
            &[Expression::Drop],
        ],
    );

    let mark = Register(0);
    rule(
        &ENTRY,
        &[
            &from(WIREGUARD_LINK),
            &ipv6(),
            &[
                Expression::Payload(Payload::SourceEnd, mark),
                Expression::SetMark(mark),
            ],
        ],
    );
    rule(
        &ENTRY,
        &[
            &from_client,
            &[
                Expression::Meta(Meta::Mark, mark),
                Expression::SetConnectionMark(mark),
            ],
        ],
    );
    rule(
        &ENTRY,
        &[
            &from(MESH_LINK),
            &[
                Expression::Constant(vec![0; 4], mark),
                Expression::SetMark(mark),
                Expression::Accept,
            ],
        ],
    );
    rule(
        &ENTRY,
        &[
            &from_pod(),
            &[
                Expression::Connection(Connection::Mark, mark),
                Expression::SetMark(mark),
            ],
        ],
    );

    rule(
        &INPUT,
        &[&not_from(WIREGUARD_LINK), &vxlan(), &[Expression::Drop]],
    );
    rule(
        &OUTPUT,
        &[&not_to(WIREGUARD_LINK), &vxlan(), &[Expression::Drop]],
    );
    rule(&INPUT, &[&known_connection(), &[Expression::Accept]]);
    rule(&INPUT, &[&from_pod(), &icmp(), &[Expression::Accept]]);
    rule(&INPUT, &[&from_pod(), &[Expression::Drop]]);

    rule(
        &FORWARD,
        &[&from(MESH_LINK), &to(MESH_LINK), &[Expression::Drop]],
    );
    rule(&FORWARD, &[&known_connection(), &[Expression::Accept]]);
    rule(&FORWARD, &[&redirected(), &[Expression::Accept]]);
    rule(
        &FORWARD,
        &[
            &from(MESH_LINK),
            &to_pod(),
            &ipv4(),
            &to_target(),
            &[Expression::Accept],
        ],
    );
    rule(
        &FORWARD,
        &[
            &from_pod(),
            &to_pod(),
            &ipv4(),
            &tenant_of_source(),
            &to_member(),
            &[Expression::Accept],
        ],
    );
    rule(&FORWARD, &[&from(MESH_LINK), &[Expression::Drop]]);
    rule(
        &FORWARD,
        &[&from_pod(), &not_to_pod(), &[Expression::Accept]],
    );

    for chain in [&PUBLISH, &PUBLISH_LOCAL] {
        rule(chain, &[&ipv4(), &to_bound_port()]);
        rule(
            chain,
            &[
                &ipv4(),
                &[Expression::DestinationIsLocal(Register(0))],
                &to_port(),
            ],
        );
    }

    rule(
        &LEAVE,
        &[
            &ipv4(),
            &from_network(config),
            &not_to_pod(),
            &[Expression::Masquerade],
        ],
    );
    rule(&LEAVE, &[&to(MESH_LINK), &[Expression::Accept]]);
    let come_from_gateway = [
        Expression::Constant(config.gateway.octets().to_vec(), Register(0)),
        Expression::ComeFrom(Register(0)),
    ];
    rule(
        &LEAVE,
        &[
            &ipv4(),
            &from_network(config),
            &redirected(),
            &to_pod(),
            &come_from_gateway,
        ],
    );
}

fn from_pod() -> [Expression; 2] {
    [
        Expression::Meta(Meta::InputName, Register(0)),
        Expression::Equal(Register(0), LINK_PREFIX.into()),
    ]
}

fn from(link: &str) -> [Expression; 2] {
    [
        Expression::Meta(Meta::InputName, Register(0)),
        Expression::Equal(Register(0), name(link).to_vec()),
    ]
}

fn not_from(link: &str) -> [Expression; 2] {
    [
        Expression::Meta(Meta::InputName, Register(0)),
        Expression::Unequal(Register(0), name(link).to_vec()),
    ]
}

fn to(link: &str) -> [Expression; 2] {
    [
        Expression::Meta(Meta::OutputName, Register(0)),
        Expression::Equal(Register(0), name(link).to_vec()),
    ]
}

fn not_to(link: &str) -> [Expression; 2] {
    [
        Expression::Meta(Meta::OutputName, Register(0)),
        Expression::Unequal(Register(0), name(link).to_vec()),
    ]
}

fn to_pod() -> [Expression; 2] {
    [
        Expression::Meta(Meta::OutputName, Register(0)),
        Expression::Equal(Register(0), LINK_PREFIX.into()),
    ]
}

fn not_to_pod() -> [Expression; 2] {
    [
        Expression::Meta(Meta::OutputName, Register(0)),
        Expression::Unequal(Register(0), LINK_PREFIX.into()),
    ]
}

/// Before any look at an IPv4 header: the table sees IPv6 as well.
fn ipv4() -> [Expression; 2] {
    [
        Expression::Meta(Meta::NetworkProtocol, Register(0)),
        Expression::Equal(Register(0), vec![IPV4]),
    ]
}

fn ipv6() -> [Expression; 2] {
    [
        Expression::Meta(Meta::NetworkProtocol, Register(0)),
        Expression::Equal(Register(0), vec![IPV6]),
    ]
}

/// Nodes' packets for each other's pods.
fn vxlan() -> [Expression; 4] {
    let [protocol, port] = protocol_and_port(Register(0), Register(1));
    [
        protocol,
        Expression::Equal(Register(0), vec![number(Protocol::Udp)]),
        port,
        Expression::Equal(Register(1), VXLAN_PORT.to_be_bytes().to_vec()),
    ]
}

fn icmp() -> [Expression; 2] {
    /// IANA's protocol number.
    const ICMP: u8 = 1;
    [
        Expression::Meta(Meta::TransportProtocol, Register(0)),
        Expression::Equal(Register(0), vec![ICMP]),
    ]
}

fn known_connection() -> [Expression; 2] {
    [
        Expression::Connection(Connection::State, Register(0)),
        Expression::AnyOf(Register(0), state::ESTABLISHED | state::RELATED),
    ]
}

fn redirected() -> [Expression; 2] {
    [
        Expression::Connection(Connection::Status, Register(0)),
        Expression::AnyOf(Register(0), status::DESTINATION_TRANSLATED),
    ]
}

/// Goes on if the link may use the source address; its tenant is then in registers 5–8.
fn tenant_of_source() -> [Expression; 3] {
    [
        Expression::Meta(Meta::InputName, Register(0)),
        Expression::Payload(Payload::Source, Register(4)),
        Expression::Map(LINKS.name, Register(0), Register(5)),
    ]
}

/// After [`tenant_of_source`]: goes on if the destination is of the same tenant.
fn to_member() -> [Expression; 3] {
    [
        Expression::Meta(Meta::OutputName, Register(9)),
        Expression::Payload(Payload::Destination, Register(13)),
        Expression::In(MEMBERS.name, Register(5)),
    ]
}

/// Goes on if a published port leads there.
fn to_target() -> [Expression; 4] {
    let [protocol, port] = protocol_and_port(Register(1), Register(2));
    [
        Expression::Payload(Payload::Destination, Register(0)),
        protocol,
        port,
        Expression::In(TARGETS.name, Register(0)),
    ]
}

fn not_from_network(config: &NetworkConfig) -> [Expression; 3] {
    let [source, masked, _] = from_network(config);
    let network = config.pods.octets().to_vec();
    [source, masked, Expression::Unequal(Register(0), network)]
}

fn from_network(config: &NetworkConfig) -> [Expression; 3] {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(config.prefix))
        .unwrap_or(0);
    // Masked as the bytes lie in the packet.
    [
        Expression::Payload(Payload::Source, Register(0)),
        Expression::Masked(Register(0), mask.to_be_bytes()),
        Expression::Equal(Register(0), config.pods.octets().to_vec()),
    ]
}

fn to_bound_port() -> [Expression; 5] {
    let [protocol, number] = protocol_and_port(Register(1), Register(2));
    [
        Expression::Payload(Payload::Destination, Register(0)),
        protocol,
        number,
        Expression::Map(BOUND_PORTS.name, Register(0), Register(4)),
        Expression::Redirect {
            address: Register(4),
            port: Register(5),
        },
    ]
}

fn to_port() -> [Expression; 4] {
    let [protocol, number] = protocol_and_port(Register(0), Register(1));
    [
        protocol,
        number,
        Expression::Map(PORTS.name, Register(0), Register(4)),
        Expression::Redirect {
            address: Register(4),
            port: Register(5),
        },
    ]
}

fn protocol_and_port(protocol: Register, port: Register) -> [Expression; 2] {
    [
        Expression::Meta(Meta::TransportProtocol, protocol),
        Expression::Payload(Payload::DestinationPort, port),
    ]
}
