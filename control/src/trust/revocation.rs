//! Which certificates the owner's CA has taken back: certificate revocation lists (RFC 5280, section 5).
//!
//! A list is as good as the signature on it, whoever brings it, and nothing but a later one of the same CA takes its place: by the number
//! that the CA counts its lists with, and the date where it doesn't. One whose next update is overdue still counts: what was taken back stays so.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

/// Bytes of a list, DER: some seven thousand certificates, of an owner who makes them by hand. Every node keeps it in memory, and each
/// change of the cluster as a whole writes it twice.
pub const CRL_MAX: usize = 256 << 10;

/// A list that one of the owner's CAs has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crl {
    der: Vec<u8>,
    /// SHA-256 of the public key that has signed it.
    ca: [u8; 32],
    /// Later ones are greater: the number, big endian without leading zeros, behind its length; then seconds since the Unix epoch.
    rank: (usize, Vec<u8>, i64),
}

/// Why a list takes nothing back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    /// No list.
    #[error("this is no certificate revocation list: {0}")]
    Unreadable(String),
    /// Too much of it.
    #[error("a certificate revocation list of more than {} KiB isn't kept: leave out of it what has expired", CRL_MAX >> 10)]
    TooLong,
    /// Somebody else's.
    #[error(
        "this certificate revocation list isn't signed by a ca under [identity] in hearth.toml"
    )]
    Stranger,
    /// What counts is another.
    #[error(
        "this certificate revocation list isn't later than the one that counts: its number must be greater (`crlnumber` of openssl), or without a number its date"
    )]
    Stale,
}

impl Crl {
    /// From PEM or DER, signed by one of these CAs (PEM).
    pub fn parse(bytes: &[u8], cas: &str) -> Result<Self, CrlError> {
        let unreadable = |reason: String| CrlError::Unreadable(reason);
        let der = match bytes.first() {
            // ASN.1's SEQUENCE; PEM begins with text.
            Some(0x30) => bytes.to_vec(),
            _ => rustls::pki_types::CertificateRevocationListDer::from_pem_slice(bytes)
                .map_err(|error| unreadable(error.to_string()))?
                .to_vec(),
        };
        if der.len() > CRL_MAX {
            return Err(CrlError::TooLong);
        }
        // What verifies clients by it understands it.
        webpki::BorrowedCertRevocationList::from_der(&der)
            .and_then(|list| list.to_owned().map(drop))
            .map_err(|error| unreadable(error.to_string()))?;
        let (rest, list) = CertificateRevocationList::from_der(&der)
            .map_err(|error| unreadable(error.to_string()))?;
        if !rest.is_empty() {
            return Err(unreadable("something follows it".to_owned()));
        }
        let cas = CertificateDer::pem_slice_iter(cas.as_bytes()).filter_map(Result::ok);
        let signer = cas.into_iter().find_map(|ca| {
            let (_, ca) = X509Certificate::from_der(&ca).ok()?;
            let named = ca.subject().as_raw() == list.issuer().as_raw();
            let signed = named && list.verify_signature(ca.public_key()).is_ok();
            signed.then(|| Sha256::digest(ca.public_key().raw).into())
        });
        let number = list.crl_number().map(|number| number.to_bytes_be());
        let number = number.filter(|number| *number != [0]).unwrap_or_default();
        let rank = (number.len(), number, list.last_update().timestamp());
        Ok(Self {
            ca: signer.ok_or(CrlError::Stranger)?,
            rank,
            der,
        })
    }

    /// All lists in a text of PEM.
    pub fn parse_all(pem: &str, cas: &str) -> Result<Vec<Self>, CrlError> {
        use rustls::pki_types::CertificateRevocationListDer as Der;
        let lists = Der::pem_slice_iter(pem.as_bytes()).map(|list| {
            let list = list.map_err(|error| CrlError::Unreadable(error.to_string()))?;
            Self::parse(&list, cas)
        });
        let lists: Vec<Self> = lists.collect::<Result<_, _>>()?;
        match lists.is_empty() && !pem.trim().is_empty() {
            true => Err(CrlError::Unreadable("there is none in it".to_owned())),
            false => Ok(lists),
        }
    }

    /// As it was signed.
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

/// One list of each CA: the latest.
pub fn newest(lists: impl IntoIterator<Item = Crl>) -> Vec<Crl> {
    let mut found: Vec<Crl> = Vec::new();
    for list in lists {
        match found.iter_mut().find(|known| known.ca == list.ca) {
            Some(known) if known.rank < list.rank => *known = list,
            Some(_) => {}
            None => found.push(list),
        }
    }
    found
}

/// These lists with one more; None: that one is among them. Refused where a later one is.
pub fn with(known: &[Crl], list: Crl) -> Result<Option<Vec<Crl>>, CrlError> {
    let same = known.iter().find(|known| known.ca == list.ca);
    match same {
        Some(known) if *known == list => Ok(None),
        Some(known) if known.rank >= list.rank => Err(CrlError::Stale),
        _ => Ok(Some(newest(known.iter().cloned().chain([list])))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
        KeyIdMethod, KeyPair, SerialNumber, date_time_ymd,
    };

    use super::*;

    struct Ca(Issuer<'static, KeyPair>, String);

    fn ca(name: &str) -> Ca {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Ca(Issuer::new(params, key), pem)
    }

    impl Ca {
        fn list(&self, number: u64, year: i32) -> String {
            let params = CertificateRevocationListParams {
                this_update: date_time_ymd(year, 1, 1),
                next_update: date_time_ymd(year + 1, 1, 1),
                crl_number: SerialNumber::from(number),
                issuing_distribution_point: None,
                revoked_certs: Vec::new(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            params.signed_by(&self.0).unwrap().pem().unwrap()
        }
    }

    #[test]
    fn a_list_counts_by_its_signature_and_gives_way_to_later_ones_alone() {
        let (owner, other) = (ca("owner"), ca("other"));
        // Of the same name, with another key.
        let forger = ca("owner");
        let both = format!("{}{}", other.1, owner.1);
        let parse = |text: &str| Crl::parse(text.as_bytes(), &both);
        assert_eq!(parse(&forger.list(9, 2030)), Err(CrlError::Stranger));
        let five = parse(&owner.list(5, 2030)).unwrap();
        assert_eq!(Crl::parse(five.der(), &both).as_ref(), Ok(&five));
        let known = with(&[], five.clone()).unwrap().unwrap();
        assert_eq!(with(&known, five.clone()), Ok(None));
        for stale in [
            owner.list(4, 2031),
            owner.list(5, 2029),
            owner.list(5, 2030),
        ] {
            let stale = parse(&stale).unwrap();
            if stale != five {
                assert_eq!(with(&known, stale), Err(CrlError::Stale));
            }
        }
        let later = parse(&owner.list(256, 2029)).unwrap();
        let known = with(&known, later.clone()).unwrap().unwrap();
        assert_eq!(known, std::slice::from_ref(&later));
        let others = parse(&other.list(1, 2030)).unwrap();
        let known = with(&known, others.clone()).unwrap().unwrap();
        assert_eq!(known, [later.clone(), others.clone()]);
        assert_eq!(
            newest([five, others.clone(), later.clone()]),
            [later, others]
        );
    }

    #[test]
    fn what_openssl_makes_by_the_documentation_is_a_list() {
        let ca = include_str!("testdata/owner-ca.pem");
        let list = include_str!("testdata/owner-crl.pem");
        let read = Crl::parse(list.as_bytes(), ca).unwrap();
        assert_eq!(read.rank.1, [1]);
        let list = webpki::BorrowedCertRevocationList::from_der(read.der()).unwrap();
        assert_eq!(list.into_iter().count(), 1);
    }

    #[test]
    fn what_is_no_list_or_was_changed_is_refused() {
        let owner = ca("owner");
        let list = Crl::parse(owner.list(1, 2030).as_bytes(), &owner.1).unwrap();
        for at in 0..list.der().len() {
            let mut flipped = list.der().to_vec();
            flipped[at] ^= 1;
            assert!(Crl::parse(&flipped, &owner.1).is_err(), "{at}");
            assert!(Crl::parse(&list.der()[..at], &owner.1).is_err(), "{at}");
        }
        assert!(Crl::parse(owner.1.as_bytes(), &owner.1).is_err());
        let two = format!("{}{}", owner.list(1, 2030), owner.list(2, 2030));
        assert_eq!(Crl::parse_all(&two, &owner.1).unwrap().len(), 2);
        assert_eq!(Crl::parse_all(" ", &owner.1), Ok(Vec::new()));
        assert!(Crl::parse_all(&owner.1, &owner.1).is_err());
        let long = [&[0x30_u8][..], &vec![0; CRL_MAX]].concat();
        assert_eq!(Crl::parse(&long, &owner.1), Err(CrlError::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_list_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            assert!(Crl::parse(&bytes, "").is_err());
        }
    }
}
