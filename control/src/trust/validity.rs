//! From when to when a node's certificates are good.

use std::time::Duration;

use rustls::pki_types::UnixTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How long a node's certificate is valid. A node that was off for a fortnight comes back with the certificate that it has, for at least
/// two thirds of this are left whenever it goes; and what has been revoked need not be remembered for longer.
pub const LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long before it is made a certificate becomes valid: machines whose clock was set to local time are up to 14 hours behind.
pub(super) const BACKDATED: Duration = Duration::from_secs(24 * 60 * 60);
/// A certificate is renewed after this part of its life: what is left is time in which the cluster can be without a majority.
const RENEWED_AFTER: u64 = 3;

/// When a node should ask for the next one in place of this certificate (DER). None: it can't be read.
pub fn renew_at(certificate: &[u8]) -> Option<UnixTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    let begin = seconds(validity.not_before).saturating_add(BACKDATED.as_secs());
    let life = seconds(validity.not_after).saturating_sub(begin);
    Some(UnixTime::since_unix_epoch(Duration::from_secs(
        begin + life / RENEWED_AFTER,
    )))
}
