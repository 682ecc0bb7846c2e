//! Certificates of nodes, whose names are their ids.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::peers::{AsStranger, Greet, Trust};
use crate::state::NodeId;

pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    roots: Arc<RootCertStore>,
}

/// A node's certificate, and those that it trusts.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
    roots: Arc<RootCertStore>,
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let mut roots = RootCertStore::empty();
        let certificate = params.self_signed(&key).unwrap();
        roots.add(certificate.der().clone()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            roots: Arc::new(roots),
        }
    }

    pub fn issue(&self, node: NodeId) -> Identity {
        let names = vec!["hearth.internal".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("{:x}", node.0));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
            roots: Arc::clone(&self.roots),
        }
    }

    /// Of somebody who trusts this CA, and has nothing to show.
    pub fn stranger(&self) -> impl Greet + use<> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        AsStranger {
            config: Arc::new(config),
            node_of,
        }
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn node_of(chain: Option<&[CertificateDer<'_>]>) -> Result<Option<NodeId>, String> {
    let Some(certificate) = chain.and_then(<[_]>::first) else {
        return Ok(None);
    };
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|e| e.to_string())?;
    let name = certificate.subject().iter_common_name().last();
    let name = name.and_then(|name| name.as_str().ok()).ok_or("no name")?;
    let id = u64::from_str_radix(name, 16).map_err(|e| e.to_string())?;
    Ok(Some(NodeId(id)))
}

impl Trust for Identity {
    fn server_config(&self) -> Arc<ServerConfig> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), provider())
                .allow_unauthenticated()
                .build()
                .unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key().into())
            .unwrap();
        Arc::new(config)
    }

    /// Takes any node's certificate: that it is the right one is for whoever asks to check.
    fn client_config(&self, _: NodeId) -> (Arc<ClientConfig>, ServerName<'static>) {
        let key: PrivateKeyDer<'static> = self.key.clone_key().into();
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyName(Arc::clone(&self.roots))))
            .with_client_auth_cert(self.chain.clone(), key)
            .unwrap();
        (Arc::new(config), crate::peers::any_name())
    }

    fn node_of(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<Option<NodeId>, String> {
        node_of(chain)
    }
}

/// Verifies everything but the name.
#[derive(Debug)]
struct AnyName(Arc<RootCertStore>);

impl AnyName {
    fn inner(&self) -> Arc<rustls::client::WebPkiServerVerifier> {
        let roots = Arc::clone(&self.0);
        rustls::client::WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .unwrap()
    }
}

impl rustls::client::danger::ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        let any = crate::peers::any_name();
        let inner = self.inner();
        inner.verify_server_cert(certificate, between, &any, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let inner = self.inner();
        inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let inner = self.inner();
        inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.inner().supported_verify_schemes()
    }
}
