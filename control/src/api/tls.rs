//! Who may speak to this node, and who they are: mutual TLS under the owner's CA.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::state::Tenant;

/// Why the node's identity can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM, or nothing of that kind in it.
    #[error("hearth.toml: {field} under [identity] can't be read: {reason}")]
    Pem {
        /// `ca`, `certificate` or `key`.
        field: &'static str,
        /// The parser's words.
        reason: String,
    },
    /// The certificates are not usable as a CA.
    #[error("hearth.toml: ca under [identity] can't verify clients: {0}")]
    Ca(String),
    /// Key and certificate don't fit, or are of a kind that isn't supported.
    #[error("hearth.toml: certificate and key under [identity] can't be used together: {0}")]
    Pair(rustls::Error),
}

/// What the server needs, from PEM: the owner's CA, the node's certificate (with its chain) and its key. Clients without a
/// certificate of that CA don't get past the handshake.
pub fn server_config(
    ca_pem: &str,
    cert_pem: &str,
    key_pem: &str,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca", ca_pem)? {
        roots
            .add(certificate)
            .map_err(|e| TlsError::Ca(e.to_string()))?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|e| TlsError::Ca(e.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| TlsError::Pem {
        field: "key",
        reason: e.to_string(),
    })?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Pair)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates("certificate", cert_pem)?, key)
        .map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(field: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |reason: String| TlsError::Pem { field, reason };
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| bad(e.to_string()))?;
    if found.is_empty() {
        return Err(bad("there is no certificate in it".to_owned()));
    }
    Ok(found)
}

/// Who is on the other end, or what to tell them.
pub(super) type Caller = Result<Tenant, String>;

/// The tenant of a connection whose handshake is done: the organisation of its certificate's subject.
pub(super) fn caller(connection: &ServerConnection) -> Caller {
    let certificate = connection
        .peer_certificates()
        .and_then(|chain| chain.first())
        .ok_or("a client certificate signed by this node's owner is required")?;
    tenant(certificate)
}

fn tenant(certificate: &[u8]) -> Caller {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|e| format!("the client certificate can't be read: {e}"))?;
    let subject = certificate.subject();
    let mut organisations = subject.iter_organization();
    let (Some(organisation), None) = (organisations.next(), organisations.next()) else {
        return Err(format!(
            "the client certificate ({subject}) must have exactly one organisation (O) in its subject: it names the tenant"
        ));
    };
    let name = organisation
        .as_str()
        .map_err(|e| format!("the certificate's organisation is not text: {e}"))?;
    name.parse()
        .map_err(|e: crate::state::NameError| e.to_string())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn subject(organisations: &[&str]) -> Caller {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "somebody");
        for organisation in organisations {
            params
                .distinguished_name
                .push(DnType::OrganizationName, *organisation);
        }
        tenant(
            params
                .self_signed(&KeyPair::generate().unwrap())
                .unwrap()
                .der(),
        )
    }

    #[test]
    fn the_organisation_is_the_tenant() {
        assert_eq!(
            subject(&["Brave & Söhne"]).unwrap().as_str(),
            "Brave & Söhne"
        );
    }

    #[test]
    fn no_organisation_or_a_bad_one_is_nobody() {
        assert!(subject(&[]).unwrap_err().contains("organisation"));
        assert!(subject(&[""]).is_err());
        assert!(subject(&["a\nb"]).is_err());
        assert!(subject(&[&"x".repeat(65)]).is_err());
    }

    #[test]
    fn an_identity_that_cannot_be_read_names_the_field() {
        assert!(
            server_config("", "", "")
                .unwrap_err()
                .to_string()
                .contains("ca under")
        );
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_tenant_or_a_refusal(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..256)) {
            let _ = tenant(&bytes);
        }
    }
}
