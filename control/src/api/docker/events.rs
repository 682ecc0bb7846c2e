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
use super::timestamps;
use super::version::ApiVersion;
use crate::clock;
use crate::state::{Event, EventKind};

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

/// What one client wants to see.
struct Wanted {
    filters: Filters,
    since_ns: Option<u64>,
    until_ns: Option<u64>,
    /// With the fields that stood at the top before they moved into the actor.
    legacy: bool,
}

/// `GET /events`.
pub fn stream(call: &Call) -> Answer {
    let wanted = Wanted {
        filters: call.query.filters(&FILTERS)?,
        since_ns: timestamps::bound("since", call.query.get("since"))?,
        until_ns: timestamps::bound("until", call.query.get("until"))?,
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
    let events = call.controller().events(&call.tenant, with_past);
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
    fn line(&self, event: &Event) -> Option<bytes::Bytes> {
        let in_time = self.since_ns.is_none_or(|since| event.at_ns >= since)
            && self.until_ns.is_none_or(|until| event.at_ns <= until);
        (in_time && self.passes(event)).then(|| answer::line(&describe(event, self.legacy)))
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
            && filters.any("event", |wanted| event.action.word() == wanted || event.action.to_string() == *wanted)
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
        "Action": event.action.to_string(),
        "Actor": { "ID": event.id, "Attributes": attributes },
        "scope": "local",
        "time": event.at_ns / 1_000_000_000,
        "timeNano": event.at_ns,
    });
    if legacy {
        described["status"] = json!(event.action.to_string());
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
    use crate::state::Action;

    fn event(kind: EventKind, action: Action) -> Event {
        let attributes = [("name", "web"), ("image", "nginx:1"), ("a", "b")];
        Event {
            revision: 1,
            tenant: "acme".parse().unwrap(),
            kind,
            action,
            id: "abcdef".to_owned(),
            attributes: attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            at_ns: 1_500_000_000,
        }
    }

    fn passes(filters: &str, event: &Event) -> bool {
        let query = super::super::query::Query::parse(&format!("filters={filters}"));
        let wanted = Wanted {
            filters: query.filters(&FILTERS).unwrap(),
            since_ns: None,
            until_ns: None,
            legacy: true,
        };
        wanted.line(event).is_some()
    }

    #[test]
    fn filters_choose_as_docker_chooses() {
        let start = event(EventKind::Container, Action::Start);
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
            assert_eq!(passes(filters, &start), chosen, "{filters}");
        }
        assert!(passes(
            r#"{"event":["exec_create"]}"#,
            &event(
                EventKind::Container,
                Action::ExecCreate("sh -c true".to_owned())
            )
        ));
    }

    #[test]
    fn older_clients_find_the_fields_where_they_were() {
        let described = describe(&event(EventKind::Container, Action::Die), true);
        assert_eq!(
            (&described["status"], &described["from"]),
            (&json!("die"), &json!("nginx:1"))
        );
        assert_eq!(described["time"], 1);
        assert!(
            describe(&event(EventKind::Container, Action::Die), false)
                .get("status")
                .is_none()
        );
    }
}
