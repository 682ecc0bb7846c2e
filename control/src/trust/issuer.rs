//! What makes the certificates of a cluster's nodes: an intermediate CA that the owner has signed for nothing else.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, CertificateSigningRequestDer, DnsName, PrivateKeyDer, UnixTime,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::anchor::{certificates, roots, verify};
use super::peer::{ClusterId, IssuerDigest, Peer, digest_of_key};
use super::seal::{Purpose, SealError, SealKey};
use super::validity::{BACKDATED, LIFETIME};
use super::{PEER_USAGE, PEER_USAGE_ARCS, PEER_USAGE_DER};
use crate::entropy;
use crate::state::NodeId;

/// Longest request of a node: one for a key of P-256 has some 200 bytes.
const REQUEST_MAX: usize = 4096;
/// Bytes of a serial number: unguessable, and below the 20 of RFC 5280 (section 4.1.2.2).
const SERIAL_LEN: usize = 16;

/// A cluster's issuer, with its key.
pub struct Issuer {
    signer: rcgen::Issuer<'static, KeyPair>,
    chain: Vec<CertificateDer<'static>>,
    digest: IssuerDigest,
    not_after: UnixTime,
}

/// Why there is no issuer, or no certificate from it.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// Not PEM, or not of that kind.
    #[error("hearth.toml: {field} can't be read: {reason}")]
    Pem {
        /// The key and its section.
        field: &'static str,
        /// The parser's words.
        reason: String,
    },
    /// It could make more than nodes, or less.
    #[error(
        "hearth.toml: issuer_certificate under [cluster] must have serverAuth and {PEER_USAGE} as its extendedKeyUsage, and neither clientAuth nor anyExtendedKeyUsage: {0}; how to make one is in docs/hearth-toml.md"
    )]
    Purpose(&'static str),
    /// No CA.
    #[error(
        "hearth.toml: issuer_certificate under [cluster] is no certificate authority (basicConstraints=critical,CA:TRUE,pathlen:0); how to make one is in docs/hearth-toml.md"
    )]
    NoAuthority,
    /// Of another key.
    #[error("hearth.toml: issuer_key under [cluster] isn't the key of issuer_certificate")]
    Pair,
    /// The owner's CA may have no CA below it.
    #[error(
        "hearth.toml: ca under [identity] allows no certificate authority below it (pathlen:{0}), so that nothing that an issuer makes is valid: make a CA without pathlen, or let the CA sign with a larger one; docs/hearth-toml.md shows how"
    )]
    PathLength(u32),
    /// A subject that can't be repeated in what it makes.
    #[error(
        "hearth.toml: issuer_certificate under [cluster] has a subject with several attributes of one kind: make one with a CN alone"
    )]
    Subject,
    /// Not below the owner's CA, or not any more.
    #[error(
        "hearth.toml: issuer_certificate under [cluster] isn't valid below ca under [identity]: {0}; is it signed by that CA, and is the node's clock right?"
    )]
    Untrusted(webpki::Error),
    /// Nothing valid can be made any more.
    #[error(
        "the certificate of the cluster's issuer has expired: make a new one for the same key, as docs/hearth-toml.md shows, and put it into hearth.toml"
    )]
    Expired,
    /// What a node has sent.
    #[error("the node's request for a certificate can't be used: {0}")]
    Request(String),
    /// No host name.
    #[error("{0:?} is no host name: clients can't dial a node by it")]
    Name(String),
    /// A point in time that certificates can't hold.
    #[error("the clock is far from any time that a certificate can hold: set it")]
    Clock,
    /// The signature couldn't be made.
    #[error("signing a certificate failed: {0}")]
    Signing(rcgen::Error),
    /// Sealed, and stays so.
    #[error("the cluster's issuer: {0}")]
    Sealed(#[from] SealError),
}

/// What is sealed: CBOR with named fields, so that later versions can add some.
#[derive(Serialize, Deserialize)]
struct Plain {
    /// The issuer and those between it and the owner's CA, PEM.
    certificate: String,
    /// PKCS#8, PEM.
    key: String,
}

impl Issuer {
    /// From PEM: the issuer's certificate with those between it and the owner's CA after it, its key (PKCS#8), and the owner's CA.
    /// Whatever it makes is checked here once, as others will.
    pub fn parse(
        certificate: &str,
        key: &str,
        owner_ca: &str,
        now: UnixTime,
    ) -> Result<Self, IssuerError> {
        let chain = parse_pem("issuer_certificate under [cluster]", certificate)?;
        let cas = parse_pem("ca under [identity]", owner_ca)?;
        let unreadable = |field, reason: String| IssuerError::Pem { field, reason };
        let roots =
            roots(&cas).map_err(|error| unreadable("ca under [identity]", error.to_string()))?;
        let key = key_pair(key)?;
        // The owner's CA may be at the end of the file; it is nobody's business to send it.
        let chain: Vec<_> = chain.into_iter().filter(|one| !cas.contains(one)).collect();
        let Some(own) = chain.first() else {
            return Err(IssuerError::Purpose("it is the owner's CA itself"));
        };
        let (_, read) = X509Certificate::from_der(own)
            .map_err(|error| unreadable("issuer_certificate under [cluster]", error.to_string()))?;
        check_purpose(&read)?;
        if !read.is_ca() {
            return Err(IssuerError::NoAuthority);
        }
        if key.subject_public_key_info() != read.public_key().raw {
            return Err(IssuerError::Pair);
        }
        let not_after = u64::try_from(read.validity().not_after.timestamp()).unwrap_or(0);
        let digest = digest_of_key(read.public_key().raw);
        let subject = read.subject().as_raw().to_vec();
        let signer = rcgen::Issuer::from_ca_cert_der(own, key)
            .map_err(|error| unreadable("issuer_certificate under [cluster]", error.to_string()))?;
        let issuer = Self {
            signer,
            chain,
            digest,
            not_after: UnixTime::since_unix_epoch(Duration::from_secs(not_after)),
        };
        issuer.prove(&subject, &cas, &roots, now)?;
        Ok(issuer)
    }

    /// What peers know it by.
    pub fn digest(&self) -> IssuerDigest {
        self.digest
    }

    /// Until when it can make anything.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// A certificate by which other nodes know the node whose key has signed the request (PKCS#10, DER), and those between it and the
    /// owner's CA. Of the request only the key is taken.
    pub fn sign_peer(
        &self,
        request: &[u8],
        cluster: ClusterId,
        node: NodeId,
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, IssuerError> {
        let peer = Peer { cluster, node };
        let uri = peer
            .to_string()
            .try_into()
            .expect("a peer's name has only characters of ASCII");
        let purpose = ExtendedKeyUsagePurpose::Other(PEER_USAGE_ARCS.to_vec());
        let name = format!("Hearth node {:016x}", node.0);
        self.sign(request, &name, purpose, vec![SanType::URI(uri)], now)
    }

    /// A certificate by which the owner's and tenants' clients know a node that they dial by one of these names or addresses, and those
    /// between it and the owner's CA.
    pub fn sign_server(
        &self,
        request: &[u8],
        names: &[String],
        addresses: &[IpAddr],
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, IssuerError> {
        let mut alternatives = Vec::with_capacity(names.len() + addresses.len());
        for name in names {
            let bad = || IssuerError::Name(name.clone());
            DnsName::try_from(name.as_str()).map_err(|_| bad())?;
            alternatives.push(SanType::DnsName(
                name.as_str().try_into().map_err(|_| bad())?,
            ));
        }
        alternatives.extend(addresses.iter().copied().map(SanType::IpAddress));
        let purpose = ExtendedKeyUsagePurpose::ServerAuth;
        self.sign(request, "Hearth node", purpose, alternatives, now)
    }

    /// The bytes to keep where a disk may be read by others.
    pub fn seal(&self, key: &SealKey) -> Vec<u8> {
        let plain = Plain {
            certificate: self.chain.iter().map(|one| pem_of(one)).collect(),
            key: self.signer.key().serialize_pem(),
        };
        let mut bytes = Vec::new();
        ciborium::into_writer(&plain, &mut bytes).expect("a vector takes all that is written");
        key.seal(Purpose::Issuer, &bytes)
    }

    /// What [`Self::seal`] has sealed.
    pub fn unseal(
        key: &SealKey,
        sealed: &[u8],
        owner_ca: &str,
        now: UnixTime,
    ) -> Result<Self, IssuerError> {
        let bytes = key.unseal(Purpose::Issuer, sealed)?;
        let plain: Plain =
            ciborium::from_reader(bytes.as_slice()).map_err(|_| SealError::Content)?;
        Self::parse(&plain.certificate, &plain.key, owner_ca, now)
    }

    fn sign(
        &self,
        request: &[u8],
        name: &str,
        purpose: ExtendedKeyUsagePurpose,
        alternatives: Vec<SanType>,
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, IssuerError> {
        if self.not_after <= now {
            return Err(IssuerError::Expired);
        }
        let begin = now.as_secs().saturating_sub(BACKDATED.as_secs());
        let end = now.as_secs().saturating_add(LIFETIME.as_secs());
        let mut params = CertificateParams::default();
        params.not_before = date(begin)?;
        params.not_after = date(end.min(self.not_after.as_secs()))?;
        params.serial_number = Some(SerialNumber::from_slice(&entropy::random::<SERIAL_LEN>()));
        params.subject_alt_names = alternatives;
        // No organisation: that is a tenant.
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        let made = params
            .signed_by(&requested_key(request)?, &self.signer)
            .map_err(IssuerError::Signing)?;
        let mut chain = vec![made.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Ok(chain)
    }

    /// Makes one certificate of each kind, and verifies them as peers and clients do.
    fn prove(
        &self,
        subject: &[u8],
        cas: &[CertificateDer<'_>],
        roots: &[rustls::pki_types::TrustAnchor<'_>],
        now: UnixTime,
    ) -> Result<(), IssuerError> {
        let key = super::NodeKey::generate().map_err(IssuerError::Signing)?;
        let request = key.request().map_err(IssuerError::Signing)?;
        let peer = self.sign_peer(&request, ClusterId([0; 16]), NodeId(0), now)?;
        let server = self.sign_server(&request, &[], &[], now)?;
        let (_, made) = X509Certificate::from_der(&peer[0])
            .map_err(|error| IssuerError::Request(error.to_string()))?;
        if made.issuer().as_raw() != subject {
            return Err(IssuerError::Subject);
        }
        self.check_path_length(cas)?;
        for (chain, usage) in [
            (&peer, KeyUsage::required(PEER_USAGE_DER)),
            (&server, KeyUsage::server_auth()),
        ] {
            EndEntityCert::try_from(&chain[0])
                .and_then(|made| verify(&made, &chain[1..], roots, now, usage, None))
                .map_err(IssuerError::Untrusted)?;
        }
        Ok(())
    }

    /// That a root on top of the chain allows as many CAs as are in it (RFC 5280, section 4.2.1.9). rustls doesn't ask this of a root;
    /// clients written in Go do.
    fn check_path_length(&self, cas: &[CertificateDer<'_>]) -> Result<(), IssuerError> {
        let last = self
            .chain
            .last()
            .and_then(|last| X509Certificate::from_der(last).ok());
        for ca in cas {
            let (Some((_, last)), Ok((_, ca))) = (&last, X509Certificate::from_der(ca)) else {
                continue;
            };
            let allowed = ca
                .basic_constraints()
                .ok()
                .flatten()
                .and_then(|constraints| constraints.value.path_len_constraint);
            match allowed {
                Some(allowed)
                    if ca.subject().as_raw() == last.issuer().as_raw()
                        && (allowed as usize) < self.chain.len() =>
                {
                    return Err(IssuerError::PathLength(allowed));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Issuer({})", self.digest)
    }
}

fn parse_pem(field: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, IssuerError> {
    certificates(pem).map_err(|reason| IssuerError::Pem { field, reason })
}

fn key_pair(pem: &str) -> Result<KeyPair, IssuerError> {
    let bad = |reason: String| IssuerError::Pem {
        field: "issuer_key under [cluster]",
        reason,
    };
    let key =
        PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| bad(error.to_string()))?;
    if !matches!(key, PrivateKeyDer::Pkcs8(_)) {
        return Err(bad(
            "it must be PKCS#8 (BEGIN PRIVATE KEY): `openssl pkcs8 -topk8 -nodes -in issuer.key` makes it so".to_owned(),
        ));
    }
    KeyPair::try_from(&key).map_err(|error| bad(error.to_string()))
}

fn check_purpose(certificate: &X509Certificate<'_>) -> Result<(), IssuerError> {
    let usage = certificate
        .extended_key_usage()
        .map_err(|_| IssuerError::Purpose("it can't be read"))?
        .ok_or(IssuerError::Purpose("it has none"))?
        .value;
    let peers = usage
        .other
        .iter()
        .any(|oid| oid.as_bytes() == PEER_USAGE_DER);
    let fault = match (usage.any, usage.client_auth, usage.server_auth, peers) {
        (true, ..) => "it has anyExtendedKeyUsage",
        (_, true, ..) => "it has clientAuth",
        (_, _, false, _) => "it lacks serverAuth",
        (.., false) => "it lacks the usage of peers",
        _ => return Ok(()),
    };
    Err(IssuerError::Purpose(fault))
}

/// The key of a request, which has signed it.
fn requested_key(request: &[u8]) -> Result<rcgen::PublicKey, IssuerError> {
    let bad = |reason: &str| IssuerError::Request(reason.to_owned());
    if request.len() > REQUEST_MAX {
        return Err(bad("it is too long"));
    }
    let request =
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
            .map_err(|error| IssuerError::Request(error.to_string()))?;
    if request.public_key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(bad("its key isn't of ECDSA on P-256"));
    }
    Ok(request.public_key)
}

fn date(seconds: u64) -> Result<OffsetDateTime, IssuerError> {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or(IssuerError::Clock)
}

/// RFC 7468, section 5.
pub(super) fn pem_of(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    /// RFC 7468, section 2.
    const LINE: usize = 64;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(LINE) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}
