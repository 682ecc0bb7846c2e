//! How nodes meet: TLS 1.3, a certificate of a node on both sides, HTTP/2 inside.
//!
//! Sessions are never resumed: a resumed one is not verified again, and a node that was removed meanwhile would still be let in.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, Error,
    OtherError, PeerIncompatible, ServerConfig, SignatureScheme,
};
use webpki::EndEntityCert;

use super::anchor::{Anchor, Refusal};
use super::credentials::Credentials;
use super::peer::{ClusterId, Peer};

/// HTTP/2 (RFC 9113, section 3.2): many requests share one connection.
const PROTOCOL: &[u8] = b"h2";

/// What a node of a cluster meets others with.
#[derive(Clone)]
pub struct Peering {
    /// Whom to believe.
    pub anchor: Arc<Anchor>,
    /// The cluster; no other's nodes are let in.
    pub cluster: ClusterId,
    /// What this node shows.
    pub credentials: Arc<Credentials>,
    /// The clock that certificates are held against.
    pub time: Arc<dyn TimeProvider>,
    /// Whether a node has been removed from the cluster. Called in handshakes: it must not block.
    pub revoked: Arc<dyn Fn(&Peer) -> bool + Send + Sync>,
}

impl Peering {
    /// For the peers' port. Who shows a certificate must be a node of the cluster. Who shows none gets in as well, and may do nothing
    /// but ask to join: [`peer_of`] says which of the two it is.
    pub fn server_config(&self) -> ServerConfig {
        let provider = provider();
        let verifier = self.verifier(&provider);
        let mut config =
            ServerConfig::builder_with_details(Arc::clone(&provider), Arc::clone(&self.time))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect("ring has cipher suites of TLS 1.3")
                .with_client_cert_verifier(Arc::new(verifier))
                .with_cert_resolver(Arc::<Credentials>::clone(&self.credentials));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config
    }

    /// For connections to other nodes, each dialled by its [`Peer::server_name`]: whoever answers must be that node.
    pub fn client_config(&self) -> ClientConfig {
        let provider = provider();
        let verifier = self.verifier(&provider);
        client(provider, &self.time, verifier, Some(&self.credentials))
    }

    fn verifier(&self, provider: &CryptoProvider) -> Verifier {
        Verifier {
            anchor: Arc::clone(&self.anchor),
            algorithms: provider.signature_verification_algorithms,
            member: Some(Member {
                cluster: self.cluster,
                revoked: Arc::clone(&self.revoked),
            }),
        }
    }
}

impl std::fmt::Debug for Peering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Peering({})", self.cluster)
    }
}

/// For a node that has no certificate yet: any node will do whose certificate is by an issuer of the anchor, by whatever name it is
/// dialled. The secret may be sent to who is there.
pub fn join_client_config(anchor: Arc<Anchor>, time: &Arc<dyn TimeProvider>) -> ClientConfig {
    let provider = provider();
    let verifier = Verifier {
        anchor,
        algorithms: provider.signature_verification_algorithms,
        member: None,
    };
    client(provider, time, verifier, None)
}

/// The node at the other end of a connection whose handshake is done under a configuration of this module. None: it has shown no
/// certificate, and may only ask to join.
pub fn peer_of(connection: &CommonState) -> Result<Option<Peer>, Refusal> {
    peer_in(connection.peer_certificates())
}

/// The same, from the certificates that a handshake has verified.
pub fn peer_in(chain: Option<&[CertificateDer<'_>]>) -> Result<Option<Peer>, Refusal> {
    let Some(certificate) = chain.and_then(<[_]>::first) else {
        return Ok(None);
    };
    Peer::named_in(&EndEntityCert::try_from(certificate)?).map(Some)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn client(
    provider: Arc<CryptoProvider>,
    time: &Arc<dyn TimeProvider>,
    verifier: Verifier,
    credentials: Option<&Arc<Credentials>>,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_details(provider, Arc::clone(time))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has cipher suites of TLS 1.3")
        // Not less safe, but other names: `Verifier` checks chain, usage, time and who it is.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match credentials {
        Some(credentials) => {
            builder.with_client_cert_resolver(Arc::<Credentials>::clone(credentials))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    // Whom a node looks for is nobody else's business.
    config.enable_sni = false;
    config
}

/// What a member asks of others, beyond being nodes of the owner's.
struct Member {
    cluster: ClusterId,
    revoked: Arc<dyn Fn(&Peer) -> bool + Send + Sync>,
}

/// Of both sides: they are the same kind of certificate.
struct Verifier {
    anchor: Arc<Anchor>,
    algorithms: WebPkiSupportedAlgorithms,
    /// None: whoever wants to become one.
    member: Option<Member>,
}

impl Verifier {
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Peer, Refusal> {
        let peer = self.anchor.verify(certificate, others, now)?;
        if let Some(member) = &self.member {
            if peer.cluster != member.cluster {
                return Err(Refusal::Cluster {
                    found: peer.cluster,
                    expected: member.cluster,
                });
            }
            if (member.revoked)(&peer) {
                return Err(Refusal::Revoked(peer));
            }
        }
        Ok(peer)
    }

    /// That it is the one that was dialled.
    fn verify_dialled(&self, peer: &Peer, name: &ServerName<'_>) -> Result<(), Refusal> {
        if self.member.is_none() {
            return Ok(());
        }
        let dialled = Peer::dialled(name).ok_or(Refusal::Dialled)?;
        if dialled.cluster != peer.cluster {
            return Err(Refusal::Cluster {
                found: peer.cluster,
                expected: dialled.cluster,
            });
        }
        if dialled.node != peer.node {
            return Err(Refusal::Node {
                found: peer.node,
                expected: dialled.node,
            });
        }
        Ok(())
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(certificate, others, now)
            .and_then(|peer| self.verify_dialled(&peer, name))
            .map_err(alert)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(certificate, others, now).map_err(alert)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Neither side offers an older version, so that no handshake asks.
fn only_tls13() -> Error {
    PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into()
}

/// The refusal in TLS's words, for the alert that the other side is sent; where TLS has none, in ours.
fn alert(refusal: Refusal) -> Error {
    match refusal {
        Refusal::Certificate(webpki::Error::CertExpired { time, not_after }) => {
            CertificateError::ExpiredContext { time, not_after }.into()
        }
        Refusal::Certificate(webpki::Error::CertNotValidYet { time, not_before }) => {
            CertificateError::NotValidYetContext { time, not_before }.into()
        }
        Refusal::Certificate(webpki::Error::UnknownIssuer) => {
            CertificateError::UnknownIssuer.into()
        }
        Refusal::Certificate(webpki::Error::BadDer | webpki::Error::BadDerTime) => {
            CertificateError::BadEncoding.into()
        }
        Refusal::Revoked(_) => CertificateError::Revoked.into(),
        refusal => CertificateError::Other(OtherError(Arc::new(refusal))).into(),
    }
}
