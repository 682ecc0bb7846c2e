//! `GET /nodes`, `GET`, `DELETE /nodes/{id}`, `POST /nodes/{id}/update`.
//!
//! A node's id is 16 hexadecimal digits; clients take ids as text, and show them whole.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{managing, spec, version};
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::api::docker::query::Filters;
use crate::api::docker::timestamps;
use crate::clock::now_ns;
use crate::cluster::membership::Status;
use crate::raft::Standing;
use crate::state::{Availability, Command, Health, Node, NodeWanted, Role, State};

/// Filters of `GET /nodes`.
const FILTERS: [&str; 6] = ["id", "label", "membership", "name", "node.label", "role"];
/// Billionths of a processor.
const NANO: u64 = 1_000_000_000;
/// What every node has of what docker calls plugins, by type.
const PLUGINS: [(&str, &str); 4] = [
    ("Log", "json-file"),
    ("Log", "local"),
    ("Network", "bridge"),
    ("Network", "null"),
];

/// docker's `NodeSpec`.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Spec {
    name: String,
    labels: BTreeMap<String, String>,
    role: String,
    availability: String,
}

/// docker's word for an availability.
pub fn availability(word: &str) -> Result<Availability, ApiError> {
    match word.to_ascii_lowercase().as_str() {
        "active" => Ok(Availability::Active),
        "pause" => Ok(Availability::Pause),
        "drain" => Ok(Availability::Drain),
        _ => Err(ApiError::bad_request(format!(
            "invalid Availability: {word:?}"
        ))),
    }
}

fn role(word: &str) -> Option<Role> {
    match word.to_ascii_lowercase().as_str() {
        "manager" => Some(Role::Manager),
        "worker" => Some(Role::Worker),
        _ => None,
    }
}

impl Spec {
    fn wanted(self) -> Result<NodeWanted, ApiError> {
        let unknown = || ApiError::bad_request(format!("invalid Role: {:?}", self.role));
        Ok(NodeWanted {
            role: role(&self.role).ok_or_else(unknown)?,
            availability: availability(&self.availability)?,
            name: self.name,
            labels: self.labels,
        })
    }
}

/// What a body says is wanted of a node.
#[cfg(feature = "fuzzing")]
pub fn understand(bytes: &[u8]) -> Result<NodeWanted, ApiError> {
    use crate::api::docker::{answer::JSON, body};
    body::decode::<Spec>(Some(JSON), bytes)?.wanted()
}

/// Where peers reach a node, as far as anybody knows.
pub fn address(node: &Node, standing: &Standing) -> String {
    let told = node.is.address.map(|address| address.to_string());
    told.or_else(|| standing.members.get(&node.id).cloned())
        .unwrap_or_default()
}

/// docker's `Node`.
fn describe(node: &Node, status: &Status) -> Value {
    let joined = timestamps::rfc3339(node.joined_ns);
    let wanted = &node.wanted;
    let address = address(node, &status.standing);
    // Without its port, and of an IPv6 one without its brackets.
    let host = address.rsplit_once(':').map_or("", |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let plugins: Vec<Value> = PLUGINS
        .iter()
        .map(|(kind, name)| json!({ "Type": kind, "Name": name }))
        .collect();
    let mut shown = json!({
        "ID": node.id.to_string(),
        "Version": { "Index": node.version },
        "CreatedAt": joined,
        "UpdatedAt": joined,
        "Spec": {
            "Name": wanted.name,
            "Labels": wanted.labels,
            "Role": role_word(wanted.role),
            "Availability": availability_word(wanted.availability),
        },
        "Description": {
            "Hostname": node.is.hostname,
            "Platform": { "Architecture": "x86_64", "OS": "linux" },
            "Resources": { "NanoCPUs": node.is.cpus.saturating_mul(NANO), "MemoryBytes": node.is.memory_bytes },
            "Engine": { "EngineVersion": node.is.version, "Labels": node.is.labels, "Plugins": plugins },
            "TLSInfo": spec::tls(&status.issuer),
        },
        "Status": { "State": state_word(node), "Addr": host },
    });
    if let Health::Down { reason } = &node.health {
        shown["Status"]["Message"] = json!(reason);
    }
    if wanted.role == Role::Manager {
        shown["ManagerStatus"] = json!({
            "Leader": status.standing.leader == Some(node.id),
            "Reachability": if node.is_ready() { "reachable" } else { "unreachable" },
            "Addr": address,
        });
    }
    shown
}

/// docker's word for what [`availability`] reads.
pub fn availability_word(availability: Availability) -> &'static str {
    match availability {
        Availability::Active => "active",
        Availability::Pause => "pause",
        Availability::Drain => "drain",
    }
}

/// docker's word for whether it is there.
pub fn state_word(node: &Node) -> &'static str {
    match node.is_ready() {
        true => "ready",
        false => "down",
    }
}

/// docker's word for what it may do.
pub fn role_word(role: Role) -> &'static str {
    match role {
        Role::Manager => "manager",
        Role::Worker => "worker",
    }
}

/// Names that a node goes by, in lower case.
fn names(node: &Node) -> [String; 2] {
    [&node.is.hostname, &node.wanted.name].map(|name| name.to_ascii_lowercase())
}

/// Every `key` or `key=value` is among the labels; as swarm has it, `key=` is `key`.
fn has_labels(asked: &[String], labels: &BTreeMap<String, String>) -> bool {
    asked.iter().all(|label| {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        labels
            .get(key)
            .is_some_and(|found| value.is_empty() || found == value)
    })
}

/// Whether a node passes the filters, after swarm's rules: names and ids by their beginnings.
fn passes(node: &Node, filters: &Filters) -> bool {
    let names = names(node);
    filters.any("name", |asked| {
        let asked = asked.to_ascii_lowercase();
        names.iter().any(|name| !name.is_empty() && name.starts_with(&asked))
    }) && filters.any("id", |asked| node.id.to_string().starts_with(asked.as_str()))
        && has_labels(filters.values("label"), &node.is.labels)
        && has_labels(filters.values("node.label"), &node.wanted.labels)
        && filters.any("role", |asked| role(asked) == Some(node.wanted.role))
        // Nobody waits to be accepted: the token has decided.
        && filters.any("membership", |asked| asked.eq_ignore_ascii_case("accepted"))
}

/// The node of this id, of this name, or whose id alone begins so, in this order.
pub fn find<'a>(state: &'a State, text: &str) -> Result<&'a Node, ApiError> {
    let lower = text.to_ascii_lowercase();
    let all = || state.nodes.values();
    if let Some(node) = all().find(|node| node.id.to_string() == text) {
        return Ok(node);
    }
    let mut found: Vec<&Node> = all().filter(|node| names(node).contains(&lower)).collect();
    if found.is_empty() {
        found = all()
            .filter(|node| node.id.to_string().starts_with(text))
            .collect();
    }
    match found[..] {
        [node] => Ok(node),
        [] => Err(ApiError::not_found(format!("node {text} not found"))),
        _ => Err(ApiError::bad_request(format!(
            "node {text} is ambiguous ({} matches found)",
            found.len()
        ))),
    }
}

/// `GET /nodes`.
pub fn list(call: &Call) -> Answer {
    let status = managing(call)?;
    let filters = call.query.filters(&FILTERS)?;
    let known = |name: &str, known: &dyn Fn(&str) -> bool| match filters
        .values(name)
        .iter()
        .find(|word| !known(word))
    {
        Some(word) => Err(ApiError::bad_request(format!(
            "Invalid {name} filter: '{word}'"
        ))),
        None => Ok(()),
    };
    known("role", &|word| role(word).is_some())?;
    known("membership", &|word| {
        ["accepted", "pending"].contains(&word.to_ascii_lowercase().as_str())
    })?;
    let state = call.controller().state();
    let nodes = state.nodes.values().filter(|node| passes(node, &filters));
    let shown: Vec<Value> = nodes.map(|node| describe(node, &status)).collect();
    answer::ok(&shown)
}

/// `GET /nodes/{id}`.
pub fn inspect(call: &Call, text: &str) -> Answer {
    let status = managing(call)?;
    let state = call.controller().state();
    answer::ok(&describe(find(&state, text)?, &status))
}

/// `POST /nodes/{id}/update`.
pub async fn update(mut call: Call, text: &str) -> Answer {
    managing(&call)?;
    let asked: Spec = call.json().await?;
    let version = version(&call, "node")?;
    let wanted = asked.wanted()?;
    let node = find(&call.controller().state(), text)?.id;
    let update = Command::UpdateNode {
        at_ns: now_ns(),
        node,
        version,
        wanted,
    };
    call.controller().propose(update).await?;
    answer::status(StatusCode::OK)
}

/// `DELETE /nodes/{id}`. Unlike docker's, a manager needs no demotion before: its vote goes to another by itself.
pub async fn remove(call: &Call, text: &str) -> Answer {
    let status = managing(call)?;
    let node = find(&call.controller().state(), text)?.id;
    if node == status.node {
        return Err(ApiError::bad_request(format!(
            "node {node} is the one that was asked: ask another node to remove it, or have it leave by `docker swarm leave`"
        )));
    }
    let force = call.query.flag("force");
    let membership = call.controller().membership();
    membership.remove(node, force).await?;
    answer::status(StatusCode::OK)
}
