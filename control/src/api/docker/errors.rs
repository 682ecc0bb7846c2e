//! From what went wrong to status codes: the one place that knows both.

use hyper::StatusCode;

use super::answer::{self, Response};
use crate::agent::AgentError;
use crate::cluster::membership::MembershipError;
use crate::controller::Error;
use crate::state::{InvalidSignal, Refusal};

/// An answer that is not the one hoped for: docker's `{"message": …}` with a status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 401: somebody else doesn't take the caller's credentials.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    /// 403: not for this caller.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// 404: no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 409: the thing is not in a state for this.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// 413: the body is larger than it may be.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    /// 500: our fault, or the machine's.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// 501: not in the way in which it was set up, in docker's own words.
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// 501: docker has it, this doesn't. `what` is the sentence's subject.
    pub fn unsupported(what: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            format!("{what} not supported by Hearth yet"),
        )
    }

    /// 503: not at the moment.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// docker's words of a node outside a swarm that is asked for what only a manager has; clients take the status as the sign.
    pub fn no_swarm() -> Self {
        Self::unavailable(
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
        )
    }

    /// No container of that name or id, in docker's words.
    pub fn no_such_container(name: &str) -> Self {
        Self::not_found(format!("No such container: {name}"))
    }

    /// No image of that name or id, in docker's words.
    pub fn no_such_image(name: &str) -> Self {
        Self::not_found(format!("No such image: {name}"))
    }

    /// For the user.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// As docker sends it.
    pub fn into_response(self) -> Response {
        answer::json(self.status, &serde_json::json!({ "message": self.message }))
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => refusal.into(),
            Error::Agent(error) => error.into(),
            Error::Image(error) => error.into(),
            Error::Quota(error) => Self::forbidden(error.to_string()),
            Error::Pending(_) | Error::Unavailable(_) => Self::unavailable(error.to_string()),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::NoSuchContainer(_) | Refusal::NoSuchImage(_) => Self::not_found(message),
            Refusal::NameInUse { .. }
            | Refusal::Running(_)
            | Refusal::BeingRemoved(_)
            | Refusal::NotRunning(_)
            | Refusal::Paused(_)
            | Refusal::TooMany { .. }
            | Refusal::ImageInUse { .. } => Self::conflict(message),
            // docker's status for it, and its words around it, which Compose looks for.
            Refusal::PortInUse { .. } => Self::internal(format!(
                "driver failed programming external connectivity: {message}"
            )),
            Refusal::NoFreeAddress | Refusal::TooNew | Refusal::TooOld { .. } => {
                Self::unavailable(message)
            }
            // docker has no status of its own for it: clients look for the words.
            Refusal::OutOfSequence | Refusal::NotPaused(_) => Self::internal(message),
            Refusal::NodeIsUp(_) | Refusal::LastManager => Self::bad_request(message),
            Refusal::NoSuchNode(_) => Self::not_found(message),
        }
    }
}

impl From<MembershipError> for ApiError {
    fn from(error: MembershipError) -> Self {
        let message = error.to_string();
        match error {
            MembershipError::Alone | MembershipError::Unavailable(_) => Self::unavailable(message),
            MembershipError::Refused(_) => Self::bad_request(message),
            MembershipError::State(refusal) => refusal.into(),
        }
    }
}

impl From<InvalidSignal> for ApiError {
    fn from(error: InvalidSignal) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<AgentError> for ApiError {
    fn from(error: AgentError) -> Self {
        let message = error.to_string();
        match error {
            AgentError::NotRunning(_) | AgentError::ExecStarted(_) | AgentError::TooMany { .. } => {
                Self::conflict(message)
            }
            AgentError::NoSuchExec(_) => Self::not_found(message),
            AgentError::Start { .. } => Self::bad_request(message),
            AgentError::Exhausted(_)
            | AgentError::LeaseOver
            | AgentError::Nowhere { .. }
            | AgentError::OutOfReach { .. } => Self::unavailable(message),
            AgentError::DiskFull => Self::new(StatusCode::INSUFFICIENT_STORAGE, message),
            AgentError::Failed { .. } | AgentError::Told(_) => Self::internal(message),
        }
    }
}

impl From<hearth_image::Error> for ApiError {
    fn from(error: hearth_image::Error) -> Self {
        use hearth_image::Error as E;
        let message = error.to_string();
        match error {
            E::InvalidReference { .. }
            | E::InvalidDigest { .. }
            | E::Malformed { .. }
            | E::UnsupportedMediaType { .. }
            | E::TooLarge { .. } => Self::bad_request(message),
            // Not 401: the CLI would ask for a password in the middle of a script.
            E::NotFound { .. }
            | E::Unauthorized { .. }
            | E::NoSuchImage { .. }
            | E::UnsupportedPlatform { .. } => Self::not_found(message),
            E::NoSpace => Self::new(StatusCode::INSUFFICIENT_STORAGE, message),
            _ => Self::internal(message),
        }
    }
}
