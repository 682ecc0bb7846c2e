//! Who may speak to this node, and who they are: mutual TLS under the owner's CA.
//!
//! A certificate is a server's or a client's, never both, and says which in its extended key usage (RFC 5280, section 4.2.1.12): were
//! it left open, whoever gets hold of a node, or of any server whose certificate the owner has signed, could command all nodes. TLS itself
//! takes a certificate without that extension for either, so it is checked here once more. Certificates between it and the CA are
//! checked by rustls: where they restrict the usage, they must allow it.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, Error, RootCertStore, ServerConfig, ServerConnection};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::state::Tenant;
use crate::trust::revocation::{Crl, CrlError};

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
    /// The certificate isn't one for servers alone.
    #[error(
        "hearth.toml: certificate under [identity] must have serverAuth, and nothing else, as its extendedKeyUsage: {0}; how to make one is in docs/hearth-toml.md"
    )]
    Purpose(String),
    /// Key and certificate don't fit, or are of a kind that isn't supported.
    #[error("hearth.toml: certificate and key under [identity] can't be used together: {0}")]
    Pair(Error),
}

/// Which clients are let in, and what they are shown. Cheap to clone; what is taken back counts for all clones.
#[derive(Clone)]
pub struct Clients(Arc<Inner>);

struct Inner {
    /// The owner's, PEM.
    ca: String,
    roots: Arc<RootCertStore>,
    shown: Arc<dyn ResolvesServerCert>,
    now: watch::Sender<Now>,
}

/// By what clients are held to now.
#[derive(Clone)]
struct Now {
    config: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
}

fn roots(ca_pem: &str) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca", ca_pem)? {
        roots
            .add(certificate)
            .map_err(|e| TlsError::Ca(e.to_string()))?;
    }
    Ok(Arc::new(roots))
}

impl Clients {
    /// From PEM: the owner's CA, the node's certificate (with its chain) and its key. Clients without a certificate of that CA don't get past the
    /// handshake.
    pub fn met_by(ca_pem: &str, cert_pem: &str, key_pem: &str) -> Result<Self, TlsError> {
        roots(ca_pem)?;
        let chain = certificates("certificate", cert_pem)?;
        check_server(&chain[0])?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| TlsError::Pem {
            field: "key",
            reason: e.to_string(),
        })?;
        let provider = rustls::crypto::ring::default_provider();
        let pair = CertifiedKey::from_der(chain, key, &provider).map_err(TlsError::Pair)?;
        Self::new(ca_pem, Arc::new(SingleCertAndKey::from(pair)))
    }

    /// The same for a node whose certificate is its cluster's to make, and to make again: what is shown is asked for in each handshake.
    pub fn met_showing(ca_pem: &str, shown: Arc<dyn ResolvesServerCert>) -> Result<Self, TlsError> {
        Self::new(ca_pem, shown)
    }

    fn new(ca_pem: &str, shown: Arc<dyn ResolvesServerCert>) -> Result<Self, TlsError> {
        let roots = roots(ca_pem)?;
        let now = watch::Sender::new(Now::of(&roots, &shown, &[])?);
        Ok(Self(Arc::new(Inner {
            ca: ca_pem.to_owned(),
            roots,
            shown,
            now,
        })))
    }

    /// A list that one of the owner's CAs has signed.
    pub fn read_list(&self, bytes: &[u8]) -> Result<Crl, CrlError> {
        Crl::parse(bytes, &self.0.ca)
    }

    /// From here on no certificate gets in that one of these lists takes back, and whoever is in with one is put out.
    pub fn revoke(&self, lists: &[Crl]) -> Result<(), TlsError> {
        let now = Now::of(&self.0.roots, &self.0.shown, lists)?;
        self.0.now.send_replace(now);
        Ok(())
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.now.borrow().config)
    }

    /// Returns once the certificate by which a connection got in has been taken back.
    pub(super) async fn revoked(&self, chain: Vec<CertificateDer<'static>>) {
        let mut now = self.0.now.subscribe();
        let Some((own, others)) = chain.split_first() else {
            return;
        };
        loop {
            let verifier = Arc::clone(&now.borrow_and_update().verifier);
            let verified = verifier.verify_client_cert(own, others, UnixTime::now());
            if let Err(Error::InvalidCertificate(CertificateError::Revoked)) = verified {
                return;
            }
            if now.changed().await.is_err() {
                return;
            }
        }
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clients")
    }
}

impl Now {
    /// A configuration of its own for each time: sessions that clients could resume, which aren't verified again, go with the last one.
    fn of(
        roots: &Arc<RootCertStore>,
        shown: &Arc<dyn ResolvesServerCert>,
        lists: &[Crl],
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let lists = lists.iter().map(|list| list.der().to_vec().into());
        // A CA that has no list has taken nothing back.
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider))
                .with_crls(lists)
                .allow_unknown_revocation_status()
                .build()
                .map_err(|e| TlsError::Ca(e.to_string()))?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Pair)?
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_cert_resolver(Arc::clone(shown));
        Ok(Self {
            config: Arc::new(speaking_http1(config)),
            verifier,
        })
    }
}

fn speaking_http1(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

pub(super) fn certificates(
    field: &'static str,
    pem: &str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |reason: String| TlsError::Pem { field, reason };
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| bad(e.to_string()))?;
    if found.is_empty() {
        return Err(bad("there is no certificate in it".to_owned()));
    }
    Ok(found)
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Server,
    Client,
}

/// That the certificate is for this role alone; otherwise what it is for.
fn check_role(certificate: &X509Certificate<'_>, role: Role) -> Result<(), String> {
    let usage = certificate
        .extended_key_usage()
        .map_err(|e| format!("it can't be read ({e})"))?
        .ok_or("it has none")?
        .value;
    match (usage.any, usage.server_auth, usage.client_auth) {
        (true, _, _) => Err("it has anyExtendedKeyUsage".to_owned()),
        (_, true, true) => Err("it has both serverAuth and clientAuth".to_owned()),
        (_, true, false) if role == Role::Server => Ok(()),
        (_, false, true) if role == Role::Client => Ok(()),
        (_, true, _) => Err("it has serverAuth".to_owned()),
        (_, _, true) => Err("it has clientAuth".to_owned()),
        _ => Err("it has others".to_owned()),
    }
}

fn check_server(certificate: &[u8]) -> Result<(), TlsError> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|e| TlsError::Purpose(format!("the certificate can't be read ({e})")))?;
    check_role(&certificate, Role::Server).map_err(TlsError::Purpose)
}

/// The tenant of a connection whose handshake is done, which is the organisation of its certificate's subject; or what to tell whoever
/// is there instead.
pub(crate) fn tenant(connection: &ServerConnection) -> Result<Tenant, String> {
    let certificate = connection
        .peer_certificates()
        .and_then(|chain| chain.first())
        .ok_or("a client certificate signed by this node's owner is required")?;
    named_in(certificate)
}

fn named_in(certificate: &[u8]) -> Result<Tenant, String> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|e| format!("the client certificate can't be read: {e}"))?;
    check_role(&certificate, Role::Client).map_err(|reason| {
        format!("the client certificate must have clientAuth, and not serverAuth, as its extendedKeyUsage: {reason}")
    })?;
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

/// Whatever a certificate says.
#[cfg(feature = "fuzzing")]
pub(super) fn read(certificate: &[u8]) {
    let _ = named_in(certificate);
    let _ = check_server(certificate);
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};

    use super::*;

    fn subject(organisations: &[&str]) -> Result<Tenant, String> {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "somebody");
        for organisation in organisations {
            params
                .distinguished_name
                .push(DnType::OrganizationName, *organisation);
        }
        named_in(
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
            Clients::met_by("", "", "")
                .unwrap_err()
                .to_string()
                .contains("ca under")
        );
    }

    #[test]
    fn a_certificate_has_one_role_and_says_which() {
        use ExtendedKeyUsagePurpose::{Any, ClientAuth, CodeSigning, ServerAuth};
        for (purposes, role) in [
            (vec![ServerAuth], Some(Role::Server)),
            (vec![ClientAuth], Some(Role::Client)),
            (vec![ClientAuth, CodeSigning], Some(Role::Client)),
            (vec![ServerAuth, ClientAuth], None),
            (vec![Any], None),
            (vec![Any, ClientAuth], None),
            (vec![CodeSigning], None),
            (vec![], None),
        ] {
            let mut params = CertificateParams::default();
            params.extended_key_usages = purposes.clone();
            let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            let (_, certificate) = X509Certificate::from_der(made.der()).unwrap();
            for asked in [Role::Server, Role::Client] {
                assert_eq!(
                    check_role(&certificate, asked).is_ok(),
                    role == Some(asked),
                    "{purposes:?}"
                );
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_tenant_or_a_refusal(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..256)) {
            let _ = named_in(&bytes);
        }
    }
}
