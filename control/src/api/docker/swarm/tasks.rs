//! `GET /tasks` and `GET /tasks/{id}`: a tenant's containers as `docker node ps` shows them, by the node that they are on.
//!
//! There are no services yet. A task is a container, and stands where docker has a service's first (and only) one: by the container's name.

use serde_json::{Value, json};

use super::{active, nodes};
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::api::docker::query::Filters;
use crate::api::docker::timestamps;
use crate::state::{Phase, Placed, State};

/// Filters of `GET /tasks`.
const FILTERS: [&str; 7] = [
    "desired-state",
    "id",
    "label",
    "name",
    "node",
    "runtime",
    "service",
];
/// docker's states of a task, those that one can be wanted to be in.
const DESIRED: [&str; 6] = [
    "ready", "running", "shutdown", "accepted", "remove", "complete",
];

/// What it is, and since when, in docker's words.
fn current(container: &Placed) -> (&'static str, u64, String) {
    let status = &container.status;
    let failure = status.failure.as_ref().map(|failure| &failure.message);
    match container.phase() {
        phase if container.node().is_none() && (container.wanted.up || phase == Phase::Created) => {
            (
                "pending",
                container.created_ns,
                container.pod.pending.clone(),
            )
        }
        Phase::Created => ("assigned", container.created_ns, String::new()),
        Phase::Starting => ("starting", container.created_ns, String::new()),
        Phase::Running => ("running", status.started_ns, String::new()),
        Phase::Exited => match (failure, status.exit.code) {
            (Some(message), _) => ("rejected", status.finished_ns, message.clone()),
            (None, 0) => ("complete", status.finished_ns, String::new()),
            (None, code) => (
                "failed",
                status.finished_ns,
                format!("task: non-zero exit ({code})"),
            ),
        },
    }
}

fn desired(container: &Placed) -> &'static str {
    match container.phase() {
        _ if container.wanted.up => "running",
        Phase::Created => "ready",
        _ => "shutdown",
    }
}

/// docker's `Task`.
fn describe(container: &Placed) -> Value {
    let (state, since_ns, error) = current(container);
    let node = container.node().map(|node| node.to_string());
    let created = timestamps::rfc3339(container.created_ns);
    json!({
        "ID": container.id.to_string(),
        "Version": { "Index": container.version.max(container.pod.version) },
        "CreatedAt": created,
        "UpdatedAt": timestamps::rfc3339(since_ns),
        "Labels": {},
        "Spec": {
            "ContainerSpec": { "Image": container.image_name, "Labels": container.spec.labels },
            "Runtime": "container",
        },
        "ServiceID": container.name.as_str(),
        "Slot": 1,
        "NodeID": node.unwrap_or_default(),
        "Status": {
            "Timestamp": timestamps::rfc3339(since_ns),
            "State": state,
            "Message": state,
            "Err": error,
            "ContainerStatus": {
                "ContainerID": container.id.to_string(),
                "PID": container.status.pid,
                "ExitCode": container.status.exit.code,
            },
            "PortStatus": {},
        },
        "DesiredState": desired(container),
    })
}

/// The filters `node`, whose values are ids or names, as ids.
fn on(state: &State, filters: &Filters) -> Result<Vec<String>, ApiError> {
    let values = filters.values("node").iter();
    values
        .map(|text| Ok(nodes::find(state, text)?.id.to_string()))
        .collect()
}

fn passes(container: &Placed, filters: &Filters) -> bool {
    let label = |name: &str| container.spec.labels.get(name).map(String::as_str);
    let name = container.name.as_str();
    filters.any("id", |id| container.id.begins_with(id))
        && filters.any("name", |beginning| name.starts_with(beginning.as_str()))
        && filters.any("service", |service| name == service)
        && filters.any("desired-state", |wanted| {
            desired(container).eq_ignore_ascii_case(wanted)
        })
        && filters.any("runtime", |runtime| runtime == "container")
        && filters.labels(label)
}

/// `GET /tasks`.
pub fn list(call: &Call) -> Answer {
    active(call)?;
    let filters = call.query.filters(&FILTERS)?;
    let known = |word: &&String| !DESIRED.contains(&word.to_ascii_lowercase().as_str());
    if let Some(word) = filters.values("desired-state").iter().find(known) {
        return Err(ApiError::bad_request(format!(
            "Invalid desired-state filter: '{word}'"
        )));
    }
    let state = call.controller().state();
    let on = on(&state, &filters)?;
    let is_there = |container: &Placed| {
        let node = container.node().map(|node| node.to_string());
        on.is_empty() || node.is_some_and(|node| on.contains(&node))
    };
    let tasks = state
        .of_tenant(&call.tenant)
        .filter(|container| is_there(container) && passes(container, &filters));
    let shown: Vec<Value> = tasks.map(|container| describe(&container)).collect();
    answer::ok(&shown)
}

/// `GET /tasks/{id}`.
pub fn inspect(call: &Call, id: &str) -> Answer {
    active(call)?;
    match call.container(id) {
        Ok(container) => answer::ok(&describe(&container)),
        Err(_) => Err(ApiError::not_found(format!("task {id} not found"))),
    }
}
