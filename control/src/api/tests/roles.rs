//! Who gets an answer: clients of the owner's CA, and nobody else.

use hyper::{Method, StatusCode};
use rcgen::ExtendedKeyUsagePurpose;

use super::node::{Ca, run, server};

#[test]
fn a_client_without_a_certificate_of_the_owners_ca_gets_no_answer() {
    run(async {
        let server = server().await;
        for identity in [None, Some(Ca::new().issue(Some("owner")))] {
            // TLS 1.3 tells a client of its refusal with the first thing it reads.
            if let Ok(mut client) = server.connect(identity).await {
                assert!(client.send(Method::GET, "/_ping", "", &[]).await.is_err());
            }
        }
    });
}

#[test]
fn a_certificate_without_a_tenant_is_told_what_it_lacks() {
    run(async {
        let server = server().await;
        let mut client = server.connect(Some(server.ca.issue(None))).await.unwrap();
        let (status, answer) = client.get("/v1.41/containers/json").await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        assert!(answer["message"].as_str().unwrap().contains("organisation"));
    });
}

#[test]
fn a_servers_certificate_commands_nothing_and_one_of_both_roles_neither() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    run(async {
        let server = server().await;
        let identity = server.ca.issue_for(Some("owner"), &[ServerAuth]);
        if let Ok(mut client) = server.connect(Some(identity)).await {
            let answer = client.send(Method::GET, "/_ping", "", &[]).await;
            assert!(answer.is_err(), "{answer:?}");
        }
        for purposes in [&[][..], &[ServerAuth, ClientAuth][..]] {
            let identity = server.ca.issue_for(Some("owner"), purposes);
            let mut client = server.connect(Some(identity)).await.unwrap();
            let (status, answer) = client.get("/containers/json").await;
            assert_eq!(status, StatusCode::FORBIDDEN);
            let message = answer["message"].as_str().unwrap();
            assert!(message.contains("extendedKeyUsage"), "{message}");
        }
    });
}

#[test]
fn a_node_does_not_take_a_certificate_that_is_not_a_servers_alone() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let ca = Ca::new();
    assert!(ca.server_config(&[ServerAuth]).is_ok());
    for purposes in [&[][..], &[ClientAuth][..], &[ServerAuth, ClientAuth][..]] {
        let refused = ca.server_config(purposes).unwrap_err().to_string();
        assert!(
            refused.contains("certificate under [identity] must have serverAuth"),
            "{refused}"
        );
    }
}

#[test]
fn a_ca_that_may_only_issue_servers_certificates_makes_no_client() {
    run(async {
        let server = server().await;
        let between = server.ca.intermediate(ExtendedKeyUsagePurpose::ServerAuth);
        let mut chain = vec![between.certificate.der().clone()];
        let (certificate, key) = between.issue(Some("owner"));
        chain.insert(0, certificate.der().clone());
        if let Ok(mut client) = server.connect_with(Some((chain, key))).await {
            let answer = client.send(Method::GET, "/_ping", "", &[]).await;
            assert!(answer.is_err(), "{answer:?}");
        }
        let between = server.ca.intermediate(ExtendedKeyUsagePurpose::ClientAuth);
        let (certificate, key) = between.issue(Some("owner"));
        let chain = vec![certificate.der().clone(), between.certificate.der().clone()];
        let mut client = server.connect_with(Some((chain, key))).await.unwrap();
        assert_eq!(client.get("/version").await.0, StatusCode::OK);
    });
}
