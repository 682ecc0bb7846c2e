//! Certificates, of clients and of the owner.

use super::tls;

/// A certificate as TLS hands it over, or the texts of `[identity]`.
pub fn certificate(bytes: &[u8]) {
    tls::read(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = tls::Clients::met_by(text, text, text);
    }
}
