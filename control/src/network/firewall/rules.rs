//! The table's rules; what they say together is on [`super`]'s page.

use super::super::expression::{
    Connection, Expression, IPV4, Meta, Payload, Register, state, status,
};
use super::super::nftables::{Batch, Chain};
use super::{
    BOUND_PORTS, FORWARD, INPUT, LEAVE, LINK_PREFIX, LINKS, MEMBERS, NetworkConfig, PORTS, PUBLISH,
    PUBLISH_LOCAL, SOURCE, name,
};

/// Makes sets and chains where they are missing, and the rules anew.
pub(super) fn lay(config: &NetworkConfig, batch: &mut Batch) {
    batch.add_table();
    for set in [&LINKS, &MEMBERS, &PORTS, &BOUND_PORTS] {
        batch.add_set(set);
    }
    for chain in [&SOURCE, &INPUT, &FORWARD, &PUBLISH, &PUBLISH_LOCAL, &LEAVE] {
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
    rule(&SOURCE, &[&from_pod(), &[Expression::Drop]]);
    rule(
        &SOURCE,
        &[
            &not_from_loopback(),
            &ipv4(),
            &from_network(config),
            &[Expression::Drop],
        ],
    );

    rule(&INPUT, &[&known_connection(), &[Expression::Accept]]);
    rule(&INPUT, &[&from_pod(), &icmp(), &[Expression::Accept]]);
    rule(&INPUT, &[&from_pod(), &[Expression::Drop]]);

    rule(&FORWARD, &[&known_connection(), &[Expression::Accept]]);
    rule(&FORWARD, &[&redirected(), &[Expression::Accept]]);
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

fn not_from_loopback() -> [Expression; 2] {
    [
        Expression::Meta(Meta::InputName, Register(0)),
        Expression::Unequal(Register(0), name("lo").to_vec()),
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
fn to_member() -> [Expression; 2] {
    [
        Expression::Payload(Payload::Destination, Register(9)),
        Expression::In(MEMBERS.name, Register(5)),
    ]
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
