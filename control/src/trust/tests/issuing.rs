//! Which issuers are taken, and what they make.

use ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
use proptest::prelude::*;
use rcgen::SanType;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::*;

fn refusal(shape: &Shape) -> String {
    Owner::new().try_issuer(shape).unwrap_err().to_string()
}

#[test]
fn an_issuer_makes_nodes_and_nothing_else() {
    assert!(Owner::new().try_issuer(&Shape::default()).is_ok());
    for (purposes, fault) in [
        (vec![ServerAuth, ClientAuth, peers()], "has clientAuth"),
        (vec![Any], "has anyExtendedKeyUsage"),
        (vec![ServerAuth, peers(), Any], "has anyExtendedKeyUsage"),
        (vec![peers()], "lacks serverAuth"),
        (vec![ServerAuth], "lacks the usage of peers"),
        (vec![], "it has none"),
    ] {
        let error = refusal(&Shape {
            purposes,
            ..Shape::default()
        });
        assert!(error.contains(fault) && error.contains("docs/"), "{error}");
    }
}

#[test]
fn an_issuer_is_a_valid_authority_below_the_owners() {
    let error = refusal(&Shape {
        is_ca: IsCa::ExplicitNoCa,
        ..Shape::default()
    });
    assert!(error.contains("no certificate authority"), "{error}");
    let error = refusal(&Shape {
        until: 2029,
        ..Shape::default()
    });
    assert!(error.contains("expired"), "{error}");
    let owner = Owner::new();
    let (certificate, key) = owner.pair(&Shape::default());
    let parse = |certificate: &str, key: &str, ca: &str| {
        Issuer::parse(certificate, key, ca, at(NOW)).unwrap_err()
    };
    let error = parse(&certificate, &key, &Owner::new().ca);
    assert!(matches!(error, IssuerError::Untrusted(_)), "{error}");
    let error = parse(&certificate, &owner.pair(&Shape::default()).1, &owner.ca);
    assert!(matches!(error, IssuerError::Pair), "{error}");
    let error = parse(&owner.ca, &key, &owner.ca);
    assert!(error.to_string().contains("owner's CA itself"), "{error}");
    for (certificate, key, field) in [
        ("", key.as_str(), "issuer_certificate"),
        (&certificate, "", "issuer_key"),
        (
            &certificate,
            "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n",
            "openssl pkcs8",
        ),
    ] {
        let error = parse(certificate, key, &owner.ca).to_string();
        assert!(error.contains(field), "{error}");
    }
}

#[test]
fn an_owner_who_allows_no_issuer_is_told_so() {
    let owner = Owner::with(BasicConstraints::Constrained(0));
    let error = owner.try_issuer(&Shape::default()).unwrap_err();
    assert!(matches!(error, IssuerError::PathLength(0)), "{error}");
    let owner = Owner::with(BasicConstraints::Constrained(1));
    assert!(owner.try_issuer(&Shape::default()).is_ok());
}

#[test]
fn an_issuer_with_the_owners_certificate_behind_it_sends_only_its_own() {
    let owner = Owner::new();
    let (certificate, key) = owner.pair(&Shape::default());
    let both = certificate + &owner.ca;
    let issuer = Issuer::parse(&both, &key, &owner.ca, at(NOW)).unwrap();
    let request = NodeKey::generate().unwrap().request().unwrap();
    let chain = issuer.sign_server(&request, &[], &[], at(NOW)).unwrap();
    assert_eq!(chain.len(), 2);
}

#[test]
fn of_a_request_only_the_key_is_taken() {
    let issuer = Owner::new().issuer();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["other".to_owned()]).unwrap();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "owner");
    params.extended_key_usages = vec![ClientAuth];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .subject_alt_names
        .push(SanType::URI("hearth://00/node/00".try_into().unwrap()));
    let request = params.serialize_request(&key).unwrap();
    let peer = Peer {
        cluster: ClusterId([7; 16]),
        node: NodeId(7),
    };
    let chain = issuer
        .sign_peer(request.der(), peer.cluster, peer.node, at(NOW))
        .unwrap();
    let (_, made) = X509Certificate::from_der(&chain[0]).unwrap();
    assert!(!made.is_ca());
    assert_eq!(made.subject().iter_organization().count(), 0);
    let usage = made.extended_key_usage().unwrap().unwrap().value;
    assert!(!usage.client_auth && !usage.server_auth && !usage.any);
    assert_eq!(usage.other.len(), 1);
    let names = &made
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert_eq!(names[..], [GeneralName::URI(&peer.to_string())]);
}

#[test]
fn requests_that_prove_nothing_are_refused() {
    let issuer = Owner::new().issuer();
    let sign = |request: &[u8]| {
        issuer
            .sign_peer(request, ClusterId([0; 16]), NodeId(0), at(NOW))
            .map(|_| ())
            .unwrap_err()
    };
    let mut request = NodeKey::generate().unwrap().request().unwrap();
    let last = request.len() - 1;
    request[last] ^= 1;
    assert!(matches!(sign(&request), IssuerError::Request(_)));
    assert!(matches!(sign(&[0; 5000]), IssuerError::Request(_)));
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let request = CertificateParams::default()
        .serialize_request(&other)
        .unwrap();
    assert!(sign(request.der()).to_string().contains("P-256"));
}

#[test]
fn a_server_has_names_that_can_be_dialled() {
    let issuer = Owner::new().issuer();
    let request = NodeKey::generate().unwrap().request().unwrap();
    let addresses = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    let chain = issuer
        .sign_server(&request, &["hearth-1".to_owned()], &addresses, at(NOW))
        .unwrap();
    let (_, made) = X509Certificate::from_der(&chain[0]).unwrap();
    let usage = made.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth && usage.other.is_empty());
    let names = made.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 3);
    for bad in ["", "a b", "é", "a\n"] {
        let error = issuer
            .sign_server(&request, &[bad.to_owned()], &[], at(NOW))
            .unwrap_err();
        assert!(matches!(error, IssuerError::Name(_)), "{error}");
    }
}

#[test]
fn certificates_last_a_while_and_are_renewed_early() {
    let issuer = Owner::new().issuer();
    let request = NodeKey::generate().unwrap().request().unwrap();
    let sign = |now| issuer.sign_server(&request, &[], &[], now);
    let chain = sign(at(NOW)).unwrap();
    let third = LIFETIME.as_secs() / 3;
    assert_eq!(renew_at(&chain[0]), Some(at(NOW + third)));
    let again = sign(at(NOW)).unwrap();
    assert_ne!(fingerprint(&chain[0]), fingerprint(&again[0]));
    // What an issuer makes in its last days ends with it.
    let end = issuer.not_after().as_secs();
    let late = sign(at(end - 3000)).unwrap();
    assert_eq!(renew_at(&late[0]), Some(at(end - 2000)));
    assert!(matches!(sign(at(end)), Err(IssuerError::Expired)));
    assert!(sign(at(u64::MAX)).is_err());
}

#[test]
fn the_issuer_is_the_same_after_it_was_sealed() {
    let owner = Owner::new();
    let issuer = owner.issuer();
    let stick = ClusterSecret::new("9f86d081884c7d659a2feaa0c55ad015").unwrap();
    let sealed = issuer.seal(&stick.seal_key());
    let open = |key: &SealKey, ca: &str| Issuer::unseal(key, &sealed, ca, at(NOW));
    let opened = open(&stick.seal_key(), &owner.ca).unwrap();
    assert_eq!(opened.digest(), issuer.digest());
    assert!(matches!(
        open(&UnlockKey::random().seal_key(), &owner.ca),
        Err(IssuerError::Sealed(SealError::Key))
    ));
    assert!(matches!(
        open(&stick.seal_key(), &Owner::new().ca),
        Err(IssuerError::Untrusted(_))
    ));
    let garbage = stick.seal_key().seal(Purpose::Issuer, b"garbage");
    assert!(matches!(
        Issuer::unseal(&stick.seal_key(), &garbage, &owner.ca, at(NOW)),
        Err(IssuerError::Sealed(SealError::Content))
    ));
}

#[test]
fn the_usage_of_peers_is_the_same_everywhere() {
    let arcs: Vec<_> = PEER_USAGE_ARCS.iter().map(u64::to_string).collect();
    assert_eq!(arcs.join("."), PEER_USAGE);
    let oid = x509_parser::oid_registry::Oid::from(&PEER_USAGE_ARCS).unwrap();
    assert_eq!(oid.as_bytes(), PEER_USAGE_DER);
    // What owners copy, and what trials are made with.
    assert!(include_str!("../../../../docs/hearth-toml.md").contains(PEER_USAGE));
    let listed: Vec<_> = include_str!("../../../../xtask/src/identity.rs")
        .split_once("PEER_USAGE: &[u64] = &[")
        .and_then(|(_, rest)| rest.split_once(']'))
        .map(|(list, _)| list.replace('_', ""))
        .unwrap()
        .split(',')
        .map(|arc| arc.trim().to_owned())
        .filter(|arc| !arc.is_empty())
        .collect();
    assert_eq!(listed, arcs);
}

proptest! {
    #[test]
    fn any_bytes_are_a_request_or_a_refusal(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        thread_local!(static ISSUER: Issuer = Owner::new().issuer());
        let signed = ISSUER.with(|issuer| issuer.sign_peer(&bytes, ClusterId([0; 16]), NodeId(0), at(NOW)).is_ok());
        prop_assert!(!signed);
    }

    #[test]
    fn a_request_with_a_flipped_bit_is_refused_or_for_the_same_key(at_byte in any::<proptest::sample::Index>(), bit in 0..8u32) {
        thread_local!(static ISSUER: Issuer = Owner::new().issuer());
        let mut request = NodeKey::generate().unwrap().request().unwrap();
        let sign = |request: &[u8]| ISSUER.with(|issuer| issuer.sign_server(request, &[], &[], at(NOW)));
        let key = |chain: &[CertificateDer<'_>]| issuer_digest(&chain[0]).unwrap();
        let right = key(&sign(&request).unwrap());
        let at_byte = at_byte.index(request.len());
        request[at_byte] ^= 1 << bit;
        if let Ok(chain) = sign(&request) {
            prop_assert_eq!(key(&chain), right);
        }
    }

    #[test]
    fn any_bytes_are_no_peers_certificate(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        thread_local!(static ANCHOR: Anchor = Anchor::new(&Owner::new().ca, []).unwrap());
        let refused = ANCHOR.with(|anchor| anchor.verify(&bytes.clone().into(), &[bytes.clone().into()], at(NOW)).is_err());
        prop_assert!(refused);
        prop_assert!(renew_at(&bytes).is_none() && issuer_digest(&bytes).is_none());
    }
}
