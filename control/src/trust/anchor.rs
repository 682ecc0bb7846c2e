//! Whether a certificate is a node's, and which node's.

use std::io;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::{CertificateError, OtherError};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyUsage, VerifiedPath};

use super::peer::{IssuerDigest, Peer, digest_of_key};
use super::{ClusterId, PEER_USAGE_DER};
use crate::state::NodeId;

/// The owner's CA, and the issuers below it that make this cluster's nodes.
///
/// The CA alone is not enough: another cluster of the same owner could make certificates with this one's names.
#[derive(Debug, Clone)]
pub struct Anchor {
    roots: Vec<TrustAnchor<'static>>,
    issuers: Vec<IssuerDigest>,
}

/// The owner's CA can't be used.
#[derive(Debug, thiserror::Error)]
#[error("hearth.toml: ca under [identity] can't be used: {0}")]
pub struct AnchorError(String);

/// Why somebody isn't the node that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No certificate of a node of the owner's, or one that has expired.
    #[error("the certificate isn't one of the owner's nodes: {0}")]
    Certificate(webpki::Error),
    /// Made by none of the cluster's issuers.
    #[error("the certificate was made by the issuer of another cluster")]
    Issuer,
    /// One that doesn't have exactly one name, or another kind of it.
    #[error("the certificate names no node")]
    Nameless,
    /// Of another cluster.
    #[error("the certificate is of cluster {found}, and this is {expected}")]
    Cluster {
        /// The certificate's.
        found: ClusterId,
        /// This one.
        expected: ClusterId,
    },
    /// Another node than the one that was dialled.
    #[error("node {:016x} answers where {:016x} was dialled", found.0, expected.0)]
    Node {
        /// Who is there.
        found: NodeId,
        /// Who should be.
        expected: NodeId,
    },
    /// Dialled by a name that isn't a peer's.
    #[error("a peer is dialled by the name that `Peer::server_name` makes, and by no other")]
    Dialled,
    /// Removed from the cluster.
    #[error("{0} has been removed from its cluster")]
    Revoked(Peer),
}

impl From<webpki::Error> for Refusal {
    fn from(error: webpki::Error) -> Self {
        Self::Certificate(error)
    }
}

impl Refusal {
    /// What is behind a handshake that failed at this end, where it was a refusal that TLS has no word for.
    pub fn behind(error: &io::Error) -> Option<&Self> {
        match error.get_ref()?.downcast_ref()? {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(refusal))) => {
                refusal.downcast_ref()
            }
            _ => None,
        }
    }
}

impl Anchor {
    /// From the owner's CA (PEM) and the digests of the cluster's issuers: its own, one that is being replaced, or the one in a
    /// [`super::Token`]. Without any, nobody is a peer.
    pub fn new(
        owner_ca: &str,
        issuers: impl IntoIterator<Item = IssuerDigest>,
    ) -> Result<Self, AnchorError> {
        Ok(Self {
            roots: roots(&certificates(owner_ca).map_err(AnchorError)?)
                .map_err(|error| AnchorError(error.to_string()))?,
            issuers: issuers.into_iter().collect(),
        })
    }

    /// The node that a certificate is of, by whatever else was sent with it.
    pub fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Peer, Refusal> {
        let certificate = EndEntityCert::try_from(certificate)?;
        let usage = KeyUsage::required(PEER_USAGE_DER);
        let ours = |path: &VerifiedPath<'_>| {
            if self
                .issuers
                .contains(&digest_of_key(path.issuer_spki().as_ref()))
            {
                Ok(())
            } else {
                // Told apart below: webpki itself says this of keys on a list of its own only, and none of them is an owner's.
                Err(webpki::Error::CertDistrusted)
            }
        };
        verify(&certificate, others, &self.roots, now, usage, Some(&ours)).map_err(|error| {
            match error {
                webpki::Error::CertDistrusted => Refusal::Issuer,
                error => Refusal::Certificate(error),
            }
        })?;
        Peer::named_in(&certificate)
    }
}

/// What else is asked of a whole path.
pub(super) type PathCheck<'a> = &'a dyn Fn(&VerifiedPath<'_>) -> Result<(), webpki::Error>;

/// That a certificate leads to one of the roots, and all on the way may have this usage.
pub(super) fn verify(
    certificate: &EndEntityCert<'_>,
    others: &[CertificateDer<'_>],
    roots: &[TrustAnchor<'_>],
    now: UnixTime,
    usage: impl ExtendedKeyUsageValidator,
    path: Option<PathCheck<'_>>,
) -> Result<(), webpki::Error> {
    let algorithms = rustls::crypto::ring::default_provider()
        .signature_verification_algorithms
        .all;
    certificate
        .verify_for_usage(algorithms, roots, others, now, usage, None, path)
        .map(|_| ())
}

/// All certificates in a PEM text; at least one.
pub(super) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.to_string())?;
    if found.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(found)
}

/// What chains must end at.
pub(super) fn roots(
    certificates: &[CertificateDer<'_>],
) -> Result<Vec<TrustAnchor<'static>>, webpki::Error> {
    certificates
        .iter()
        .map(|certificate| Ok(webpki::anchor_from_trusted_cert(certificate)?.to_owned()))
        .collect()
}
