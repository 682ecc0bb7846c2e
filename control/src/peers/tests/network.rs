//! A network without wires or TLS, as a simulation has one, on time that only passes when nobody has anything to do.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::service::{Desk, Event};
use super::{ONE, PATIENCE, TWO};
use crate::peers::{Dial, Greet, HandshakeError, Listen, PeerError, Peers, Receive, Server, Wire};
use crate::state::NodeId;

/// Swallows everything once it is told to.
struct Hole {
    stream: DuplexStream,
    is_open: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
}

impl AsyncRead for Hole {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_open.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Hole {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.fetch_add(bytes.len(), Ordering::SeqCst);
        if self.is_open.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The way to one listener.
struct Way {
    to: mpsc::Sender<Wire>,
    /// Of the connection that was made last.
    hole: Mutex<Arc<AtomicBool>>,
    written: Arc<AtomicUsize>,
    made: AtomicUsize,
}

#[async_trait]
impl Dial for Arc<Way> {
    async fn dial(&self, _: &str) -> io::Result<Wire> {
        let (near, far) = tokio::io::duplex(64 << 10);
        self.made.fetch_add(1, Ordering::SeqCst);
        let is_open = Arc::<AtomicBool>::default();
        *self.hole.lock().unwrap() = Arc::clone(&is_open);
        self.to.send(Box::new(far)).await.unwrap();
        Ok(Box::new(Hole {
            stream: near,
            is_open,
            written: Arc::clone(&self.written),
        }))
    }
}

struct End(mpsc::Receiver<Wire>);

#[async_trait]
impl Listen for End {
    async fn accept(&mut self) -> io::Result<(Wire, SocketAddr)> {
        let wire = self.0.recv().await.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok((wire, (Ipv4Addr::LOCALHOST, 1).into()))
    }
}

/// Each says who it is, and is believed.
struct Word(NodeId);

async fn exchange(mut wire: Wire, id: NodeId) -> io::Result<(Wire, NodeId)> {
    wire.write_u64(id.0).await?;
    let other = NodeId(wire.read_u64().await?);
    Ok((wire, other))
}

#[async_trait]
impl Greet for Word {
    async fn greet(
        &self,
        wire: Wire,
        _: Option<NodeId>,
    ) -> Result<(Wire, Option<NodeId>), HandshakeError> {
        let told = exchange(wire, self.0).await;
        told.map(|(wire, other)| (wire, Some(other)))
            .map_err(|e| HandshakeError(e.to_string()))
    }
}

#[async_trait]
impl Receive for Word {
    async fn receive(&self, wire: Wire) -> Result<(Wire, Option<NodeId>), HandshakeError> {
        self.greet(wire, None).await
    }
}

struct Simulated {
    way: Arc<Way>,
    one: Peers,
    events: mpsc::UnboundedReceiver<Event>,
    _task: AbortOnDropHandle<()>,
}

fn simulated() -> Simulated {
    let (to, wires) = mpsc::channel(1);
    let way = Arc::new(Way {
        to,
        hole: Mutex::default(),
        written: Arc::default(),
        made: AtomicUsize::new(0),
    });
    let (desk, events) = Desk::new();
    let server = Server::new(desk, Arc::new(Word(TWO)));
    let task = tokio::spawn(async move { server.serve(End(wires)).await });
    Simulated {
        one: Peers::new(Arc::new(Arc::clone(&way)), Arc::new(Word(ONE))),
        way,
        events,
        _task: AbortOnDropHandle::new(task),
    }
}

impl Simulated {
    async fn call(&self, path: &str, within: Duration) -> Result<Bytes, PeerError> {
        self.one.call(TWO, "two", path, Bytes::new(), within).await
    }

    fn lose_power(&self) {
        self.way.hole.lock().unwrap().store(true, Ordering::SeqCst);
    }
}

/// What a user has to wait for at most, on the clock of the simulation.
const SOON: Duration = Duration::from_secs(6);

#[tokio::test(start_paused = true)]
async fn a_node_that_falls_silent_is_given_up_within_seconds_and_dialled_anew() {
    let mut nodes = simulated();
    let one = nodes.one.clone();
    let never = one.call(
        TWO,
        "two",
        "/never",
        Bytes::new(),
        Duration::from_secs(3600),
    );
    let mut never = std::pin::pin!(never);
    tokio::select! {
        answer = &mut never => panic!("{answer:?}"),
        event = nodes.events.recv() => assert_eq!(event, Some(Event::Begun)),
    }
    // While it is there it has all the time that its caller gives it.
    assert!(tokio::time::timeout(PATIENCE, &mut never).await.is_err());
    nodes.lose_power();
    let before = Instant::now();
    let lost = never.await.unwrap_err();
    assert!(matches!(lost, PeerError::Broken { .. }), "{lost}");
    assert!(before.elapsed() <= SOON, "{:?}", before.elapsed());
    nodes.call("/who", PATIENCE).await.unwrap();
    assert_eq!(nodes.way.made.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_falls_silent_is_found_out_by_callers_without_patience_too() {
    let nodes = simulated();
    let little = Duration::from_millis(500);
    nodes.call("/who", little).await.unwrap();
    nodes.lose_power();
    let before = Instant::now();
    while nodes.call("/who", little).await.is_err() {
        assert!(before.elapsed() <= SOON, "{:?}", before.elapsed());
    }
    assert_eq!(nodes.way.made.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_fails_when_its_node_is_gone_and_lasts_while_it_is_there() {
    let nodes = simulated();
    let first = Bytes::from_static(b"first");
    let opened = nodes.one.open(TWO, "two", "/echo", first, PATIENCE);
    let (mut send, mut receive) = opened.await.unwrap();
    assert_eq!(receive.recv().await.unwrap().unwrap(), "first");
    let day = Duration::from_secs(24 * 3600);
    assert!(tokio::time::timeout(day, receive.recv()).await.is_err());
    send.send(Bytes::from_static(b"later")).await.unwrap();
    assert_eq!(receive.recv().await.unwrap().unwrap(), "later");
    nodes.lose_power();
    let before = Instant::now();
    assert!(matches!(
        receive.recv().await,
        Err(PeerError::Broken { .. })
    ));
    assert!(before.elapsed() <= SOON, "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn between_requests_nothing_is_sent() {
    let nodes = simulated();
    nodes.call("/who", PATIENCE).await.unwrap();
    // The acknowledgements that follow an answer.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let written = nodes.way.written.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(nodes.way.written.load(Ordering::SeqCst), written);
    nodes.call("/who", PATIENCE).await.unwrap();
    assert_eq!(nodes.way.made.load(Ordering::SeqCst), 1);
}
