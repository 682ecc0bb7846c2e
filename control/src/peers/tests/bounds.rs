//! Who may ask for what, and for how much.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use hyper::{Method, Request, StatusCode};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::service::Desk;
use super::trust::Ca;
use super::{ONE, PATIENCE, TWO, pair, refused, run};
use crate::peers::{
    CALL_MAX, Greet, MutualTls, PeerError, Peers, RefusalKind, Server, Tcp, ask_stranger,
};

#[test]
fn who_has_no_certificate_may_ask_to_join_and_for_nothing_else() {
    run(async {
        let (desk, _) = Desk::new();
        let pair = pair(desk).await;
        let stranger = pair.ca.stranger();
        let ask =
            |path, body: Bytes| ask_stranger(&Tcp, &stranger, &pair.address, path, body, PATIENCE);
        let (found, answer) = ask("/join", Bytes::from_static(b"a token")).await.unwrap();
        assert_eq!((found, answer), (Some(TWO), Bytes::from_static(b"a token")));
        for path in ["/raft", "/echo", "/later"] {
            let asked = ask(path, Bytes::new()).await.map(|(_, answer)| answer);
            assert_eq!(refused(asked), RefusalKind::Forbidden);
        }
        let much = Bytes::from(vec![0; 70_000]);
        let asked = ask("/join", much).await.map(|(_, answer)| answer);
        assert_eq!(refused(asked), RefusalKind::TooLarge);
        // Streams neither.
        let as_stranger = Peers::new(Arc::new(Tcp), Arc::new(pair.ca.stranger()));
        let first = Bytes::new();
        let opened = as_stranger.open(TWO, &pair.address, "/echo", first, PATIENCE);
        let refusal = opened.await.map(|_| Bytes::new());
        assert_eq!(refused(refusal), RefusalKind::Forbidden);
    });
}

#[test]
fn a_certificate_of_somebody_else_opens_nothing_in_either_direction() {
    run(async {
        let (desk, _) = Desk::new();
        let pair = pair(desk).await;
        let (theirs, body) = (Ca::new(), Bytes::from_static(b"x"));
        let foreign = Peers::new(Arc::new(Tcp), Arc::new(MutualTls(theirs.issue(ONE))));
        let asked = foreign
            .call(TWO, &pair.address, "/echo", body.clone(), PATIENCE)
            .await;
        assert!(
            matches!(asked, Err(PeerError::Unreachable { .. })),
            "{asked:?}"
        );
        // One whose server it is.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (desk, _) = Desk::new();
        let server = Server::new(desk, Arc::new(MutualTls(theirs.issue(TWO))));
        let task = tokio::spawn(async move { server.serve(listener).await });
        let _task = AbortOnDropHandle::new(task);
        let asked = pair.one.call(TWO, &address, "/echo", body, PATIENCE).await;
        assert!(
            matches!(asked, Err(PeerError::Unreachable { .. })),
            "{asked:?}"
        );
    });
}

#[test]
fn what_is_too_large_is_not_sent() {
    run(async {
        let (desk, _) = Desk::new();
        let pair = pair(desk).await;
        let asked = pair.call("/echo", vec![0; CALL_MAX + 1]).await;
        assert!(matches!(asked, Err(PeerError::TooLarge { .. })));
        assert_eq!(pair.connections(), 0);
    });
}

/// A node with a valid certificate whose software is not ours.
async fn odd_client(pair: &super::Pair) -> (SendRequest<Bytes>, AbortOnDropHandle<()>) {
    use crate::peers::Dial;
    let wire = Tcp.dial(&pair.address).await.unwrap();
    let greet = MutualTls(pair.ca.issue(ONE));
    let (wire, _) = greet.greet(wire, Some(TWO)).await.unwrap();
    let (requests, connection) = h2::client::handshake(wire).await.unwrap();
    let task = tokio::spawn(async move {
        let _ = connection.await;
    });
    (requests, AbortOnDropHandle::new(task))
}

#[test]
fn a_node_that_says_it_sends_too_much_or_not_how_much_is_refused_before_it_does() {
    run(async {
        let (desk, _) = Desk::new();
        let pair = pair(desk).await;
        let (mut requests, _task) = odd_client(&pair).await;
        for (method, path, length, expected) in [
            (
                Method::POST,
                "/call/echo",
                Some(CALL_MAX + 1),
                StatusCode::PAYLOAD_TOO_LARGE,
            ),
            (
                Method::POST,
                "/call/echo",
                Some(1 << 40),
                StatusCode::PAYLOAD_TOO_LARGE,
            ),
            (Method::POST, "/call/echo", None, StatusCode::BAD_REQUEST),
            (Method::GET, "/call/echo", None, StatusCode::BAD_REQUEST),
            (Method::POST, "/callecho", None, StatusCode::NOT_FOUND),
            (Method::POST, "/", None, StatusCode::NOT_FOUND),
        ] {
            let mut request = Request::builder()
                .method(method)
                .uri(format!("https://hearth.internal{path}"));
            if let Some(length) = length {
                request = request.header("content-length", length);
            }
            let (response, _body) = requests
                .send_request(request.body(()).unwrap(), false)
                .unwrap();
            assert_eq!(response.await.unwrap().status(), expected, "{path}");
            requests = requests.ready().await.unwrap();
        }
    });
}

#[test]
fn large_requests_at_the_same_time_are_bounded_and_small_ones_still_answered() {
    run(async {
        let (desk, _) = Desk::new();
        let pair = pair(desk).await;
        let (mut requests, _task) = odd_client(&pair).await;
        let mut held = Vec::new();
        for _ in 0..3 {
            let request = Request::post("https://hearth.internal/call/echo")
                .header("content-length", CALL_MAX)
                .body(())
                .unwrap();
            let (response, mut body) = requests.send_request(request, false).unwrap();
            // An error: it is refused already.
            let _ = body.send_data(Bytes::from_static(b"the beginning"), false);
            held.push((response, body));
            requests = requests.ready().await.unwrap();
        }
        // One is refused; two wait for the rest of their bodies.
        let (responses, mut bodies): (Vec<_>, Vec<_>) = held.into_iter().unzip();
        let (refused, which, waiting) = futures_util::future::select_all(responses).await;
        assert_eq!(refused.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(pair.call("/echo", "small").await.unwrap(), "small");
        for mut response in waiting {
            assert!(futures_util::poll!(&mut response).is_pending());
        }
        // There is room again when one of them is given up.
        bodies
            .remove((which + 1) % 3)
            .send_reset(h2::Reason::CANCEL);
        loop {
            let request = Request::post("https://hearth.internal/call/echo")
                .header("content-length", 4)
                .body(())
                .unwrap();
            let (response, mut body) = requests.send_request(request, false).unwrap();
            let _ = body.send_data(Bytes::from_static(b"room"), true);
            requests = requests.ready().await.unwrap();
            if response.await.unwrap().status() == StatusCode::OK {
                break;
            }
        }
    });
}

#[test]
fn nonsense_on_a_stream_is_refused_in_words() {
    run(async {
        let (desk, _) = Desk::new();
        let pair = pair(desk).await;
        let (mut requests, _task) = odd_client(&pair).await;
        for nonsense in [&b"\x09\0\0\0\0"[..], b"\0\xff\xff\xff\xff", b"\x01\0\0\0\0"] {
            let request = Request::post("https://hearth.internal/open/echo")
                .body(())
                .unwrap();
            let (response, mut body) = requests.send_request(request, false).unwrap();
            body.send_data(Bytes::copy_from_slice(nonsense), false)
                .unwrap();
            let mut answer = response.await.unwrap().into_body();
            let frame = answer.data().await.unwrap().unwrap();
            // An error frame, with the code of a malformed request.
            assert_eq!((frame[0], &frame[5..7]), (2, &400u16.to_be_bytes()[..]));
            requests = requests.ready().await.unwrap();
        }
    });
}

#[test]
fn who_says_nothing_holds_nobody_up() {
    run(async {
        let (desk, _) = Desk::new();
        let pair = pair(desk).await;
        let mut silent = Vec::new();
        for _ in 0..300 {
            silent.push(tokio::net::TcpStream::connect(&pair.address).await.unwrap());
        }
        assert_eq!(pair.call("/echo", "x").await.unwrap(), "x");
        // The first had to make room.
        let mut nothing = [0; 1];
        let first = tokio::io::AsyncReadExt::read(&mut silent[0], &mut nothing).await;
        assert!(matches!(first, Ok(0) | Err(_)));
        // And to the calls of others it makes no difference.
        let soon = Duration::from_secs(30);
        let body = Bytes::from_static(b"y");
        let asked = pair.one.call(TWO, &pair.address, "/echo", body, soon);
        assert_eq!(asked.await.unwrap(), "y");
    });
}
