//! The node's own API, spoken to from inside: with `ca.pem`, `cert.pem` and `key.pem` from `/side` in the initramfs.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;

/// How often the API is asked whether it answers yet: fine enough to measure by, and little work for the one processor.
const ASK_INTERVAL: Duration = Duration::from_millis(5);
/// After so many questions it never will: half a minute of the node's own clock, ten times the budget.
const ATTEMPTS: usize = 6000;

/// The node's own API, one connection a call as the docker CLI's shortest commands do.
pub struct Api {
    tls: tokio_rustls::TlsConnector,
}

impl Api {
    /// With the certificate and key in `/side`.
    pub fn new() -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file("/side/ca.pem")?)?;
        let certificates =
            CertificateDer::pem_file_iter("/side/cert.pem")?.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_file("/side/key.pem")?;
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates, key)?;
        Ok(Self {
            tls: Arc::new(config).into(),
        })
    }

    /// Asks until it answers.
    pub async fn wait(&self) -> Result<()> {
        let mut attempts = 0;
        while let Err(error) = self.call("GET", "/_ping", None).await {
            if attempts == ATTEMPTS {
                return Err(error.context("the API doesn't answer"));
            }
            attempts += 1;
            tokio::time::sleep(ASK_INTERVAL).await;
        }
        Ok(())
    }

    /// Loads `/side/image.tar`.
    pub async fn load(&self) -> Result<()> {
        let archive = fs::read("/side/image.tar")?;
        self.call("POST", "/images/load", Some(archive.into()))
            .await?;
        Ok(())
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        let tcp = TcpStream::connect("127.0.0.1:2376").await?;
        let tls = self
            .tls
            .connect(ServerName::try_from("localhost")?, tcp)
            .await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender.send_request(request).await?)
    }

    /// The body of a successful answer.
    pub async fn call(&self, method: &str, path: &str, body: Option<Bytes>) -> Result<Bytes> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "localhost")
            .header(
                "Content-Type",
                if path.starts_with("/images") {
                    "application/x-tar"
                } else {
                    "application/json"
                },
            )
            .body(Full::new(body.unwrap_or_default()))?;
        let response = self.send(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!(
                "{method} {path}: {status}: {}",
                String::from_utf8_lossy(&body)
            );
        }
        Ok(body)
    }

    /// A connection that has become a stream.
    pub async fn upgrade(&self, path: &str) -> Result<TokioIo<hyper::upgrade::Upgraded>> {
        let request = Request::builder()
            .method("POST")
            .uri(path)
            .header("Host", "localhost")
            .header("Connection", "Upgrade")
            .header("Upgrade", "tcp")
            .body(Full::new(Bytes::new()))?;
        let response = self.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            bail!("POST {path}: {}", response.status());
        }
        Ok(TokioIo::new(hyper::upgrade::on(response).await?))
    }
}
