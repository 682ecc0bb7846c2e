//! The APIs this node speaks: each a view of the replicated state, none with a state of its own.
//!
//! ```text
//! TcpListener ──▶ tls (who is it?) ──▶ docker::router ──▶ a handler ──▶ Controller
//! ```
//!
//! A connection carries one tenant, taken from the client's certificate, and no request can name another.

pub mod docker;
#[cfg(test)]
mod tests;
mod tls;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

pub use tls::{TlsError, server_config};

use crate::controller::Controller;

/// Clients connected at the same time, attached ones included. Each costs some 100 KiB at worst; beyond it [`HANDSHAKES_MAX`] more
/// wait, and the rest in the kernel's backlog.
const CONNECTIONS_MAX: usize = 1024;
/// Handshakes under way at the same time: whoever has no certificate can't take up more than this.
const HANDSHAKES_MAX: usize = 128;
/// A TLS handshake takes two round trips; a client that needs longer than this is not one.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From the first byte of a request to the end of its headers, and between requests on a connection kept open.
const HEADER_TIMEOUT: Duration = Duration::from_secs(90);
/// Largest head of a request: registry credentials travel in a header and filters in the query, both far smaller than this.
const HEAD_MAX: usize = 128 << 10;
/// Most header fields of a request.
const HEADER_FIELDS_MAX: usize = 128;
/// A peer that has vanished is noticed after `KEEPALIVE_IDLE` + `KEEPALIVE_PROBES` × `KEEPALIVE_INTERVAL`: attached clients may be
/// silent for days.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// See [`KEEPALIVE_IDLE`].
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// See [`KEEPALIVE_IDLE`].
const KEEPALIVE_PROBES: u32 = 4;
/// Pause after a failed `accept`, which fails when descriptors have run out: some must be closed first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A client's connection after its handshake.
type ClientStream = tokio_rustls::server::TlsStream<TcpStream>;

/// Answers clients until dropped; then every connection is closed.
pub async fn serve(controller: Controller, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
    let acceptor = TlsAcceptor::from(tls);
    let api = Arc::new(docker::Docker::new(controller));
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut tasks = JoinSet::new();
    if let Ok(address) = listener.local_addr() {
        info!(%address, "listening for docker clients");
    }
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok(handshake) = Arc::clone(&handshakes).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, api) = (acceptor.clone(), Arc::clone(&api));
        let connections = Arc::clone(&connections);
        tasks.spawn(async move {
            if let Err(error) = keep_alive(&stream) {
                debug!(%peer, %error, "socket options");
            }
            let stream =
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => return info!(%peer, %error, "client refused"),
                    Err(_) => return debug!(%peer, "handshake timed out"),
                };
            let Ok(_connection) = connections.acquire_owned().await else {
                return;
            };
            drop(handshake);
            let caller = tls::caller(stream.get_ref().1);
            connection(api, caller, stream).await;
        });
    }
}

/// One connection, from its first request to the end of what an upgrade made of it.
async fn connection(api: Arc<docker::Docker>, caller: tls::Caller, stream: ClientStream) {
    let session = docker::Session::new(api, caller);
    let service = {
        let session = session.clone();
        service_fn(move |request| {
            let session = session.clone();
            async move { Ok::<_, std::convert::Infallible>(session.answer(request).await) }
        })
    };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADER_FIELDS_MAX)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        debug!(%error, "connection ended");
    }
    if let Some(stream) = session.take_upgraded() {
        stream.await;
    }
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}
