//! What a node answers before it is unlocked: that it is locked, and `POST /swarm/unlock`.
//!
//! docker's daemon answers for its containers while it is locked. Here all is the cluster's, and the node takes no part in that: after a
//! boot there is nothing that runs. A fault of control's alone locks nothing.

use hyper::{Method, StatusCode};
use serde_json::json;

use super::answer::{self, Answer};
use super::call::Call;
use super::errors::ApiError;
use super::swarm::{self, Unlock};
use super::system;
use crate::cluster::lock::LockError;
use crate::cluster::membership::{Door, Local};

/// As the router's rows, and few enough to be read.
pub async fn route(call: Call, door: &dyn Door) -> Answer {
    let local = match door.is_open() {
        true => Local::Pending,
        false => Local::Locked,
    };
    match (&call.method, call.path.as_str()) {
        (&Method::GET | &Method::HEAD, "/_ping") => Ok(system::pong(swarm::local_state(&local))),
        (&Method::GET, "/version") => system::version_of(door.info()),
        (&Method::GET, "/info") => Ok(info(door, &local)),
        (&Method::POST, "/swarm/unlock") => unlock(call, door, &local).await,
        (&Method::POST, "/swarm/leave") => leave(&call, door, &local),
        _ => Err(swarm::not_active(&local)),
    }
}

fn info(door: &dyn Door, local: &Local) -> answer::Response {
    let node = door.info();
    let shown = json!({
        "ID": node.name,
        "Name": node.name,
        "ServerVersion": node.version,
        "OperatingSystem": format!("Hearth {}", node.version),
        "OSType": "linux",
        "Architecture": "x86_64",
        "KernelVersion": node.kernel_version,
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": swarm::local_state(local),
            "ControlAvailable": false,
            "Error": swarm::not_active(local).message(),
            "RemoteManagers": null,
        },
        "Warnings": [
            "WARNING: this node is locked: nothing runs on it, and others count it as down, until `docker swarm unlock`",
        ],
    });
    answer::json(StatusCode::OK, &shown)
}

async fn unlock(mut call: Call, door: &dyn Door, local: &Local) -> Answer {
    swarm::for_owner(&call)?;
    let asked: Unlock = call.json().await?;
    if *local != Local::Locked {
        return Err(ApiError::conflict("swarm is not locked"));
    }
    let key = asked.key()?;
    door.unlock(&key).map_err(refused)?;
    answer::status(StatusCode::OK)
}

fn leave(call: &Call, door: &dyn Door, local: &Local) -> Answer {
    swarm::for_owner(call)?;
    if *local != Local::Locked || !call.query.flag("force") {
        return Err(swarm::leaves_locked(local));
    }
    door.leave().map_err(refused)?;
    answer::status(StatusCode::OK)
}

fn refused(error: LockError) -> ApiError {
    let message = error.to_string();
    match error {
        LockError::Key => ApiError::unauthorized(message),
        _ => ApiError::internal(message),
    }
}
