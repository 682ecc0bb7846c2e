//! One request, taken apart: who asks, at which version, for what.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use super::Session;
use super::body;
use super::errors::ApiError;
use super::query::Query;
use super::version::{self, ApiVersion};
use crate::api::{Clients, Refused};
use crate::controller::Controller;
use crate::state::{Placed, Tenant};

/// Largest JSON body: a container with a thousand labels and all of Linux's environment fits several times.
const JSON_MAX: usize = 4 << 20;
/// A JSON body is sent in one go; whoever takes longer holds a connection for nothing.
const JSON_TIMEOUT: Duration = Duration::from_secs(60);

/// One request.
pub(super) struct Call {
    pub method: Method,
    /// The path without its version, percent-decoded.
    pub path: String,
    pub query: Query,
    pub headers: HeaderMap,
    pub version: ApiVersion,
    pub tenant: Tenant,
    /// None: the node is locked.
    controller: Option<Controller>,
    session: Session,
    body: Incoming,
    upgrade: Option<OnUpgrade>,
}

impl Call {
    /// Refuses callers without a tenant, versions out of range, and paths that aren't text.
    pub fn new(
        session: &Session,
        controller: Option<Controller>,
        mut request: Request<Incoming>,
    ) -> Result<Self, ApiError> {
        let tenant = session.0.caller.clone().map_err(|refused| match refused {
            Refused::Nobody(reason) => ApiError::forbidden(reason),
            Refused::NoRoom => ApiError::unavailable(
                "too many connections of this tenant, and all of them are at work: close some of them first",
            ),
        })?;
        let path = percent_decode_str(request.uri().path())
            .decode_utf8()
            .map_err(|_| ApiError::bad_request("the path is not UTF-8"))?;
        let (version, path) = ApiVersion::of_path(&path);
        let version = version.map_or(Ok(version::MAXIMUM), ApiVersion::check)?;
        let path = path.to_owned();
        let query = Query::checked(request.uri().query().unwrap_or_default())?;
        let wants_upgrade = request.headers().contains_key(hyper::header::UPGRADE);
        let upgrade = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
        let (head, body) = request.into_parts();
        Ok(Self {
            method: head.method,
            path,
            query,
            headers: head.headers,
            version,
            tenant,
            controller,
            session: session.clone(),
            body,
            upgrade,
        })
    }

    pub fn controller(&self) -> &Controller {
        self.controller
            .as_ref()
            .expect("calls of a node that is locked are answered by `locked`, which needs none")
    }

    /// Those who are let in, this one among them.
    pub fn clients(&self) -> Option<&Clients> {
        self.session.0.docker.clients()
    }

    /// The tenant's container of that name, id, or beginning of an id.
    pub fn container(&self, name: &str) -> Result<Placed, ApiError> {
        self.controller()
            .find(&self.tenant, name.trim_start_matches('/'))
            .map_err(|refusal| match ApiError::from(refusal) {
                // In the caller's words, slash and all.
                error if error.message().starts_with("No such container") => {
                    ApiError::no_such_container(name)
                }
                error => error,
            })
    }

    /// The body as it comes.
    pub fn take_body(self) -> Incoming {
        self.body
    }

    /// What an upgrade of the connection and its body need.
    pub fn into_parts(self) -> (Session, Option<OnUpgrade>, Incoming) {
        (self.session, self.upgrade, self.body)
    }

    /// The body as JSON.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        let content_type = self.headers.get(CONTENT_TYPE).cloned();
        let content_type = content_type
            .as_ref()
            .map(|value| value.to_str().unwrap_or_default());
        body::decode(content_type, &self.read_body().await?)
    }

    async fn read_body(&mut self) -> Result<Bytes, ApiError> {
        let too_large = || ApiError::too_large(format!("the body is larger than {JSON_MAX} bytes"));
        let read = Limited::new(&mut self.body, JSON_MAX).collect();
        match tokio::time::timeout(JSON_TIMEOUT, read).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(error)) => Err(ApiError::bad_request(format!("reading the body: {error}"))),
            Err(_) => Err(ApiError::bad_request(format!(
                "the body did not arrive within {} s",
                JSON_TIMEOUT.as_secs()
            ))),
        }
    }
}
