//! `GET /events`: what happened, and what happens.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream;
use serde_json::json;
use tokio::sync::broadcast;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::answer::{self, Answer};
use super::call::Call;
use super::query::Filters;
use super::timestamps;
use super::version::ApiVersion;
use crate::clock;
use crate::controller::Controller;
use crate::state::{Event, EventKind, Tenant};

/// Events of a tenant that are kept for `since`: as many as docker keeps.
const KEPT: usize = 256;
/// Events that a slow client may be behind before its stream is broken off.
const BEHIND_MAX: usize = 4096;
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

/// The last events, and those who wait for the next.
pub struct History {
    shared: Arc<Shared>,
    _follower: AbortOnDropHandle<()>,
}

struct Shared {
    /// Guards the order too: an event is in `kept` before it is sent, so a subscriber under the lock misses none and sees none twice.
    kept: Mutex<HashMap<Tenant, VecDeque<Event>>>,
    new: broadcast::Sender<Event>,
}

impl History {
    /// Follows a controller's events until dropped.
    pub fn follow(controller: &Controller) -> Self {
        let shared = Arc::new(Shared {
            kept: Mutex::default(),
            new: broadcast::Sender::new(BEHIND_MAX),
        });
        let mut events = controller.events();
        let to = Arc::clone(&shared);
        let follower = tokio::spawn(async move {
            loop {
                match events.recv().await {
                    Ok(event) => to.add(event),
                    Err(broadcast::error::RecvError::Lagged(lost)) => {
                        warn!(lost, "events were lost")
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        Self {
            shared,
            _follower: AbortOnDropHandle::new(follower),
        }
    }

    /// What is kept of a tenant's, and what comes of everybody's.
    fn subscribe(&self, tenant: &Tenant) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let kept = self
            .shared
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let kept = kept.get(tenant).into_iter().flatten().cloned().collect();
        (kept, self.shared.new.subscribe())
    }
}

impl Shared {
    fn add(&self, event: Event) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let own = kept.entry(event.tenant.clone()).or_default();
        if own.len() == KEPT {
            own.pop_front();
        }
        own.push_back(event.clone());
        // Nobody listening is no error.
        let _ = self.new.send(event);
    }
}

/// What one client wants to see.
struct Wanted {
    tenant: Tenant,
    filters: Filters,
    since_ns: Option<u64>,
    until_ns: Option<u64>,
    /// With the fields that stood at the top before they moved into the actor.
    legacy: bool,
}

/// `GET /events`.
pub fn stream(call: &Call) -> Answer {
    let wanted = Wanted {
        tenant: call.tenant.clone(),
        filters: call.query.filters(&FILTERS)?,
        since_ns: timestamps::bound("since", call.query.get("since"))?,
        until_ns: timestamps::bound("until", call.query.get("until"))?,
        legacy: call.version < ApiVersion::new(1, 52),
    };
    let (kept, new) = call.docker().events.subscribe(&call.tenant);
    let old: Vec<_> = match wanted.since_ns {
        Some(_) => kept
            .iter()
            .filter_map(|event| wanted.line(event))
            .map(Ok)
            .collect(),
        None if wanted
            .until_ns
            .is_some_and(|until| until <= clock::now_ns()) =>
        {
            kept.iter()
                .filter_map(|event| wanted.line(event))
                .map(Ok)
                .collect()
        }
        None => Vec::new(),
    };
    let end = wanted.until_ns.map(|until| {
        let left = Duration::from_nanos(until.saturating_sub(clock::now_ns()));
        tokio::time::Instant::now() + left
    });
    let live = stream::unfold(Some((new, wanted)), move |following| async move {
        let (mut new, wanted) = following?;
        loop {
            let next = match end {
                Some(end) => tokio::time::timeout_at(end, new.recv()).await.ok()?,
                None => new.recv().await,
            };
            match next {
                Ok(event) => {
                    if let Some(line) = wanted.line(&event) {
                        return Some((Ok(line), Some((new, wanted))));
                    }
                }
                Err(broadcast::error::RecvError::Closed) => return None,
                // The client learns that it has missed something: the connection breaks, and it asks again with `since`.
                Err(broadcast::error::RecvError::Lagged(lost)) => {
                    let error = io::Error::other(format!(
                        "the client is too slow: {lost} events were lost"
                    ));
                    return Some((Err(error), None));
                }
            }
        }
    });
    Ok(answer::stream(
        answer::JSON,
        futures_util::StreamExt::chain(stream::iter(old), live),
    ))
}

impl Wanted {
    fn line(&self, event: &Event) -> Option<bytes::Bytes> {
        let in_time = self.since_ns.is_none_or(|since| event.at_ns >= since)
            && self.until_ns.is_none_or(|until| event.at_ns <= until);
        (event.tenant == self.tenant && in_time && self.passes(event))
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
            && filters.any("event", |wanted| event.action == *wanted || event.action.split(':').next() == Some(wanted.as_str()))
            && filters.any("container", |wanted| {
                container && (event.id.starts_with(wanted.as_str()) || attribute("name") == Some(wanted.as_str()))
            })
            && filters.any("image", |wanted| {
                image == wanted || attribute("name") == Some(wanted.as_str()) && !container || repository(image) == wanted
            })
            && filters.any("scope", |scope| scope == "local")
            && ["config", "daemon", "network", "node", "plugin", "secret", "service", "volume"].iter().all(|kind| !filters.has(kind))
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
    }
}

fn describe(event: &Event, legacy: bool) -> serde_json::Value {
    let attributes: &BTreeMap<String, String> = &event.attributes;
    let mut described = json!({
        "Type": kind_name(event.kind),
        "Action": event.action,
        "Actor": { "ID": event.id, "Attributes": attributes },
        "scope": "local",
        "time": event.at_ns / 1_000_000_000,
        "timeNano": event.at_ns,
    });
    if legacy {
        described["status"] = json!(event.action);
        described["id"] = json!(event.id);
        if let (EventKind::Container, Some(image)) = (event.kind, attributes.get("image")) {
            described["from"] = json!(image);
        }
    }
    described
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, action: &str) -> Event {
        let attributes = [("name", "web"), ("image", "nginx:1"), ("a", "b")];
        Event {
            revision: 1,
            tenant: "acme".parse().unwrap(),
            kind,
            action: action.to_owned(),
            id: "abcdef".to_owned(),
            attributes: attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            at_ns: 1_500_000_000,
        }
    }

    fn passes(tenant: &str, filters: &str, event: &Event) -> bool {
        let query = super::super::query::Query::parse(&format!("filters={filters}"));
        let wanted = Wanted {
            tenant: tenant.parse().unwrap(),
            filters: query.filters(&FILTERS).unwrap(),
            since_ns: None,
            until_ns: None,
            legacy: true,
        };
        wanted.line(event).is_some()
    }

    #[test]
    fn filters_choose_as_docker_chooses() {
        let start = event(EventKind::Container, "start");
        for (filters, chosen) in [
            (r#"{"type":["container"],"event":["start","die"]}"#, true),
            (r#"{"event":["die"]}"#, false),
            (r#"{"container":["web"]}"#, true),
            (r#"{"container":["abc"]}"#, true),
            (r#"{"container":["other"]}"#, false),
            (r#"{"image":["nginx"]}"#, true),
            (r#"{"image":["nginx:1"]}"#, true),
            (r#"{"label":["a=b"]}"#, true),
            (r#"{"label":["a=c"]}"#, false),
            (r#"{"volume":["v"]}"#, false),
        ] {
            assert_eq!(passes("acme", filters, &start), chosen, "{filters}");
        }
        assert!(passes(
            "acme",
            r#"{"event":["exec_create"]}"#,
            &event(EventKind::Container, "exec_create: sh -c true")
        ));
    }

    #[test]
    fn a_tenants_events_are_not_forgotten_for_anothers() {
        let shared = Shared {
            kept: Mutex::default(),
            new: broadcast::Sender::new(1),
        };
        shared.add(event(EventKind::Container, "start"));
        for number in 0..2 * KEPT {
            let mut other = event(EventKind::Container, "die");
            other.tenant = "other".parse().unwrap();
            other.at_ns = number as u64;
            shared.add(other);
        }
        let kept = shared.kept.lock().unwrap();
        assert_eq!(kept[&"acme".parse().unwrap()].len(), 1);
        let others = &kept[&"other".parse().unwrap()];
        assert_eq!((others.len(), others[0].at_ns), (KEPT, KEPT as u64));
    }

    #[test]
    fn another_tenants_events_are_not_seen() {
        assert!(!passes(
            "other",
            "{}",
            &event(EventKind::Container, "start")
        ));
    }

    #[test]
    fn older_clients_find_the_fields_where_they_were() {
        let described = describe(&event(EventKind::Container, "die"), true);
        assert_eq!(
            (&described["status"], &described["from"]),
            (&json!("die"), &json!("nginx:1"))
        );
        assert_eq!(described["time"], 1);
        assert!(
            describe(&event(EventKind::Container, "die"), false)
                .get("status")
                .is_none()
        );
    }
}
