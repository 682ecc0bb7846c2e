//! `POST /swarm/init`, `/join`, `/leave`, `/unlock`, and `GET /swarm/unlockkey`.

use bollard_stubs::models::SwarmSpec;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::{active, for_owner, is_manager, managing, nodes, spec};
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::cluster::membership::{Local, Locking, Status};
use crate::config::MemberAddress;
use crate::state::{Health, NodeWanted};
use crate::trust::{Token, UnlockKey};

/// Where nodes meet, on every address: what docker's CLI sends where nobody says otherwise.
const LISTENS: [&str; 4] = ["", "0.0.0.0:2377", "0.0.0.0", "[::]:2377"];

/// What docker's `SwarmInitRequest` and `SwarmJoinRequest` say of how a node is reached; Hearth's nodes find that out.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Reached {
    listen_addr: String,
    advertise_addr: String,
    data_path_addr: String,
    data_path_port: u32,
    /// Of `init`.
    default_addr_pool: Vec<String>,
    force_new_cluster: bool,
    auto_lock_managers: bool,
    spec: SwarmSpec,
    /// Of `join`.
    remote_addrs: Vec<String>,
    join_token: String,
    /// Of both.
    availability: String,
}

impl Reached {
    /// All that is read of it.
    #[cfg(feature = "fuzzing")]
    pub(super) fn understand(&self) {
        let _ = (
            self.check(),
            self.wanted(),
            self.join_token.parse::<Token>(),
        );
        let remotes = self.remote_addrs.iter().map(|text| remote(text));
        let _ = remotes.filter(Result::is_ok).count();
    }

    /// Refuses what would have no effect.
    fn check(&self) -> Result<(), ApiError> {
        let given = [
            (
                !LISTENS.contains(&self.listen_addr.as_str()),
                "listening elsewhere than on port 2377 of every address (--listen-addr) is",
            ),
            (
                !self.advertise_addr.is_empty(),
                "another address to be reached by (--advertise-addr) is",
            ),
            (
                !self.data_path_addr.is_empty() || self.data_path_port != 0,
                "another way for containers' packets (--data-path-addr, --data-path-port) is",
            ),
            (
                !self.default_addr_pool.is_empty(),
                "addresses for networks (--default-addr-pool) are",
            ),
            (
                self.force_new_cluster,
                "founding a cluster anew from what one node has of it (--force-new-cluster) is",
            ),
        ];
        match given.iter().find(|(given, _)| *given) {
            Some((_, what)) => Err(ApiError::unsupported(what)),
            None => Ok(()),
        }
    }

    fn wanted(&self) -> Result<NodeWanted, ApiError> {
        let availability = match self.availability.as_str() {
            "" => Default::default(),
            word => nodes::availability(word)?,
        };
        Ok(NodeWanted {
            availability,
            ..NodeWanted::default()
        })
    }
}

/// Who is in a cluster neither founds nor joins one.
fn outside(call: &Call) -> Result<(), ApiError> {
    match call.controller().membership().status().local {
        Local::Inactive => Ok(()),
        _ => Err(ApiError::unavailable(
            "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.",
        )),
    }
}

/// `POST /swarm/init`.
pub async fn init(mut call: Call) -> Answer {
    for_owner(&call)?;
    let asked: Reached = call.json().await?;
    outside(&call)?;
    asked.check()?;
    spec::check(&asked.spec)?;
    let membership = call.controller().membership();
    membership.init(asked.wanted()?).await?;
    if asked.auto_lock_managers || spec::locks(&asked.spec) {
        membership.lock(Locking::On).await?;
    }
    answer::ok(&membership.status().node.to_string())
}

/// `POST /swarm/join`.
pub async fn join(mut call: Call) -> Answer {
    for_owner(&call)?;
    let asked: Reached = call.json().await?;
    outside(&call)?;
    let bad = |message: String| ApiError::bad_request(message);
    if asked.remote_addrs.is_empty() {
        return Err(bad("at least 1 RemoteAddr is required to join".to_owned()));
    }
    let remotes = asked.remote_addrs.iter().map(|text| remote(text));
    let remotes = remotes.collect::<Result<_, _>>()?;
    asked.check()?;
    let token: Token = asked.join_token.parse().map_err(|e| {
        let error: crate::trust::TokenError = e;
        bad(error.to_string())
    })?;
    let membership = call.controller().membership();
    membership
        .join(remotes, token.to_string(), asked.wanted()?)
        .await?;
    answer::status(StatusCode::OK)
}

/// `host:port` of a member.
fn remote(text: &str) -> Result<String, ApiError> {
    let invalid = |e| ApiError::bad_request(format!("invalid remoteAddr {text:?}: {e}"));
    if text.is_empty() {
        return Err(invalid("invalid empty address".to_owned()));
    }
    let address = MemberAddress::try_from(text.to_owned()).map_err(invalid)?;
    Ok(match address.host.contains(':') {
        true => format!("[{}]:{}", address.host, address.port),
        false => format!("{}:{}", address.host, address.port),
    })
}

/// `POST /swarm/leave`.
pub async fn leave(call: &Call) -> Answer {
    for_owner(call)?;
    let membership = call.controller().membership();
    let status = membership.status();
    let force = call.query.flag("force");
    match status.local {
        Local::Inactive => {
            return Err(ApiError::unavailable("This node is not part of a swarm"));
        }
        Local::Locked if !force => return Err(leaves_locked(&status.local)),
        _ => {}
    }
    if !force && let Some(reason) = stays(call, &status) {
        return Err(ApiError::unavailable(reason));
    }
    membership.leave(force).await?;
    answer::status(StatusCode::OK)
}

/// Why a node is not to leave without being forced to: it is a manager.
fn stays(call: &Call, status: &Status) -> Option<String> {
    let state = call.controller().state();
    if !is_manager(&state, status.node) {
        return None;
    }
    let others = state
        .nodes
        .values()
        .filter(|node| node.id != status.node && is_manager(&state, node.id));
    let (ready, down): (Vec<_>, Vec<_>) = others.partition(|node| node.health == Health::Ready);
    let consequence = match ready.is_empty() {
        true if down.is_empty() => {
            "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message.".to_owned()
        }
        true => format!(
            "Removing this node leaves no manager that is there, out of {}: without one, nothing can be changed any more. Use `--force` to suppress this message.",
            down.len() + 1
        ),
        false => format!(
            "{} others go on without it, and start what runs here and may run elsewhere. Use `--force` to suppress this message.",
            ready.len()
        ),
    };
    Some(format!(
        "You are attempting to leave the swarm on a node that is participating as a manager. {consequence}"
    ))
}

/// Why a node whose swarm is locked, or has just been opened, isn't given up.
pub fn leaves_locked(local: &Local) -> ApiError {
    match local {
        Local::Locked => ApiError::unavailable(
            "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.",
        ),
        local => super::not_active(local),
    }
}

/// `GET /swarm/unlockkey`: where there is none, docker's CLI says so in its own words.
pub fn unlock_key(call: &Call) -> Answer {
    managing(call)?;
    let key = call.controller().membership().unlock_key()?;
    answer::ok(&json!({ "UnlockKey": key }))
}

/// docker's `SwarmUnlockRequest`.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
pub struct Unlock {
    unlock_key: String,
}

impl Unlock {
    pub fn key(&self) -> Result<UnlockKey, ApiError> {
        let key = self.unlock_key.trim().parse();
        key.map_err(|error: crate::trust::SecretError| ApiError::bad_request(error.to_string()))
    }
}

/// `POST /swarm/unlock`, of a node that isn't locked: those that are answer elsewhere.
pub fn unlock(call: &Call) -> Answer {
    for_owner(call)?;
    match call.controller().membership().status().local {
        Local::Active => Err(ApiError::conflict("swarm is not locked")),
        _ => active(call).and_then(|_| answer::status(StatusCode::OK)),
    }
}
