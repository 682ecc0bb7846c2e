//! The network below: streams of bytes between machines.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// Bytes that were sent and not acknowledged for this long end a connection: the other machine is gone, or the way to it.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(6);
/// Silence before the kernel asks whether the other machine is still there. It answers without waking anybody up.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Questions without an answer that end a connection.
const KEEPALIVE_PROBES: u32 = 3;

/// A stream of bytes in both directions.
pub trait WireStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> WireStream for T {}

/// Any of them.
pub type Wire = Box<dyn WireStream>;

/// Makes connections.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// To an address as the cluster's state has it. May be dropped at any time; needs no deadline of its own.
    async fn dial(&self, address: &str) -> io::Result<Wire>;
}

/// Takes connections.
#[async_trait]
pub trait Listen: Send + 'static {
    /// The next, and where it comes from. May be dropped at any time without losing one.
    async fn accept(&mut self) -> io::Result<(Wire, SocketAddr)>;
}

/// The machine's own network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

#[async_trait]
impl Dial for Tcp {
    async fn dial(&self, address: &str) -> io::Result<Wire> {
        let stream = TcpStream::connect(address).await?;
        tune(&stream)?;
        Ok(Box::new(stream))
    }
}

#[async_trait]
impl Listen for TcpListener {
    async fn accept(&mut self) -> io::Result<(Wire, SocketAddr)> {
        let (stream, from) = Self::accept(self).await?;
        if let Err(error) = tune(&stream) {
            tracing::debug!(%from, %error, "socket options");
        }
        Ok((Box::new(stream), from))
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MAX.as_millis() as u32)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}
