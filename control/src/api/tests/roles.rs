//! Who gets an answer: clients of the owner's CA, and nobody else.

use hyper::StatusCode;
use rcgen::ExtendedKeyUsagePurpose;

use super::node::{Ca, run, server};

#[test]
fn a_client_without_a_certificate_of_the_owners_ca_gets_no_answer() {
    run(async {
        let server = server().await;
        let (certificate, key) = Ca::new().issue(Some("owner"));
        let foreign = (vec![certificate.der().clone()], key);
        for identity in [None, Some(foreign)] {
            assert_eq!(server.told(identity).await, b"");
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
        let (certificate, key) = server.ca.issue_for(Some("owner"), &[ServerAuth]);
        let identity = (vec![certificate.der().clone()], key);
        assert_eq!(server.told(Some(identity)).await, b"");
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
        assert_eq!(server.told(Some((chain, key))).await, b"");
        let between = server.ca.intermediate(ExtendedKeyUsagePurpose::ClientAuth);
        let (certificate, key) = between.issue(Some("owner"));
        let chain = vec![certificate.der().clone(), between.certificate.der().clone()];
        let mut client = server.connect_with(Some((chain, key))).await.unwrap();
        assert_eq!(client.get("/version").await.0, StatusCode::OK);
    });
}
