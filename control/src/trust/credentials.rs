//! The certificate that a node shows: the next one takes its place while listeners and connections go on.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::NodeKey;

/// What is shown in handshakes from now on; none at first, and then handshakes that need one fail.
#[derive(Debug, Default)]
pub struct Credentials {
    /// Protects which one it is; held for the copy of a pointer.
    shown: RwLock<Option<Arc<CertifiedKey>>>,
}

/// A chain can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Of another key, or no certificate at all.
    #[error("the certificate isn't of this node's key: {0}")]
    Pair(rustls::Error),
}

impl Credentials {
    /// Shows a certificate of this key, and those between it and the owner's CA.
    pub fn show(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &NodeKey,
    ) -> Result<(), CredentialsError> {
        let signing = key.signing_key().map_err(CredentialsError::Pair)?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(CredentialsError::Pair)?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
        Ok(())
    }

    /// The certificate that is shown, DER: to know when to renew it ([`super::renew_at`]).
    pub fn certificate(&self) -> Option<CertificateDer<'static>> {
        self.current()?.cert.first().cloned()
    }

    fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.shown
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        self.current().is_some()
    }
}
