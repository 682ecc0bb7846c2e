//! Two nodes and what goes on between them: over TLS on this machine's own network, and over a network that does what it is told.

mod bounds;
mod network;
mod service;
mod streams;
mod trust;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::state::NodeId;
use service::{Desk, Event};
use trust::Ca;

/// Longer than any of it takes on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const ONE: NodeId = NodeId(1);
pub const TWO: NodeId = NodeId(2);

/// Counts the connections that are made to it.
struct Counted(TcpListener, Arc<AtomicUsize>);

#[async_trait]
impl Listen for Counted {
    async fn accept(&mut self) -> std::io::Result<(Wire, SocketAddr)> {
        let accepted = Listen::accept(&mut self.0).await;
        self.1.fetch_add(1, Ordering::SeqCst);
        accepted
    }
}

/// Node one asks, node two answers.
pub struct Pair {
    pub ca: Ca,
    pub one: Peers,
    pub two: Server,
    pub address: String,
    made: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Pair {
    /// Connections so far.
    fn connections(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }
}

/// With this service at node two.
pub async fn pair(service: Arc<dyn Service>) -> Pair {
    let ca = Ca::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let two = Server::new(service, Arc::new(MutualTls(ca.issue(TWO))));
    let made = Arc::new(AtomicUsize::new(0));
    let (server, listener) = (two.clone(), Counted(listener, Arc::clone(&made)));
    let task = tokio::spawn(async move { server.serve(listener).await });
    Pair {
        one: Peers::new(Arc::new(Tcp), Arc::new(MutualTls(ca.issue(ONE)))),
        ca,
        two,
        address,
        made,
        _task: AbortOnDropHandle::new(task),
    }
}

impl Pair {
    async fn call(&self, path: &str, body: impl Into<Bytes>) -> Result<Bytes, PeerError> {
        self.one
            .call(TWO, &self.address, path, body.into(), PATIENCE)
            .await
    }

    async fn open(&self, path: &str) -> (SendHalf, RecvHalf) {
        let first = Bytes::from_static(b"first");
        let opened = self.one.open(TWO, &self.address, path, first, PATIENCE);
        opened.await.unwrap()
    }
}

/// Runs with several threads.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}

fn refused(result: Result<Bytes, PeerError>) -> RefusalKind {
    match result {
        Err(PeerError::Refused { refusal, .. }) => refusal.kind,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_hundred_calls_and_streams_share_one_connection() {
    run(async {
        let (desk, _) = Desk::new();
        let pair = Arc::new(pair(desk).await);
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..100u32 {
            let pair_of_call = Arc::clone(&pair);
            tasks.spawn(async move {
                let body = vec![n as u8; 1000 * n as usize];
                assert_eq!(
                    pair_of_call.call("/echo", body.clone()).await.unwrap(),
                    body
                );
            });
            let pair = Arc::clone(&pair);
            tasks.spawn(async move {
                let (mut send, mut receive) = pair.open("/echo").await;
                assert_eq!(receive.recv().await.unwrap().unwrap(), "first");
                for m in 0..10 {
                    let data = vec![m; 7000 * usize::from(m)];
                    send.send(data.clone().into()).await.unwrap();
                    assert_eq!(receive.recv().await.unwrap().unwrap(), data);
                }
                send.finish().unwrap();
                assert_eq!(receive.recv().await.unwrap(), None);
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert_eq!(pair.connections(), 1);
    });
}

#[test]
fn who_asks_is_known_from_its_certificate() {
    run(async {
        let (desk, _) = Desk::new();
        let pair = pair(desk).await;
        assert_eq!(pair.call("/who", "").await.unwrap(), "1");
    });
}

#[test]
fn a_lost_connection_ends_its_streams_as_an_error_and_is_replaced_by_the_next_request() {
    run(async {
        let (desk, mut events) = Desk::new();
        let pair = pair(desk).await;
        let (_send, mut receive) = pair.open("/echo").await;
        assert_eq!(receive.recv().await.unwrap().unwrap(), "first");
        pair.two.close(ONE);
        let lost = receive.recv().await.unwrap_err();
        assert!(matches!(lost, PeerError::Broken { .. }), "{lost}");
        assert!(receive.recv().await.is_err());
        assert_eq!(pair.call("/echo", "again").await.unwrap(), "again");
        assert_eq!(pair.connections(), 2);
        // From this side, too.
        pair.one.forget(TWO);
        assert_eq!(pair.call("/echo", "again").await.unwrap(), "again");
        assert_eq!(pair.connections(), 3);
        assert!(events.try_recv().is_err());
    });
}

#[test]
fn a_call_whose_caller_has_no_more_patience_goes_no_further() {
    run(async {
        let (desk, mut events) = Desk::new();
        let pair = pair(desk).await;
        let (one, address) = (pair.one.clone(), pair.address.clone());
        let call = tokio::spawn(async move {
            let body = Bytes::new();
            one.call(TWO, &address, "/never", body, PATIENCE).await
        });
        assert_eq!(events.recv().await, Some(Event::Begun));
        call.abort();
        assert_eq!(events.recv().await, Some(Event::Dropped));
        let soon = Duration::from_millis(1);
        let body = Bytes::new();
        let call = pair.one.call(TWO, &pair.address, "/never", body, soon);
        assert!(matches!(call.await, Err(PeerError::TimedOut { .. })));
        assert_eq!(pair.connections(), 1);
    });
}

#[test]
fn another_node_at_the_address_is_not_asked() {
    run(async {
        let (desk, _) = Desk::new();
        let pair = pair(desk).await;
        let body = Bytes::from_static(b"secret");
        let asked = pair
            .one
            .call(NodeId(3), &pair.address, "/echo", body, PATIENCE)
            .await;
        let error = asked.unwrap_err();
        assert!(matches!(error, PeerError::AnotherNode { .. }), "{error}");
        assert!(
            error.to_string().contains("node 2 answers there"),
            "{error}"
        );
    });
}

#[test]
fn nobody_at_the_address_is_told_at_once() {
    run(async {
        let (desk, _) = Desk::new();
        let pair = pair(desk).await;
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let asked = pair
            .one
            .call(TWO, &address, "/echo", Bytes::new(), PATIENCE)
            .await;
        assert!(matches!(asked, Err(PeerError::Unreachable { .. })));
        // Nothing of it is left.
        assert_eq!(pair.call("/echo", "x").await.unwrap(), "x");
    });
}

#[test]
fn what_a_node_does_not_know_it_says_so() {
    run(async {
        let (desk, _) = Desk::new();
        let pair = pair(desk).await;
        let unknown = pair.call("/later", "").await.unwrap_err();
        assert!(unknown.to_string().contains("older version"), "{unknown}");
        assert_eq!(refused(Err(unknown)), RefusalKind::Unknown);
    });
}

#[test]
fn a_node_that_has_moved_is_found_where_it_was_seen_and_nobody_else_is_taken_for_it() {
    run(async {
        let (desk, _) = Desk::new();
        let pair = pair(desk).await;
        // Another node has the address now that this one had.
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let before = other.local_addr().unwrap().to_string();
        let (desk, _) = Desk::new();
        let third = Server::new(desk, Arc::new(MutualTls(pair.ca.issue(NodeId(3)))));
        let _serving =
            AbortOnDropHandle::new(tokio::spawn(async move { third.serve(other).await }));
        let call = || {
            let body = Bytes::from_static(b"where");
            pair.one.call(TWO, &before, "/echo", body, PATIENCE)
        };
        assert!(matches!(call().await, Err(PeerError::AnotherNode { .. })));
        let seen = vec![before.clone(), pair.address.clone()];
        pair.one.look_where_seen(Box::new(move |node| match node {
            TWO => seen.clone(),
            _ => Vec::new(),
        }));
        assert_eq!(call().await.unwrap(), "where");
    });
}
