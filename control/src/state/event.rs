//! What the state machine tells those who watch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Tenant;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A container.
    Container,
    /// An image.
    Image,
}

/// Something happened. The words are docker's, who has the largest stock of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The state's revision that brought it; events of one command share it.
    pub revision: u64,
    /// Who may see it.
    pub tenant: Tenant,
    /// What it is about.
    pub kind: EventKind,
    /// `create`, `start`, `die`, `kill`, `stop`, `restart`, `rename`, `destroy`, `oom`, `exec_create: …`, `pull`, `load`, `tag`, `untag`, `delete`.
    pub action: String,
    /// The container's or image's id.
    pub id: String,
    /// `name`, `image`, `exitCode`, labels.
    pub attributes: BTreeMap<String, String>,
    /// Nanoseconds since the Unix epoch.
    pub at_ns: u64,
}

impl Event {
    /// The event with one more attribute.
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.attributes.insert(name.into(), value.to_string());
        self
    }
}
