//! The APIs this node speaks: each a view of the replicated state, none with a state of its own.
//!
//! ```text
//! TcpListener ──▶ admission (is there room?) ──▶ tls (who is it?) ──▶ docker::router ──▶ a handler ──▶ Controller
//! ```
//!
//! A connection carries one tenant, taken from the client's certificate, and no request can name another.

mod admission;
pub mod docker;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod linger;
#[cfg(test)]
mod tests;
pub(crate) mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::SetOnce;
use tokio::task::JoinSet;
use tokio_rustls::LazyConfigAcceptor;
use tracing::{debug, info, warn};

pub use tls::{Clients, TlsError};

use self::admission::{Admission, Full, Place};
use self::linger::Lingering;
use crate::cluster::membership::Door;
use crate::controller::Controller;

/// A TLS handshake takes two round trips; a client that needs longer than this is not one. Whoever is let in only to be told why it is
/// refused has as long for asking and hearing.
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

/// Why a client that has shown a certificate is not served.
#[derive(Debug, Clone)]
enum Refused {
    /// It names no tenant.
    Nobody(String),
    /// Its tenant has connections enough.
    NoRoom,
}

/// Answers clients until dropped; then every connection is closed. Those that come before the controller wait for it a while.
pub async fn serve(controller: Arc<SetOnce<Controller>>, listener: TcpListener, clients: Clients) {
    let api = docker::Docker::new(controller).letting_in(clients.clone());
    listen(api, &listener, &clients).await;
}

/// The same for a node that is locked: there is nothing to ask it but to be opened.
pub async fn serve_locked(door: Arc<dyn Door>, listener: &TcpListener, clients: &Clients) {
    listen(docker::Docker::locked(door), listener, clients).await;
}

async fn listen(api: docker::Docker, listener: &TcpListener, clients: &Clients) {
    let api = Arc::new(api);
    let _until_the_end = api.until_dropped();
    let admission = Admission::default();
    let mut tasks = JoinSet::new();
    if let Ok(address) = listener.local_addr() {
        info!(%address, "listening for docker clients");
    }
    loop {
        while tasks.try_join_next().is_some() {}
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = admission.admit(peer.ip());
        let (clients, api) = (clients.clone(), Arc::clone(&api));
        tasks.spawn(async move {
            tokio::select! {
                () = place.closed() => debug!(%peer, "closed in favour of another connection"),
                () = connection(&clients, api, &place, stream, peer) => {}
            }
        });
    }
}

/// One connection, from its handshake to its end.
async fn connection(
    clients: &Clients,
    api: Arc<docker::Docker>,
    place: &Arc<Place>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    if let Err(error) = keep_alive(&stream) {
        debug!(%peer, %error, "socket options");
    }
    let handshake = async {
        match handshake(clients.config(), place, stream).await {
            Ok(stream) => Some(stream),
            Err((error, stream)) => {
                info!(%peer, %error, "client refused");
                if let Some(stream) = stream {
                    linger::close(stream).await;
                }
                None
            }
        }
    };
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Some(stream)) => stream,
        Ok(None) => return,
        Err(_) => return debug!(%peer, "handshake timed out"),
    };
    let caller = tls::tenant(stream.get_ref().1)
        .map_err(Refused::Nobody)
        .and_then(|tenant| match place.belongs_to(tenant.clone()) {
            Ok(()) => Ok(tenant),
            Err(Full) => {
                info!(%peer, %tenant, "no room for another connection");
                Err(Refused::NoRoom)
            }
        });
    let refused = caller.is_err();
    let chain = stream.get_ref().1.peer_certificates();
    let chain = chain
        .unwrap_or_default()
        .iter()
        .map(|one| one.clone().into_owned());
    let revoked = clients.revoked(chain.collect());
    let requests = requests(docker::Session::new(api, caller, Arc::clone(place)), stream);
    let requests = async {
        if refused {
            let _ = tokio::time::timeout(HANDSHAKE_TIMEOUT, requests).await;
        } else {
            requests.await;
        }
    };
    tokio::select! {
        () = revoked => info!(%peer, "closed: the client's certificate has been revoked"),
        () = requests => {}
    }
}

/// TLS's handshake; a connection that is refused comes back to be closed.
async fn handshake(
    tls: Arc<rustls::ServerConfig>,
    place: &Place,
    stream: TcpStream,
) -> Result<ClientStream, (io::Error, Option<TcpStream>)> {
    let mut hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let started = match (&mut hello).await {
        Ok(started) => started,
        Err(error) => return Err((error, hello.take_io())),
    };
    place.has_greeted();
    let stream = started.into_stream(tls).into_fallible().await;
    stream.map_err(|(error, stream)| (error, Some(stream)))
}

/// From a connection's first request to the end of what an upgrade made of it.
async fn requests(session: docker::Session, stream: ClientStream) {
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
        .serve_connection(TokioIo::new(Lingering::new(stream)), service)
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
