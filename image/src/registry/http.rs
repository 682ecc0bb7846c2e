//! Requests, and what their failures mean.

use std::{error::Error as _, net::IpAddr, sync::Arc, time::Duration};

use futures_util::StreamExt;
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, RANGE, WWW_AUTHENTICATE},
    redirect::{Action, Attempt, Policy},
};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{
    auth::{Authorization, Challenge},
    names::Resolver,
};
use crate::{Credentials, Error, ImageRef};

/// Until a TCP and TLS connection stands. Retransmissions of a lost SYN get three tries.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Silence on a connection after which it's given up. Registries that fetch from a slower store take their time before
/// the first byte.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// For a document as a whole: a registry that sends a byte now and then is no registry.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(120);

/// Bytes of an error's body that are read: enough for what a person wants to know.
const MAX_ERROR_BYTES: u64 = 16 << 10;

/// Characters of a registry's own words that reach an error message.
const MAX_REASON_CHARS: usize = 300;

/// Redirects followed for one request: a registry, its store, and the store's region are three.
const MAX_REDIRECTS: usize = 10;

/// Where docker.io's API is.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// One repository of one registry, as one user.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(super) client: Client,
    /// For secrets: follows no redirect to another origin, which would take a body's token along.
    pub(super) token_client: Client,
    pub(super) reference: ImageRef,
    pub(super) credentials: Credentials,
    /// `https://host:port`
    pub(super) base: String,
    /// Registries that may be spoken to in the clear, as the owner has said.
    pub(super) insecure_registries: Vec<String>,
    /// What the registry accepted last; held while a new one is asked for, so that parallel layers ask once.
    authorization: Mutex<Authorization>,
}

impl Registry {
    /// Prepares; the first connection is made by the first request.
    pub(crate) fn connect(
        reference: &ImageRef,
        credentials: &Credentials,
        insecure_registries: &[String],
        dns_servers: &[IpAddr],
    ) -> Result<Self, Error> {
        let name = reference.registry();
        let insecure = insecure_registries.iter().any(|registry| registry == name);
        let host = if name == "docker.io" {
            DOCKER_HUB
        } else {
            name
        };
        let tls = tls_config()?;
        let client = |redirects: Policy| {
            Client::builder()
                .tls_backend_preconfigured(tls.clone())
                // Neither a redirect nor a token service may lead a secure registry's pull into the clear.
                .https_only(!insecure)
                .redirect(redirects)
                .no_proxy()
                .dns_resolver(Resolver::new(dns_servers))
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(IDLE_TIMEOUT)
                .user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(|err| Error::Protocol {
                    registry: name.to_owned(),
                    reason: innermost(&err),
                })
        };
        Ok(Self {
            // Blobs are often elsewhere; the client takes `Authorization` off where the origin changes.
            client: client(Policy::limited(MAX_REDIRECTS))?,
            token_client: client(Policy::custom(within_the_origin))?,
            insecure_registries: insecure_registries.to_vec(),
            reference: reference.clone(),
            credentials: credentials.clone(),
            base: format!("{}://{host}", if insecure { "http" } else { "https" }),
            authorization: Mutex::default(),
        })
    }

    /// Gets `/v2/<repository>/<path>`, logging in where the registry asks for it. Any status but 401 is returned.
    pub(super) async fn get(
        &self,
        path: &str,
        accept: Option<&str>,
        from_byte: u64,
    ) -> Result<Response, Error> {
        let url = format!("{}/v2/{}/{path}", self.base, self.reference.repository());
        let request = |authorization: &Authorization| {
            let mut request = self.client.get(&url);
            if let Some(accept) = accept {
                request = request.header(ACCEPT, accept);
            }
            if from_byte > 0 {
                request = request.header(RANGE, format!("bytes={from_byte}-"));
            }
            match authorization.header() {
                Some(value) => request.header(AUTHORIZATION, value.clone()),
                None => request,
            }
        };
        let used = self.authorization.lock().await.clone();
        let response = self.send(request(&used)).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let Some(challenge) = self.challenge(&response) else {
            return Err(self.refused(response).await);
        };
        let mut current = self.authorization.lock().await;
        if *current == used {
            *current = match self.authorize(&challenge).await? {
                Some(authorization) => authorization,
                None => return Err(self.refused(response).await),
            };
        }
        let fresh = current.clone();
        drop(current);
        let response = self.send(request(&fresh)).await?;
        match response.status() {
            StatusCode::UNAUTHORIZED => Err(self.refused(response).await),
            _ => Ok(response),
        }
    }

    /// What the registry asks for (RFC 9110, section 11.6.1). Where a redirect has led to somebody else, it is not the
    /// registry that asks, and nobody else gets to name the place that a password is sent to.
    pub(super) fn challenge(&self, response: &Response) -> Option<Challenge> {
        let base = Url::parse(&self.base).ok()?;
        if response.url().origin() != base.origin() {
            tracing::warn!(registry = self.name(), from = ?response.url().host_str(), "a challenge from a redirect's target is ignored");
            return None;
        }
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        Challenge::of(headers.iter().map(|header| header.as_bytes()))
    }

    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        request.send().await.map_err(|err| self.unreachable(&err))
    }

    /// Reads a body that may not be larger than `max_bytes`.
    pub(super) async fn read(
        &self,
        response: Response,
        max_bytes: u64,
        what: &str,
    ) -> Result<Vec<u8>, Error> {
        let reading = async {
            let mut body = Vec::new();
            let mut chunks = response.bytes_stream();
            while let Some(chunk) = chunks.next().await {
                body.extend_from_slice(&chunk.map_err(|err| self.unreachable(&err))?);
                if body.len() as u64 > max_bytes {
                    return Err(Error::TooLarge {
                        what: what.to_owned(),
                        limit: format!("{max_bytes} bytes"),
                    });
                }
            }
            Ok(body)
        };
        tokio::time::timeout(DOCUMENT_TIMEOUT, reading)
            .await
            .unwrap_or_else(|_| {
                Err(Error::Unreachable {
                    registry: self.name().to_owned(),
                    reason: format!("{what} took longer than {} s", DOCUMENT_TIMEOUT.as_secs()),
                })
            })
    }

    /// What a response that isn't a success means.
    pub(super) async fn refused(&self, response: Response) -> Error {
        let status = response.status();
        // A body that can't be read leaves the status, which says enough.
        let body = self.read_start(response).await;
        let errors = serde_json::from_slice::<Envelope>(&body)
            .unwrap_or_default()
            .errors;
        let code = errors
            .first()
            .map(|error| error.code.to_uppercase())
            .unwrap_or_default();
        let reason = match errors.first() {
            Some(error) if !error.message.is_empty() => error.message.clone(),
            _ => status
                .canonical_reason()
                .unwrap_or("no reason given")
                .to_owned(),
        };
        let reason: String = reason.chars().take(MAX_REASON_CHARS).collect();
        let reference = self.reference.familiar();
        match (status.as_u16(), code.as_str()) {
            (401 | 403, _) | (_, "UNAUTHORIZED" | "DENIED") => Error::Unauthorized {
                reference,
                registry: self.name().to_owned(),
                reason,
            },
            (404, _) | (_, "MANIFEST_UNKNOWN" | "NAME_UNKNOWN" | "NAME_INVALID") => {
                Error::NotFound { reference }
            }
            (status, _) => Error::Registry {
                registry: self.name().to_owned(),
                status,
                reason,
            },
        }
    }

    async fn read_start(&self, response: Response) -> Vec<u8> {
        self.read(response, MAX_ERROR_BYTES, "an error")
            .await
            .unwrap_or_default()
    }

    pub(super) fn unreachable(&self, err: &reqwest::Error) -> Error {
        let reason = if err.is_timeout() {
            format!("no answer within {} s", IDLE_TIMEOUT.as_secs())
        } else {
            innermost(err)
        };
        Error::Unreachable {
            registry: self.name().to_owned(),
            reason,
        }
    }

    pub(super) fn broken(&self, reason: impl Into<String>) -> Error {
        Error::Protocol {
            registry: self.name().to_owned(),
            reason: reason.into(),
        }
    }

    /// As the user knows it.
    pub(super) fn name(&self) -> &str {
        self.reference.registry()
    }
}

/// Follows redirects that stay with whom was asked.
fn within_the_origin(attempt: Attempt<'_>) -> Action {
    let same = attempt
        .previous()
        .last()
        .is_some_and(|from| from.origin() == attempt.url().origin());
    if same && attempt.previous().len() <= MAX_REDIRECTS {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

/// The public roots, compiled in: the node has no files of certificates.
fn tls_config() -> Result<rustls::ClientConfig, Error> {
    let roots = rustls::RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|err| Error::Protocol {
            registry: "TLS".to_owned(),
            reason: err.to_string(),
        })?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The cause at the bottom, which names what happened; those above say that something did.
fn innermost(err: &reqwest::Error) -> String {
    let mut reason = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        reason = cause.to_string();
        source = cause.source();
    }
    reason.chars().take(MAX_REASON_CHARS).collect()
}

/// The specification's form of errors.
#[derive(Debug, Default, Deserialize)]
struct Envelope {
    errors: Vec<ErrorDetail>,
}

#[derive(Debug, Deserialize)]
struct ErrorDetail {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}
