//! HTTP by hand, for what no client would send.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::process::HUNG;
use crate::target::Target;

/// A connection to the API.
pub trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header lines, as they came.
    pub head: String,
    /// The body, as it came: perhaps chunked.
    pub body: String,
}

impl Answer {
    /// The `message` of an error, as docker clients show it.
    #[track_caller]
    pub fn message(&self) -> String {
        let json = self.body.find('{').and_then(|start| {
            let end = self.body.rfind('}')?;
            serde_json::from_str::<serde_json::Value>(&self.body[start..=end]).ok()
        });
        // Clients show an answer that isn't JSON as it is.
        let plain = self
            .head
            .to_lowercase()
            .contains("content-type: text/plain");
        json.and_then(|json| Some(json["message"].as_str()?.to_owned()))
            .or_else(|| {
                (plain && !self.body.trim().is_empty()).then(|| self.body.trim().to_owned())
            })
            .unwrap_or_else(|| panic!("an error without a message: {self:?}"))
    }
}

/// Connects to the target's API, as its owner.
pub fn connect(target: &Target) -> io::Result<Box<dyn Wire>> {
    match target.api() {
        Some(api) => {
            let folder = api.identity().owner_dir();
            let stream = connect_tls(api.address().port(), &folder.join("ca.pem"), Some(&folder))?;
            Ok(Box::new(stream))
        }
        None => {
            let endpoint = std::env::var(crate::target::REFERENCE).map_err(io::Error::other)?;
            let stream = UnixStream::connect(endpoint.trim_start_matches("unix://"))?;
            stream.set_read_timeout(Some(HUNG))?;
            Ok(Box::new(stream))
        }
    }
}

/// Connects to a node by TLS, trusting `ca`, with the certificate in `client` or none, and finishes the handshake as far as
/// the client's side of it goes.
pub fn connect_tls(
    port: u16,
    ca: &Path,
    client: Option<&Path>,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(io::Error::other)? {
        roots
            .add(certificate.map_err(io::Error::other)?)
            .map_err(io::Error::other)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some(folder) => {
            let certificate =
                CertificateDer::from_pem_file(folder.join("cert.pem")).map_err(io::Error::other)?;
            let key =
                PrivateKeyDer::from_pem_file(folder.join("key.pem")).map_err(io::Error::other)?;
            builder
                .with_client_auth_cert(vec![certificate], key)
                .map_err(io::Error::other)?
        }
    };
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(HUNG))?;
    stream.set_write_timeout(Some(HUNG))?;
    stream.set_nodelay(true)?;
    while connection.is_handshaking() {
        in_time(connection.complete_io(&mut stream))?;
    }
    Ok(StreamOwned::new(connection, stream))
}

/// Sends `bytes` and reads until the server closes; what came is no error even if writing failed half-way, for a server
/// may answer and close before it has read everything. An error is a refusal; a server that does neither hangs, and panics this.
pub fn exchange(wire: &mut dyn Wire, bytes: &[u8]) -> io::Result<Answer> {
    let written = in_time(wire.write_all(bytes).and_then(|()| wire.flush()));
    let mut raw = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let read = loop {
        match in_time(wire.read(&mut buffer)) {
            Ok(0) => break Ok(()),
            Ok(count) => raw.extend_from_slice(&buffer[..count]),
            // A server that closes without TLS's goodbye has still answered.
            Err(error) => break Err(error),
        }
        assert!(raw.len() < ANSWER_LIMIT, "an answer without an end");
    };
    parse(&raw).ok_or_else(|| {
        written
            .err()
            .or(read.err())
            .unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())
    })
}

/// Panics if the result is that the time was up, which is no answer of the server's.
#[track_caller]
fn in_time<T>(result: io::Result<T>) -> io::Result<T> {
    if let Err(error) = &result {
        // What a socket with a timeout gives (socket(7), SO_RCVTIMEO).
        let late = matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        );
        assert!(
            !late,
            "hung: the server neither answers nor closes: {error}"
        );
    }
    result
}

/// Longer than any error.
const ANSWER_LIMIT: usize = 16 << 20;

fn parse(raw: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(raw);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    Some(Answer {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

/// One request on a connection of its own, closed after its answer.
#[track_caller]
pub fn request(target: &Target, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let mut wire = connect(target).unwrap_or_else(|error| panic!("can't connect: {error}"));
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: hearth\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    exchange(wire.as_mut(), &[head.as_bytes(), body].concat())
        .unwrap_or_else(|error| panic!("{method} {path} got no answer: {error}"))
}

/// A JSON `POST`.
#[track_caller]
pub fn post_json(target: &Target, path: &str, body: &str) -> Answer {
    request(
        target,
        "POST",
        path,
        "Content-Type: application/json\r\n",
        body.as_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_an_error() {
        let refused: io::Result<()> = Err(io::ErrorKind::ConnectionReset.into());
        assert!(in_time(refused).is_err());
    }

    #[test]
    #[should_panic(expected = "hung")]
    fn a_timeout_is_no_refusal() {
        let _ = in_time::<()>(Err(io::ErrorKind::WouldBlock.into()));
    }
}
