//! docker's swarm, as far as it is the cluster itself: who belongs to it (`membership`), what is said of it as a whole (`spec`), its
//! nodes, and what runs on them as tasks. Nodes are managed by the tenant `owner` and nobody else; any node that is a manager answers.

pub mod configs;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod membership;
pub mod nodes;
mod spec;
mod tasks;

pub use membership::{Unlock, init, join, leave, leaves_locked, unlock, unlock_key};
pub use nodes::{
    inspect as inspect_node, list as list_nodes, remove as remove_node, update as update_node,
};
pub use spec::{inspect, update};
pub use tasks::{inspect as inspect_task, list as list_tasks};

use serde_json::{Value, json};

use super::call::Call;
use super::errors::ApiError;
use crate::cluster::membership::{Local, Status};
use crate::state::{Node, NodeId, Role, State, Tenant};

/// Only the owner manages machines: a tenant's certificate says that it may run containers, on machines of somebody else.
pub fn for_owner(call: &Call) -> Result<(), ApiError> {
    if call.tenant.as_str() == Tenant::OWNER {
        return Ok(());
    }
    Err(ApiError::forbidden(format!(
        "nodes are managed by their owner: this takes a client certificate with O={}, and this one has O={}",
        Tenant::OWNER,
        call.tenant
    )))
}

/// That this node belongs to a cluster and takes part in it, in docker's words where it doesn't.
fn active(call: &Call) -> Result<Status, ApiError> {
    let status = call.controller().membership().status();
    match &status.local {
        Local::Active => Ok(status),
        local => Err(not_active(local)),
    }
}

/// Why a node that isn't active manages nothing.
pub fn not_active(local: &Local) -> ApiError {
    match local {
        Local::Inactive => ApiError::no_swarm(),
        Local::Locked => ApiError::unavailable(
            "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it.",
        ),
        Local::Pending | Local::Active => ApiError::unavailable(
            "This node is not a swarm manager. Manager is being prepared or has trouble connecting to the cluster.",
        ),
        Local::Error(reason) => ApiError::unavailable(reason.clone()),
    }
}

/// What managing the cluster takes: a manager of it, and its owner.
fn managing(call: &Call) -> Result<Status, ApiError> {
    let status = active(call)?;
    for_owner(call)?;
    if !is_manager(&call.controller().state(), status.node) {
        return Err(ApiError::unavailable(
            "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.",
        ));
    }
    Ok(status)
}

/// A node that the state doesn't know yet is what it will be unless somebody says otherwise.
fn is_manager(state: &State, node: NodeId) -> bool {
    state
        .nodes
        .get(&node)
        .is_none_or(|node| node.wanted.role == Role::Manager)
}

/// What docker has only in a swarm, and Hearth nowhere yet; `what` is the sentence's subject.
pub fn not_yet(call: &Call, what: &'static str) -> ApiError {
    match active(call) {
        Ok(_) => ApiError::unsupported(what),
        Err(error) => error,
    }
}

/// docker's name for where this node stands.
pub fn local_state(local: &Local) -> &'static str {
    match local {
        Local::Inactive => "inactive",
        Local::Pending => "pending",
        Local::Active => "active",
        Local::Locked => "locked",
        Local::Error(_) => "error",
    }
}

/// The header `Swarm` of `/_ping`: docker's CLI shows commands by it.
pub fn ping_header(call: &Call) -> &'static str {
    let status = call.controller().membership().status();
    match status.local {
        Local::Active if is_manager(&call.controller().state(), status.node) => "active/manager",
        Local::Active => "active/worker",
        other => local_state(&other),
    }
}

/// The section `Swarm` of `GET /info`. Tenants see where they are, and nothing of the other machines.
pub fn info(call: &Call) -> Value {
    let status = call.controller().membership().status();
    let error = match &status.local {
        Local::Error(reason) => reason.as_str(),
        _ => "",
    };
    let mut shown = json!({
        "NodeID": "",
        "NodeAddr": "",
        "LocalNodeState": local_state(&status.local),
        "ControlAvailable": false,
        "Error": error,
        "RemoteManagers": null,
    });
    if matches!(status.local, Local::Inactive | Local::Locked) {
        return shown;
    }
    shown["NodeID"] = json!(status.node.to_string());
    if for_owner(call).is_err() {
        return shown;
    }
    let address = status.address.map(|address| address.ip().to_string());
    shown["NodeAddr"] = json!(address.unwrap_or_default());
    let state = call.controller().state();
    let managers: Vec<&Node> = state
        .nodes
        .values()
        .filter(|node| node.wanted.role == Role::Manager)
        .collect();
    let remotes = managers.iter().map(|node| {
        json!({ "NodeID": node.id.to_string(), "Addr": nodes::address(node, &status.standing) })
    });
    shown["RemoteManagers"] = Value::Array(remotes.collect());
    if status.local == Local::Active && is_manager(&state, status.node) {
        shown["ControlAvailable"] = json!(true);
        shown["Nodes"] = json!(state.nodes.size());
        shown["Managers"] = json!(managers.len());
        shown["Cluster"] = spec::describe(&state.cluster, &status);
    }
    shown
}

/// The version that an update was made from. `of`: of what.
fn version(call: &Call, of: &str) -> Result<u64, ApiError> {
    let text = call.query.get("version").unwrap_or_default();
    text.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "invalid {of} version '{text}': strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}
