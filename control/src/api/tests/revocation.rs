//! Certificates that the owner's CA has taken back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::{Method, StatusCode};
use rcgen::SerialNumber;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::node::{Ca, Chain, Client, Server, read, run, server};
use crate::api::tls::certificates;
use crate::trust::revocation::Crl;

async fn hand_over(client: &mut Client, list: &[u8]) -> (StatusCode, Value) {
    let body = json!({ "Name": "revoked", "Data": STANDARD.encode(list) });
    client.post("/configs/create", body).await
}

async fn is_let_in(server: &Server, identity: Option<Chain>) -> bool {
    let mut client = server.connect_with(identity).await.unwrap();
    client.get("/_ping").await.0 == StatusCode::OK
}

/// As a node does what its state says.
fn apply(server: &Server) {
    let crls = server.controller.state().cluster.crls.clone();
    let lists = crls.iter().map(|list| server.clients.read_list(list));
    let lists: Vec<Crl> = lists.collect::<Result<_, _>>().unwrap();
    server.clients.revoke(&lists).unwrap();
}

#[test]
fn who_shows_what_was_taken_back_is_put_out_and_stays_out_and_nobody_else() {
    run(async {
        let server = server().await;
        let mut owner = server.client("owner").await;
        let gone = |number| {
            let (certificate, key) = server.ca.issue_of("acme", SerialNumber::from(number));
            Some((vec![certificate.der().clone()], key))
        };
        let key = |chain: &Option<Chain>| {
            let (chain, key) = chain.as_ref().unwrap();
            let key = rcgen::KeyPair::from_pem(&key.serialize_pem()).unwrap();
            Some((chain.clone(), key))
        };
        let (gone, stays) = (gone(7_u64), gone(8));
        let mut inside = server.stream(key(&gone)).await.unwrap();
        let mut beside = server.connect_with(key(&stays)).await.unwrap();
        inside
            .write_all(b"GET /events HTTP/1.1\r\nhost: node\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0; 1];
        inside.read_exact(&mut first).await.unwrap();

        let list = server.ca.list(3, &[7]);
        let (status, answer) = hand_over(&mut owner, list.as_bytes()).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        apply(&server);
        let mut rest = Vec::new();
        // How it ends is the system's to choose.
        let _ = inside.read_to_end(&mut rest).await;
        assert!(server.told(key(&gone)).await.is_empty());
        assert_eq!(beside.get("/_ping").await.0, StatusCode::OK);
        assert!(is_let_in(&server, stays).await);

        // Lists are of the owner's CA, and give way to later ones alone.
        for (list, status) in [
            (list.clone(), StatusCode::CREATED),
            (server.ca.list(2, &[]), StatusCode::CONFLICT),
            (Ca::new().list(9, &[]), StatusCode::BAD_REQUEST),
            ("a: b".to_owned(), StatusCode::SERVICE_UNAVAILABLE),
        ] {
            let (found, answer) = hand_over(&mut owner, list.as_bytes()).await;
            assert_eq!(found, status, "{answer}");
        }
        let (_, shown) = owner.get("/configs").await;
        let id = shown[0]["ID"].as_str().unwrap();
        assert_eq!(answer["ID"], id);
        let path = format!("/configs/{id}");
        assert_eq!(owner.get(&path).await.1["Spec"], shown[0]["Spec"]);
        let removed = owner.send(Method::DELETE, &path, "", &[]).await.unwrap();
        assert_eq!(read(removed).await.0, StatusCode::CONFLICT);
        assert_eq!(owner.get("/configs/other").await.0, StatusCode::NOT_FOUND);
        let mut tenant = server.client("acme").await;
        let later = server.ca.list(4, &[]);
        let (status, _) = hand_over(&mut tenant, later.as_bytes()).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        assert_ne!(tenant.get("/configs").await.0, StatusCode::OK);

        let (status, _) = hand_over(&mut owner, later.as_bytes()).await;
        assert_eq!(status, StatusCode::CREATED);
        apply(&server);
        assert!(is_let_in(&server, key(&gone)).await);
    });
}

#[test]
fn a_ca_below_the_owners_is_taken_back_with_all_that_it_has_signed() {
    run(async {
        let server = server().await;
        let below = server
            .ca
            .intermediate(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
        let (certificate, key) = below.issue(Some("acme"));
        let chain = || {
            let der = [&certificate, &below.certificate].map(|one| one.der().clone());
            let key = rcgen::KeyPair::from_pem(&key.serialize_pem()).unwrap();
            Some((der.to_vec(), key))
        };
        assert!(is_let_in(&server, chain()).await);
        let pem = below.certificate.pem();
        let der = certificates("ca", &pem).unwrap();
        let (_, read) = x509_parser::parse_x509_certificate(&der[0]).unwrap();
        let serial = SerialNumber::from_slice(read.raw_serial());
        let list = server.ca.list_of(1, &[serial]);
        let list = server.clients.read_list(list.as_bytes()).unwrap();
        server.clients.revoke(&[list]).unwrap();
        assert!(server.told(chain()).await.is_empty());
    });
}
