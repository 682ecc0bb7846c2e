//! Nodes aren't users, and users aren't nodes, whatever an issuer signs.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::api;

/// Room of a connection in memory, bytes: more than a handshake has.
const ROOM: usize = 64 << 10;

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What a client hears of a Docker API with the node's certificate, when it shows a certificate.
async fn ask_docker(owner: &Owner, server: &(String, String), client: Pair) -> Result<(), String> {
    let config = api::Clients::met_by(&owner.ca, &server.0, &server.1).unwrap();
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(owner.ca.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(client.0, client.1)
        .unwrap();
    let (near, far) = tokio::io::duplex(ROOM);
    let dial = async {
        let connector = TlsConnector::from(Arc::new(client));
        let name = "hearth-1".try_into().unwrap();
        let mut stream = connector
            .connect(name, near)
            .await
            .map_err(|e| e.to_string())?;
        stream.read_u8().await.map_err(|e| e.to_string())
    };
    let answer = async {
        let acceptor = TlsAcceptor::from(config.config());
        let mut stream = acceptor.accept(far).await.map_err(|e| e.to_string())?;
        api::tls::tenant(stream.get_ref().1)?;
        stream.write_all(b"b").await.map_err(|e| e.to_string())?;
        stream.flush().await.map_err(|e| e.to_string())
    };
    let (dialled, answered) = tokio::join!(dial, answer);
    answered?;
    dialled.map(|_| ())
}

/// A server's certificate by the issuer, which clients know by the owner's CA alone; PEM.
fn server(issuer: &Issuer) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let chain = issuer
        .sign_server(
            request.der(),
            &["hearth-1".to_owned()],
            &["192.0.2.1".parse().unwrap()],
            UnixTime::now(),
        )
        .unwrap();
    let pem = chain.iter().map(|one| issuer::pem_of(one)).collect();
    (pem, key.serialize_pem())
}

/// A certificate for a purpose, by the owner or by whoever has the issuer's key; the chain as it would be sent.
fn minted(
    signer: &rcgen::Issuer<'_, KeyPair>,
    chain: &[CertificateDer<'static>],
    purposes: &[ExtendedKeyUsagePurpose],
) -> Pair {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "owner");
    params.extended_key_usages = purposes.to_vec();
    let key = KeyPair::generate().unwrap();
    let mut sent = vec![params.signed_by(&key, signer).unwrap().der().clone()];
    sent.extend(chain.iter().cloned());
    (sent, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

#[tokio::test]
async fn docker_clients_know_a_node_by_the_issuers_certificate() {
    let owner = Owner::new();
    let issuer = owner.issuer();
    let user = minted(&owner.signer, &[], &[ExtendedKeyUsagePurpose::ClientAuth]);
    assert_eq!(ask_docker(&owner, &server(&issuer), user).await, Ok(()));
}

#[tokio::test]
async fn no_issuer_can_mint_a_user() {
    let owner = Owner::new();
    let (certificate, key) = owner.pair(&Shape::default());
    let issuer = Issuer::parse(&certificate, &key, &owner.ca, at(NOW)).unwrap();
    let chain = [CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let thief =
        rcgen::Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(&key).unwrap()).unwrap();
    for purposes in [
        &[ExtendedKeyUsagePurpose::ClientAuth][..],
        &[ExtendedKeyUsagePurpose::ClientAuth, peers()],
        &[ExtendedKeyUsagePurpose::Any],
        &[],
    ] {
        let user = minted(&thief, &chain, purposes);
        let answer = ask_docker(&owner, &server(&issuer), user).await;
        assert!(answer.is_err(), "{purposes:?}");
    }
}

#[tokio::test]
async fn a_nodes_certificates_are_no_users() {
    let owner = Owner::new();
    let issuer = owner.issuer();
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let now = UnixTime::now();
    let cluster = ClusterId([1; 16]);
    for chain in [
        issuer
            .sign_peer(request.der(), cluster, NodeId(1), now)
            .unwrap(),
        issuer.sign_server(request.der(), &[], &[], now).unwrap(),
    ] {
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let answer = ask_docker(&owner, &server(&issuer), (chain, key)).await;
        assert!(answer.is_err());
    }
}

#[test]
fn users_and_servers_are_no_peers() {
    let owner = Owner::new();
    let issuer = owner.issuer();
    let ca = issuer_digest(&CertificateDer::from_pem_slice(owner.ca.as_bytes()).unwrap());
    // Even where the CA itself counts as an issuer.
    let anchor = Anchor::new(&owner.ca, [issuer.digest(), ca.unwrap()]).unwrap();
    let key = NodeKey::generate().unwrap();
    let server = issuer
        .sign_server(&key.request().unwrap(), &[], &[], at(NOW))
        .unwrap();
    let error = anchor
        .verify(&server[0], &server[1..], at(NOW))
        .unwrap_err();
    assert!(matches!(error, Refusal::Certificate(_)), "{error}");
    for purposes in [
        &[ExtendedKeyUsagePurpose::ClientAuth][..],
        &[ExtendedKeyUsagePurpose::Any],
        &[],
    ] {
        let (user, _) = minted(&owner.signer, &[], purposes);
        let error = anchor.verify(&user[0], &[], at(NOW)).unwrap_err();
        assert!(matches!(error, Refusal::Certificate(_)), "{error}");
    }
    // With the usage of peers, and no name of one.
    let (nameless, _) = minted(&owner.signer, &[], &[peers()]);
    assert_eq!(
        anchor.verify(&nameless[0], &[], at(NOW)),
        Err(Refusal::Nameless)
    );
}
