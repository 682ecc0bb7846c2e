//! What is said last is heard, even by clients that look for an answer only when they have sent everything.

use rcgen::ExtendedKeyUsagePurpose;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::node::{Chain, Server, run, server};
use crate::api::HEAD_MAX;

/// More than sockets hold back by themselves.
const MUCH: usize = 16 << 20;

/// Sends all of it, then reads to the end.
async fn exchange(
    server: &Server,
    identity: Option<Chain>,
    request: &[u8],
) -> std::io::Result<String> {
    let mut stream = server.stream(identity).await?;
    stream.write_all(request).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8(answer).unwrap())
}

fn with_body(head: &str) -> Vec<u8> {
    let head = format!("{head}host: node\r\nconnection: close\r\ncontent-length: {MUCH}\r\n\r\n");
    let mut request = head.into_bytes();
    request.resize(request.len() + MUCH, b' ');
    request
}

#[test]
fn an_answer_before_the_requests_end_is_heard_by_a_client_that_sends_it_all_first() {
    run(async {
        let server = server().await;
        let head = format!(
            "GET /_ping HTTP/1.1\r\nhost: node\r\nx-huge: {}",
            "x".repeat(2 * HEAD_MAX)
        );
        let mut endless_head = head.into_bytes();
        endless_head.resize(endless_head.len() + MUCH, b'x');
        for (request, status) in [
            (
                with_body("POST /containers/create HTTP/1.1\r\ncontent-type: application/json\r\n"),
                413,
            ),
            (with_body("POST /nothing HTTP/1.1\r\n"), 404),
            (with_body("POST /v1.1/containers/create HTTP/1.1\r\n"), 400),
            (with_body("POST /containers/none/start HTTP/1.1\r\n"), 404),
            (endless_head, 431),
            (with_body("NOT HTTP\r\n"), 400),
        ] {
            let answer = exchange(&server, server.identity("owner"), &request)
                .await
                .unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{status}: {answer}"
            );
        }
    });
}

#[test]
fn a_client_that_is_refused_hears_why() {
    run(async {
        let server = server().await;
        let request = with_body("POST /containers/create HTTP/1.1\r\n");
        let (certificate, key) = server.ca.issue(None);
        let nobody = Some((vec![certificate.der().clone()], key));
        let answer = exchange(&server, nobody, &request).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        // TLS's own refusal, of a server's certificate and of none.
        let (certificate, key) = server
            .ca
            .issue_for(Some("owner"), &[ExtendedKeyUsagePurpose::ServerAuth]);
        let servers = Some((vec![certificate.der().clone()], key));
        for identity in [None, servers] {
            let refusal = exchange(&server, identity, &request).await.unwrap_err();
            assert!(refusal.to_string().contains("alert"), "{refusal:?}");
        }
    });
}
