//! Volumes: none yet, said in the forms that clients understand.

use serde_json::json;

use super::answer::{self, Answer};
use super::call::Call;
use super::errors::ApiError;

/// `GET /volumes`.
pub fn list(call: &Call) -> Answer {
    call.query
        .filters(&["dangling", "driver", "label", "name"])?
        .truth("dangling")?;
    answer::ok(&json!({ "Volumes": [], "Warnings": [] }))
}

/// `GET /volumes/{name}`.
pub fn inspect(name: &str) -> Answer {
    Err(ApiError::not_found(format!("get {name}: no such volume")))
}

/// `POST /volumes/prune`.
pub fn prune(call: &Call) -> Answer {
    call.query
        .filters(&["all", "label", "label!"])?
        .truth("all")?;
    answer::ok(&json!({ "VolumesDeleted": [], "SpaceReclaimed": 0 }))
}
