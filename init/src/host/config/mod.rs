//! `hearth.toml`: what an owner tells a node.

mod cluster;
mod sources;
mod tenants;

#[cfg(feature = "fuzzing")]
pub use sources::fuzzing;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::IgnoredAny;

pub use cluster::Cluster;
pub use sources::{Found, read};
pub use tenants::{Bounds, TenantName};

/// Longest name of a node: a label of a domain name.
const NAME_MAX: usize = 63;

/// ext4's largest with blocks of 4 KiB and block numbers of 32 bits.
const LAYER_GIB_MAX: u64 = 16 << 10;

/// All of the file. A key that isn't known is an error, so that a mistyped one is not passed over.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[node]`
    pub node: Node,
    /// `[network]`; absent: DHCP.
    pub network: Option<Static>,
    /// `[identity]`; absent: the node does not listen.
    pub identity: Option<Identity>,
    /// `[cluster]`; absent: the node is on its own until somebody tells it otherwise.
    pub cluster: Option<Cluster>,
    /// `[registries]`
    pub registries: Registries,
    /// `[storage]`
    pub storage: Storage,
    /// `[tenants.NAME]`
    pub tenants: BTreeMap<TenantName, Bounds>,
}

/// `[storage]`
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// GiB of a writable layer where a container asks for none; absent: the template's own.
    pub layer_gib: Option<LayerGib>,
}

/// A size that the template of writable layers can be grown to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub struct LayerGib(pub u64);

/// `[node]`
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// The node's name; absent: made from its Ethernet address.
    pub name: Option<NodeName>,
}

/// `[network]`: an address that isn't asked for by DHCP.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Static {
    /// The node's.
    pub address: Cidr,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Name servers.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
}

/// `[identity]`: PEM texts. Whether they are any good is for the controller to say.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The owner's certificate authority.
    pub ca: String,
    /// The node's certificate, and those between it and the authority. Absent: `[cluster]`'s issuer makes one.
    pub certificate: Option<String>,
    /// The node's private key; present where the certificate is.
    pub key: Option<String>,
    /// Certificates that the authority has taken back.
    pub crl: Option<String>,
}

/// `[registries]`
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registries {
    /// `host:port` of those that may be spoken to in plain HTTP.
    pub insecure: Vec<String>,
}

/// A host name: letters, digits and hyphens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct NodeName(pub String);

/// An address with the length of its network's prefix (`192.0.2.5/24`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// Bits.
    pub prefix_len: u8,
}

impl TryFrom<u64> for LayerGib {
    type Error = String;

    fn try_from(gib: u64) -> Result<Self, String> {
        if !(1..=LAYER_GIB_MAX).contains(&gib) {
            return Err(format!(
                "layers of {gib} GiB can't be made: 1 to {LAYER_GIB_MAX} are possible"
            ));
        }
        Ok(Self(gib))
    }
}

impl TryFrom<String> for NodeName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if name.is_empty()
            || name.len() > NAME_MAX
            || !plain
            || name.starts_with('-')
            || name.ends_with('-')
        {
            return Err(format!(
                "{name:?} is no host name: use letters, digits and hyphens, at most {NAME_MAX}"
            ));
        }
        Ok(Self(name))
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (address, prefix_len) = text.split_once('/')?;
            let (address, prefix_len) = (
                address.parse::<IpAddr>().ok()?,
                prefix_len.parse::<u8>().ok()?,
            );
            let longest = if address.is_ipv4() { 32 } else { 128 };
            (prefix_len <= longest).then_some(Self {
                address,
                prefix_len,
            })
        };
        parse().ok_or_else(|| {
            format!("{text:?} is no address with a prefix length, such as 192.0.2.5/24")
        })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// The configuration in a text. The error names the key and shows the place, but no value of `[identity]`.
pub fn parse(text: &str) -> Result<Config, String> {
    let at = |span: Option<Range<usize>>, message: &str| match span {
        Some(span) => {
            let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
            format!("line {line}: {message}")
        }
        None => message.to_owned(),
    };
    let failed = |error: toml::de::Error| at(error.span(), error.message());
    let config: Config = toml::from_str(text).map_err(failed)?;
    if let Some(fault) = fault_of_identity(&config) {
        let place: Place = toml::from_str(text).map_err(failed)?;
        return Err(at(
            place.identity.or(place.cluster).map(|p| p.span()),
            fault,
        ));
    }
    Ok(config)
}

/// Where sections begin that are held against each other.
#[derive(Deserialize)]
struct Place {
    identity: Option<toml::Spanned<IgnoredAny>>,
    cluster: Option<toml::Spanned<IgnoredAny>>,
}

/// What is wrong with `[identity]`, `[cluster]` considered.
fn fault_of_identity(config: &Config) -> Option<&'static str> {
    let Some(identity) = &config.identity else {
        return config
            .cluster
            .is_some()
            .then_some("[cluster] needs the ca under [identity]: other nodes are known by it");
    };
    match (&identity.certificate, &identity.key) {
        (Some(_), Some(_)) => None,
        (None, None) if config.cluster.is_some() => None,
        (None, None) => Some(
            "[identity] lacks certificate and key; only the issuer of a [cluster] makes them by itself",
        ),
        (None, Some(_)) => Some("[identity] has a key and lacks its certificate"),
        (Some(_), None) => Some("[identity] has a certificate and lacks its key"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_configuration_is_understood() {
        let config = parse(
            "[node]\nname = \"hearth-1\"\n[network]\naddress = \"192.0.2.5/24\"\ngateway = \"192.0.2.1\"\ndns = [\"192.0.2.1\"]\n\
             [identity]\nca = \"a\"\ncertificate = \"b\"\nkey = \"c\"\ncrl = \"d\"\n[registries]\ninsecure = [\"10.0.2.2:5000\"]\n",
        )
        .unwrap();
        let network = config.network.unwrap();
        assert_eq!(
            (network.address.to_string().as_str(), network.dns.len()),
            ("192.0.2.5/24", 1)
        );
        assert_eq!(config.node.name.unwrap().0, "hearth-1");
    }

    #[test]
    fn an_empty_one_means_the_defaults() {
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn faults_name_their_key_and_line() {
        let error = parse("[node]\nnmae = \"x\"\n").unwrap_err();
        assert!(
            error.starts_with("line 2: ") && error.contains("nmae"),
            "{error}"
        );
        let error = parse("[network]\naddress = \"192.0.2.5\"\n").unwrap_err();
        assert!(
            error.starts_with("line 2: ") && error.contains("prefix"),
            "{error}"
        );
        assert!(parse("[node]\nname = \"-x\"").is_err());
        assert!(parse("[network]\naddress = \"192.0.2.5/33\"\n").is_err());
    }

    #[test]
    fn a_node_has_both_certificate_and_key_or_a_cluster_that_makes_them() {
        let cluster =
            "[cluster]\ntoken = \"9f86d081884c7d659a2feaa0c55ad015\"\nissuer_certificate = \"i\"\n";
        let ca = "\n[identity]\nca = \"a\"\n";
        assert!(parse(&format!("{ca}{cluster}")).is_ok());
        assert!(parse(&format!("{ca}certificate = \"b\"\nkey = \"c\"\n{cluster}")).is_ok());
        for (text, line, what) in [
            (ca.to_owned(), 2, "certificate and key"),
            (
                format!("{ca}key = \"c\"\n{cluster}"),
                2,
                "lacks its certificate",
            ),
            (
                format!("{ca}certificate = \"b\"\n{cluster}"),
                2,
                "lacks its key",
            ),
            (cluster.to_owned(), 1, "needs the ca"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(
                error.starts_with(&format!("line {line}: ")) && error.contains(what),
                "{error}"
            );
        }
    }

    #[test]
    fn layers_have_a_possible_size() {
        let config = parse("[storage]\nlayer_gib = 4\n").unwrap();
        assert_eq!(config.storage.layer_gib, Some(LayerGib(4)));
        for wrong in ["0", "-1", "100000", "\"40\""] {
            let error = parse(&format!("[storage]\nlayer_gib = {wrong}\n")).unwrap_err();
            assert!(error.starts_with("line 2: "), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_configuration_or_an_error(text in ".{0,200}") {
            let _ = parse(&text);
        }
    }
}
