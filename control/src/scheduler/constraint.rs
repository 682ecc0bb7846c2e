//! Swarm's constraints and preferences: `node.labels.disk==ssd`, `node.ip != 10.0.0.0/8`.
//!
//! Syntax and errors are swarmkit's, which docker's CLI shows as they are: an expression is a key, `==` or `!=`, and a value, with
//! blanks around them if you like. A value is compared as a whole and without regard to case; so is a key, but for the name of a label.
//! A label that a node lacks is an empty one.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{Node, node};

/// A demand on the node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Constraint {
    subject: Subject,
    wanted: bool,
    value: String,
}

/// What a constraint is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Subject {
    Id,
    Hostname,
    Role,
    Os,
    Arch,
    Ip(Option<Subnet>),
    Label(Label),
    /// Swarm takes any key, and no node has this one.
    Unknown(String),
}

/// A label of nodes: what pods are spread over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Label {
    /// `node.labels.NAME`: given by `docker node update`.
    Node(String),
    /// `engine.labels.NAME`: told by the node itself.
    Engine(String),
}

/// An expression that isn't one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// Neither of the operators is in it.
    #[error("constraint expected one operator from ==, !=")]
    Operator,
    /// Before the operator.
    #[error("key '{0}' is invalid")]
    Key(String),
    /// After it.
    #[error("value '{0}' is invalid")]
    Value(String),
}

/// A preference that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no label of nodes: node.labels.NAME or engine.labels.NAME is expected")]
pub struct InvalidLabel(String);

const NODE_LABELS: &str = "node.labels.";
const ENGINE_LABELS: &str = "engine.labels.";

impl Constraint {
    /// Whether a node could answer it: its key is known, and an address is one. Swarm takes a constraint that none can, and the service
    /// stays pending.
    pub fn can_be_met(&self) -> bool {
        !matches!(self.subject, Subject::Unknown(_) | Subject::Ip(None))
    }

    /// Whether a node meets it.
    pub fn is_met_by(&self, node: &Node) -> bool {
        let same = |what: &str| fold(what).eq(fold(&self.value));
        let matched = match &self.subject {
            Subject::Id => same(&node::id(node.id)),
            Subject::Hostname => same(&node.hostname),
            Subject::Role => same(node.role.name()),
            Subject::Os => same(&node.platform.os),
            Subject::Arch => same(architecture(&node.platform.arch)),
            Subject::Label(label) => same(label.of(node)),
            Subject::Ip(Some(subnet)) => node.addresses.iter().any(|ip| subnet.contains(*ip)),
            Subject::Unknown(_) | Subject::Ip(None) => return false,
        };
        matched == self.wanted
    }
}

/// Go's names of processors; Swarm's users write the kernel's as well.
fn architecture(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn fold(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_lowercase)
}

impl FromStr for Constraint {
    type Err = ConstraintError;
    fn from_str(text: &str) -> Result<Self, ConstraintError> {
        // Swarm looks for one operator in the whole expression before it looks for the other.
        let ((key, value), wanted) = text
            .split_once("==")
            .map(|parts| (parts, true))
            .or_else(|| text.split_once("!=").map(|parts| (parts, false)))
            .ok_or(ConstraintError::Operator)?;
        let (key, value) = (key.trim(), value.trim());
        if !is_key(key) {
            return Err(ConstraintError::Key(key.to_owned()));
        }
        if !is_value(value) {
            return Err(ConstraintError::Value(value.to_owned()));
        }
        let subject = match key.to_ascii_lowercase().as_str() {
            "node.id" => Subject::Id,
            "node.hostname" => Subject::Hostname,
            "node.role" => Subject::Role,
            "node.platform.os" => Subject::Os,
            "node.platform.arch" => Subject::Arch,
            "node.ip" => Subject::Ip(value.parse().ok()),
            _ => match key.parse() {
                Ok(label) => Subject::Label(label),
                Err(_) => Subject::Unknown(key.to_owned()),
            },
        };
        let value = match subject {
            Subject::Arch => architecture(value),
            _ => value,
        };
        Ok(Self {
            subject,
            wanted,
            value: value.to_owned(),
        })
    }
}

/// Swarm's pattern: a letter or `_`, and at least one more letter, digit or one of `-_.`.
fn is_key(key: &str) -> bool {
    let mut bytes = key.bytes();
    let first = bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    first
        && key.len() > 1
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Swarm's pattern: what no operator is made of, now or later.
fn is_value(value: &str) -> bool {
    !value.is_empty()
        && value.bytes().all(|b| {
            b.is_ascii_alphanumeric()
                || b.is_ascii_whitespace()
                || b":-_.*()?+[]\\^$|/".contains(&b)
        })
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Id => f.write_str("node.id"),
            Subject::Hostname => f.write_str("node.hostname"),
            Subject::Role => f.write_str("node.role"),
            Subject::Os => f.write_str("node.platform.os"),
            Subject::Arch => f.write_str("node.platform.arch"),
            Subject::Ip(_) => f.write_str("node.ip"),
            Subject::Label(label) => label.fmt(f),
            Subject::Unknown(key) => f.write_str(key),
        }?;
        let operator = if self.wanted { "==" } else { "!=" };
        write!(f, "{operator}{}", self.value)
    }
}

impl Label {
    /// Its value on a node; empty where the node has none.
    pub fn of<'a>(&self, node: &'a Node) -> &'a str {
        let value = match self {
            Self::Node(name) => node.labels.get(name),
            Self::Engine(name) => node.engine_labels.get(name),
        };
        value.map_or("", String::as_str)
    }
}

impl FromStr for Label {
    type Err = InvalidLabel;
    fn from_str(text: &str) -> Result<Self, InvalidLabel> {
        let after = |prefix: &str| {
            let (head, name) = text.split_at_checked(prefix.len())?;
            (head.eq_ignore_ascii_case(prefix) && !name.is_empty()).then(|| name.to_owned())
        };
        after(NODE_LABELS)
            .map(Self::Node)
            .or_else(|| after(ENGINE_LABELS).map(Self::Engine))
            .ok_or_else(|| InvalidLabel(text.to_owned()))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "{NODE_LABELS}{name}"),
            Self::Engine(name) => write!(f, "{ENGINE_LABELS}{name}"),
        }
    }
}

/// Addresses that begin alike; a single one is a subnet of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Subnet {
    address: IpAddr,
    bits: u32,
}

impl Subnet {
    fn contains(&self, ip: IpAddr) -> bool {
        let apart = match (self.address.to_canonical(), ip.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => return false,
        };
        apart >= self.bits
    }
}

impl FromStr for Subnet {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            // Rust's numbers may have a sign.
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) => {
                bits.parse().map_err(|_| ())?
            }
            Some(_) => return Err(()),
        };
        // One written as IPv6 (::ffff:a.b.c.d) is IPv4's, and so are its bits.
        let canonical = address.to_canonical();
        let bits = match (address, canonical) {
            (IpAddr::V6(_), IpAddr::V4(_)) => u32::checked_sub(bits, 96).ok_or(())?,
            _ => bits,
        };
        let most = if canonical.is_ipv4() { 32 } else { 128 };
        (bits <= most)
            .then_some(Self {
                address: canonical,
                bits,
            })
            .ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scheduler::{Platform, Role};
    use crate::state::NodeId;

    fn node() -> Node {
        let labels = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        Node {
            id: NodeId(0xfeed),
            hostname: "Hearth-1".into(),
            role: Role::Worker,
            platform: Platform {
                os: "linux".into(),
                arch: "amd64".into(),
            },
            labels: labels("Disk", "SSD"),
            engine_labels: labels("gpu", "none"),
            addresses: ["192.168.7.9".parse().unwrap(), "fd00::9".parse().unwrap()].into(),
            ..Node::default()
        }
    }

    fn met(text: &str) -> bool {
        text.parse::<Constraint>().expect(text).is_met_by(&node())
    }

    #[test]
    fn constraints_are_met_as_swarm_meets_them() {
        for yes in [
            "node.id==000000000000FEED",
            "node.hostname == hearth-1",
            "node.hostname!=hearth",
            "NODE.Role==WORKER",
            "node.role!=manager",
            "node.platform.os==Linux",
            "node.platform.arch==x86_64",
            "node.platform.arch == amd64",
            "node.labels.Disk==ssd",
            "Node.Labels.Disk==ssd",
            "node.labels.disk!=ssd",
            "engine.labels.gpu!=a100",
            "node.ip==192.168.7.9",
            "node.ip==192.168.0.0/16",
            "node.ip!=10.0.0.0/8",
            "node.ip==fd00::/8",
            "node.ip==::ffff:192.168.7.9",
            "node.ip==0.0.0.0/0",
        ] {
            assert!(met(yes), "{yes}");
        }
        for no in [
            "node.id==feed",
            "node.hostname==hearth",
            "node.hostname==hearth*",
            "node.role==manager",
            "node.labels.disk==ssd",
            "node.labels.Disk!=ssd",
            "node.ip==192.168.7.8",
            "node.ip!=192.168.0.0/16",
            "node.ip==300.1.1.1",
            "node.ip!=10.0.0.0/33",
            "node.ip==10.0.0.0/+8",
            "node.shape==round",
            "node.shape!=round",
        ] {
            assert!(!met(no), "{no}");
        }
    }

    #[test]
    fn errors_are_in_swarms_words() {
        let error = |text: &str| text.parse::<Constraint>().unwrap_err().to_string();
        let operator = "constraint expected one operator from ==, !=";
        assert_eq!(error("node.role"), operator);
        assert_eq!(error("node.role=manager"), operator);
        assert_eq!(error("node.role>manager"), operator);
        assert_eq!(error("==manager"), "key '' is invalid");
        assert_eq!(error("1node==a"), "key '1node' is invalid");
        assert_eq!(error("node role==a"), "key 'node role' is invalid");
        assert_eq!(error("node.role=="), "value '' is invalid");
        assert_eq!(error("node.role===a"), "value '=a' is invalid");
        assert_eq!(error("node.role==a!=b"), "value 'a!=b' is invalid");
        assert_eq!(error("node.role!=a==b"), "key 'node.role!=a' is invalid");
    }

    #[test]
    fn what_no_node_can_meet_is_known() {
        let can = |text: &str| text.parse::<Constraint>().unwrap().can_be_met();
        assert!(can("node.ip==10.0.0.0/8"));
        assert!(!can("node.ip==10.0.0"));
        assert!(!can("node.label.disk==ssd"));
        assert!(!can("node.labels.==ssd"));
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in ".{0,40}|node\\.(ip|labels\\.a) ?(==|!=) ?[0-9a-f:./]{0,20}") {
            if let Ok(constraint) = text.parse::<Constraint>() {
                constraint.is_met_by(&node());
                prop_assert_eq!(constraint.to_string().parse(), Ok(constraint));
            }
            if let Ok(label) = text.parse::<Label>() {
                prop_assert_eq!(label.to_string().parse(), Ok(label));
            }
        }

        #[test]
        fn one_of_equal_and_unequal_is_met(
            key in "node\\.(id|hostname|role|platform\\.(os|arch)|labels\\.[A-Za-z]{1,5})|engine\\.labels\\.[a-z]{1,5}",
            value in "[a-zA-Z0-9:_.*-]{1,8}",
        ) {
            prop_assert_ne!(met(&format!("{key}=={value}")), met(&format!("{key}!={value}")));
        }
    }
}
