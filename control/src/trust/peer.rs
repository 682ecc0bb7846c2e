//! Who a node is to other nodes.

use std::str::FromStr;

use rustls::pki_types::{DnsName, ServerName};
use sha2::{Digest, Sha256};
use webpki::EndEntityCert;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::anchor::Refusal;
use super::hex_bytes::hex_bytes;
use crate::entropy;
use crate::state::NodeId;

/// Scheme of the name in a peer's certificate. No user's certificate can pass with it: the name counts only with the peer usage.
const SCHEME: &str = "hearth://";
/// What the names end with by which peers are dialled. They are in no name service: `internal` is reserved for private use.
const DIALLED: &str = "peer.hearth.internal";

/// A cluster: drawn at random when its first node founds it, and never again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

/// SHA-256 of an issuer's public key (its SubjectPublicKeyInfo): what makes two clusters of one owner different to each other. A
/// certificate that is made anew for the same key leaves it as it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IssuerDigest(pub [u8; 32]);

/// SHA-256 of a certificate, as `openssl x509 -fingerprint -sha256` shows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// Not such a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {digits} lower-case hexadecimal digits")]
pub struct NameError {
    pub(super) what: &'static str,
    pub(super) digits: usize,
}

/// A node of a cluster, as its certificate names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// The cluster that made the certificate.
    pub cluster: ClusterId,
    /// The node; ids are never reused.
    pub node: NodeId,
}

hex_bytes!(ClusterId, 16, "a cluster's id");
hex_bytes!(IssuerDigest, 32, "the digest of an issuer");
hex_bytes!(Fingerprint, 32, "a certificate's fingerprint");

impl ClusterId {
    /// A new one.
    pub fn random() -> Self {
        Self(entropy::random())
    }
}

impl Peer {
    /// The name to dial it by ([`super::Peering::client_config`]): which node must answer. It is never sent.
    pub fn server_name(&self) -> ServerName<'static> {
        let name = format!("{:016x}.{}.{DIALLED}", self.node.0, self.cluster);
        DnsName::try_from(name)
            .map(ServerName::DnsName)
            .expect("labels of hexadecimal digits, none longer than 32, are a domain name")
    }

    /// Whom [`Self::server_name`] means.
    pub(super) fn dialled(name: &ServerName<'_>) -> Option<Self> {
        let ServerName::DnsName(name) = name else {
            return None;
        };
        let (node, rest) = name.as_ref().split_once('.')?;
        let (cluster, rest) = rest.split_once('.')?;
        (rest == DIALLED).then_some(Self {
            cluster: cluster.parse().ok()?,
            node: node_id(node)?,
        })
    }

    /// Whom a certificate names. Whether it may is not asked here.
    pub(super) fn named_in(certificate: &EndEntityCert<'_>) -> Result<Self, Refusal> {
        let mut names = certificate.valid_uri_names();
        let (Some(name), None) = (names.next(), names.next()) else {
            return Err(Refusal::Nameless);
        };
        name.parse()
    }
}

/// The name in the certificate: `hearth://CLUSTER/node/NODE`, both in hexadecimal digits.
impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{SCHEME}{}/node/{:016x}", self.cluster, self.node.0)
    }
}

impl FromStr for Peer {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let parse = || {
            let (cluster, node) = text.strip_prefix(SCHEME)?.split_once("/node/")?;
            Some(Self {
                cluster: cluster.parse().ok()?,
                node: node_id(node)?,
            })
        };
        parse().ok_or(Refusal::Nameless)
    }
}

/// 16 lower-case hexadecimal digits, so that one node has one name.
fn node_id(text: &str) -> Option<NodeId> {
    let id = NodeId(u64::from_str_radix(text, 16).ok()?);
    (format!("{:016x}", id.0) == text).then_some(id)
}

/// Of a certificate, DER: to know a revoked one by.
pub fn fingerprint(certificate: &[u8]) -> Fingerprint {
    Fingerprint(Sha256::digest(certificate).into())
}

/// Of an issuer's certificate, DER. None: it can't be read.
pub fn issuer_digest(certificate: &[u8]) -> Option<IssuerDigest> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(digest_of_key(certificate.public_key().raw))
}

/// Of a SubjectPublicKeyInfo, DER.
pub(super) fn digest_of_key(key: &[u8]) -> IssuerDigest {
    IssuerDigest(Sha256::digest(key).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_peer_has_one_text_and_one_name(cluster in any::<[u8; 16]>(), node in any::<u64>()) {
            let peer = Peer { cluster: ClusterId(cluster), node: NodeId(node) };
            prop_assert_eq!(peer.to_string().parse::<Peer>(), Ok(peer));
            prop_assert_eq!(Peer::dialled(&peer.server_name()), Some(peer));
            prop_assert!(peer.to_string().to_uppercase().parse::<Peer>().is_err());
        }

        #[test]
        fn any_text_is_a_peer_or_a_refusal(text in "(hearth://)?[0-9a-fA-F+]{0,40}(/node/)?[0-9a-fA-F+]{0,20}") {
            if let Ok(peer) = text.parse::<Peer>() {
                prop_assert_eq!(peer.to_string(), text);
            }
        }
    }

    #[test]
    fn ids_are_digits_in_the_state() {
        let id = ClusterId([0xab; 16]);
        let text = serde_json::to_string(&id).unwrap();
        assert_eq!(text, format!("\"{}\"", "ab".repeat(16)));
        assert_eq!(serde_json::from_str::<ClusterId>(&text).unwrap(), id);
        assert!(serde_json::from_str::<ClusterId>("\"AB\"").is_err());
    }

    #[test]
    fn other_names_mean_nobody() {
        for name in ["localhost", "0.peer.hearth.internal", "192.0.2.1"] {
            assert_eq!(Peer::dialled(&name.try_into().unwrap()), None);
        }
    }
}
