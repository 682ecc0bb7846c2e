//! `GET /events`: what happened, and what happens.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use futures_util::stream;
use serde_json::json;

use super::answer::{self, Answer};
use super::call::Call;
use super::errors::ApiError;
use super::query::Filters;
use super::swarm::nodes;
use super::timestamps;
use super::version::ApiVersion;
use crate::clock;
use crate::cluster::membership::Local;
use crate::state::{Change, Node, Object, Role, What};

/// Filters of `GET /events`.
const FILTERS: [&str; 14] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EventKind {
    Container,
    Image,
    Node,
}

/// A change in docker's words (Engine API, `SystemEvents`).
struct Event {
    kind: EventKind,
    /// The word, without what may follow it.
    action: &'static str,
    /// What follows it: of an exec, its command line.
    line: Option<String>,
    /// The container's, image's or node's id.
    id: String,
    /// `name`, `image`, `exitCode`, labels.
    attributes: BTreeMap<String, String>,
    at_ns: u64,
}

/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;

impl Event {
    /// None: docker's clients know no such event.
    fn of(change: &Change) -> Option<Self> {
        let (action, line) = match &change.what {
            What::Created => ("create", None),
            What::Started => ("start", None),
            What::Died { .. } => ("die", None),
            What::Signalled(_) => ("kill", None),
            What::Stopped => ("stop", None),
            What::Restarted => ("restart", None),
            What::Renamed { .. } => ("rename", None),
            What::OutOfMemory => ("oom", None),
            What::Paused => ("pause", None),
            What::Unpaused => ("unpause", None),
            What::Removed => match &change.object {
                Object::Image { .. } => ("delete", None),
                Object::Node(_) => ("remove", None),
                _ => ("destroy", None),
            },
            What::Pulled => ("pull", None),
            What::Loaded => ("load", None),
            What::Tagged => ("tag", None),
            What::Untagged => ("untag", None),
            What::Detached => ("detach", None),
            What::ExecCreated { line, .. } => ("exec_create", Some(line.clone())),
            What::ExecStarted { line, .. } => ("exec_start", Some(line.clone())),
            What::ExecDied { .. } => ("exec_die", None),
            What::ExecDetached { .. } => ("exec_detach", None),
            What::Updated { .. } => ("update", None),
            What::Moved | What::Wanted => return None,
        };
        let (kind, id, mut attributes) = match &change.object {
            Object::Container(container) => {
                let mut attributes = container.spec.labels.clone();
                attributes.insert("image".to_owned(), container.image_name.clone());
                attributes.insert("name".to_owned(), container.name.to_string());
                (EventKind::Container, container.id.to_string(), attributes)
            }
            Object::Image { id, name, .. } => {
                let attributes = BTreeMap::from([("name".to_owned(), name.clone())]);
                (EventKind::Image, id.clone(), attributes)
            }
            Object::Node(node) => {
                let name = BTreeMap::from([("name".to_owned(), name_of(node))]);
                (EventKind::Node, node.id.to_string(), name)
            }
            Object::Cluster => return None,
        };
        let mut with = |name: &str, value: String| attributes.insert(name.to_owned(), value);
        match &change.what {
            What::Died { exit, ran_ns } => {
                with("exitCode", exit.code.to_string());
                with("execDuration", (ran_ns / SECOND_NS).to_string());
            }
            What::Signalled(signal) => {
                with("signal", signal.to_string());
            }
            What::Renamed { from } => {
                with("oldName", format!("/{from}"));
            }
            What::ExecCreated { exec, .. }
            | What::ExecStarted { exec, .. }
            | What::ExecDetached { exec } => {
                with("execID", exec.clone());
            }
            What::ExecDied { exec, code } => {
                with("execID", exec.clone());
                with("exitCode", code.to_string());
            }
            What::Updated { from: Some(from) } => {
                if let Object::Node(node) = &change.object {
                    attributes.extend(differences(from, node));
                }
            }
            _ => {}
        }
        Some(Self {
            kind,
            action,
            line,
            id,
            attributes,
            at_ns: change.at_ns,
        })
    }

    /// The action, with what follows it.
    fn words(&self) -> String {
        match &self.line {
            Some(line) => format!("{}: {line}", self.action),
            None => self.action.to_owned(),
        }
    }
}

/// What docker calls a node in events.
fn name_of(node: &Node) -> String {
    match node.wanted.name.as_str() {
        "" => node.is.hostname.clone(),
        name => name.to_owned(),
    }
}

/// What of a node is another, in swarm's attributes: `state.old` and `state.new`.
fn differences(from: &Node, to: &Node) -> impl Iterator<Item = (String, String)> {
    let words = |node: &Node| {
        let reachable = match (node.wanted.role, node.is_ready()) {
            (Role::Worker, _) => None,
            (Role::Manager, true) => Some("reachable"),
            (Role::Manager, false) => Some("unreachable"),
        };
        [
            (
                "availability",
                Some(nodes::availability_word(node.wanted.availability)),
            ),
            ("role", Some(nodes::role_word(node.wanted.role))),
            ("state", Some(nodes::state_word(node))),
            ("reachability", reachable),
        ]
    };
    let pairs = words(from).into_iter().zip(words(to));
    pairs
        .filter_map(|((name, old), (_, new))| Some((name, old?, new?)))
        .filter(|(_, old, new)| old != new)
        .flat_map(|(name, old, new)| {
            [("old", old), ("new", new)]
                .map(|(which, word)| (format!("{name}.{which}"), word.to_owned()))
        })
}

/// What one client wants to see.
struct Wanted {
    filters: Filters,
    since_ns: Option<u64>,
    until_ns: Option<u64>,
    /// Nodes too: a machine that is in no swarm has none to tell of.
    nodes: bool,
    /// With the fields that stood at the top before they moved into the actor.
    legacy: bool,
}

/// `GET /events`.
pub async fn stream(call: &Call) -> Answer {
    let wanted = Wanted {
        filters: call.query.filters(&FILTERS)?,
        since_ns: timestamps::bound("since", call.query.get("since"))?,
        until_ns: timestamps::bound("until", call.query.get("until"))?,
        nodes: call.controller().membership().status().local != Local::Inactive,
        legacy: call.version < ApiVersion::new(1, 52),
    };
    if let (Some(since), Some(until)) = (wanted.since_ns, wanted.until_ns)
        && since > until
    {
        return Err(ApiError::bad_request(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            call.query.get("since").unwrap_or_default(),
            call.query.get("until").unwrap_or_default(),
        )));
    }
    // Whoever names a time, be it only the end, is told what was as well.
    let with_past = wanted.since_ns.is_some() || wanted.until_ns.is_some();
    let events = call.controller().events(&call.tenant, with_past).await;
    let end = wanted.until_ns.map(|until| {
        let left = Duration::from_nanos(until.saturating_sub(clock::now_ns()));
        tokio::time::Instant::now() + left
    });
    let lines = stream::unfold(Some((events, wanted)), move |following| async move {
        let (mut events, wanted) = following?;
        loop {
            let next = match end {
                // What is there comes in any case; the end is for what isn't.
                Some(end) => tokio::time::timeout_at(end, events.next()).await.ok()?,
                None => events.next().await,
            };
            match next {
                Ok(event) => {
                    if let Some(line) = wanted.line(&event) {
                        return Some((Ok(line), Some((events, wanted))));
                    }
                }
                // The client learns that it has missed something: the connection breaks, and it asks again with `since`.
                Err(lost) => return Some((Err(io::Error::other(lost)), None)),
            }
        }
    });
    Ok(answer::stream(answer::JSON, lines))
}

impl Wanted {
    fn line(&self, change: &Change) -> Option<bytes::Bytes> {
        let event = Event::of(change)?;
        let event = &event;
        let in_time = self.since_ns.is_none_or(|since| event.at_ns >= since)
            && self.until_ns.is_none_or(|until| event.at_ns <= until);
        (in_time && (self.nodes || event.kind != EventKind::Node) && self.passes(event))
            .then(|| answer::line(&describe(event, self.legacy)))
    }

    fn passes(&self, event: &Event) -> bool {
        let filters = &self.filters;
        let attribute = |name: &str| event.attributes.get(name).map(String::as_str);
        let container = event.kind == EventKind::Container;
        let image = if container {
            attribute("image").unwrap_or_default()
        } else {
            event.id.as_str()
        };
        filters.any("type", |kind| kind == kind_name(event.kind))
            // `exec_start: sh` is an `exec_start`.
            && filters.any("event", |wanted| event.action == wanted || event.words() == *wanted)
            && filters.any("container", |wanted| {
                container && (event.id.starts_with(wanted.as_str()) || attribute("name") == Some(wanted.as_str()))
            })
            && filters.any("node", |wanted| {
                event.kind == EventKind::Node && (event.id.starts_with(wanted.as_str()) || attribute("name") == Some(wanted.as_str()))
            })
            && (event.kind != EventKind::Node || !filters.has("image"))
            && filters.any("image", |wanted| {
                image == wanted || attribute("name") == Some(wanted.as_str()) && !container || repository(image) == wanted
            })
            && filters.any("scope", |scope| scope == event.kind.scope())
            && ["config", "daemon", "network", "plugin", "secret", "service", "volume"].iter().all(|kind| !filters.has(kind))
            && filters.labels(attribute)
    }
}

/// An image's name without its tag.
fn repository(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

fn kind_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Container => "container",
        EventKind::Image => "image",
        EventKind::Node => "node",
    }
}

impl EventKind {
    /// Where it counts.
    fn scope(self) -> &'static str {
        match self {
            Self::Container | Self::Image => "local",
            Self::Node => "swarm",
        }
    }
}

fn describe(event: &Event, legacy: bool) -> serde_json::Value {
    let attributes: &BTreeMap<String, String> = &event.attributes;
    let mut described = json!({
        "Type": kind_name(event.kind),
        "Action": event.words(),
        "Actor": { "ID": event.id, "Attributes": attributes },
        "scope": event.kind.scope(),
        "time": event.at_ns / 1_000_000_000,
        "timeNano": event.at_ns,
    });
    if legacy && event.kind != EventKind::Node {
        described["status"] = json!(event.words());
        described["id"] = json!(event.id);
        if let (EventKind::Container, Some(image)) = (event.kind, attributes.get("image")) {
            described["from"] = json!(image);
        }
    }
    described
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::state::{Availability, Container, Exit, Health, NodeIs};

    fn change(what: What) -> Change {
        let mut container = Container::sample(0xab);
        container.name = "web".parse().unwrap();
        container.image_name = "nginx:1".to_owned();
        container.spec.labels = [("a".to_owned(), "b".to_owned())].into();
        Change {
            revision: 1,
            at_ns: 1_500_000_000,
            object: Object::Container(Arc::new(container)),
            what,
        }
    }

    fn passes(filters: &str, change: &Change) -> bool {
        let query = super::super::query::Query::parse(&format!("filters={filters}"));
        let wanted = Wanted {
            filters: query.filters(&FILTERS).unwrap(),
            since_ns: None,
            until_ns: None,
            nodes: true,
            legacy: true,
        };
        wanted.line(change).is_some()
    }

    #[test]
    fn filters_choose_as_docker_chooses() {
        let start = change(What::Started);
        for (filters, chosen) in [
            (r#"{"type":["container"],"event":["start","die"]}"#, true),
            (r#"{"event":["die"]}"#, false),
            (r#"{"container":["web"]}"#, true),
            (r#"{"container":["aba"]}"#, true),
            (r#"{"container":["other"]}"#, false),
            (r#"{"image":["nginx"]}"#, true),
            (r#"{"image":["nginx:1"]}"#, true),
            (r#"{"label":["a=b"]}"#, true),
            (r#"{"label":["a=c"]}"#, false),
            (r#"{"volume":["v"]}"#, false),
        ] {
            assert_eq!(passes(filters, &start), chosen, "{filters}");
        }
        let exec = What::ExecCreated {
            exec: "1".to_owned(),
            line: "sh -c true".to_owned(),
        };
        assert!(passes(r#"{"event":["exec_create"]}"#, &change(exec)));
    }

    fn node_change(to: Node) -> Change {
        let from = Node {
            is: NodeIs {
                hostname: "two".to_owned(),
                ..NodeIs::default()
            },
            ..Node::sample(0xab)
        };
        Change {
            revision: 1,
            at_ns: 1,
            object: Object::Node(Arc::new(Node {
                is: from.is.clone(),
                ..to
            })),
            what: What::Updated {
                from: Some(Arc::new(from)),
            },
        }
    }

    #[test]
    fn of_a_node_what_is_another_is_said_in_swarms_words() {
        let mut to = Node::sample(0xab);
        let id = to.id.to_string();
        let attributes = |to: &Node| {
            let event = Event::of(&node_change(to.clone())).unwrap();
            let described = describe(&event, true);
            assert_eq!(described["scope"], "swarm");
            assert_eq!(
                (&described["Type"], &described["Action"]),
                (&json!("node"), &json!("update"))
            );
            assert_eq!(described["Actor"]["ID"], id);
            assert!(described.get("status").is_none());
            described["Actor"]["Attributes"].clone()
        };
        assert_eq!(attributes(&to), json!({ "name": "two" }));
        to.wanted.availability = Availability::Drain;
        let drained =
            json!({ "name": "two", "availability.old": "active", "availability.new": "drain" });
        assert_eq!(attributes(&to), drained);
        to.wanted.availability = Availability::Active;
        to.health = Health::Down {
            reason: "its plug".to_owned(),
        };
        let down = json!({
            "name": "two", "state.old": "ready", "state.new": "down",
            "reachability.old": "reachable", "reachability.new": "unreachable",
        });
        assert_eq!(attributes(&to), down);
        to.health = Health::Ready;
        to.wanted.role = Role::Worker;
        let demoted = json!({ "name": "two", "role.old": "manager", "role.new": "worker" });
        assert_eq!(attributes(&to), demoted);
        let change = node_change(to);
        for (filters, chosen) in [
            (r#"{"type":["node"],"scope":["swarm"]}"#.to_owned(), true),
            (r#"{"node":["two"]}"#.to_owned(), true),
            (format!(r#"{{"node":["{}"]}}"#, &id[..5]), true),
            (r#"{"node":["one"]}"#.to_owned(), false),
            (r#"{"scope":["local"]}"#.to_owned(), false),
            (r#"{"container":["two"]}"#.to_owned(), false),
            (r#"{"image":["two"]}"#.to_owned(), false),
        ] {
            assert_eq!(passes(&filters, &change), chosen, "{filters}");
        }
    }

    #[test]
    fn older_clients_find_the_fields_where_they_were() {
        let died = change(What::Died {
            exit: Exit::default(),
            ran_ns: 2_500_000_000,
        });
        let described = describe(&Event::of(&died).unwrap(), true);
        assert_eq!(
            (&described["status"], &described["from"]),
            (&json!("die"), &json!("nginx:1"))
        );
        assert_eq!(described["time"], 1);
        assert_eq!(described["Actor"]["Attributes"]["execDuration"], "2");
        let newer = describe(&Event::of(&died).unwrap(), false);
        assert!(newer.get("status").is_none());
    }
}
