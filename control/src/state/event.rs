//! What the state machine tells those who watch.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Container, Tenant};

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A container.
    Container,
    /// An image.
    Image,
}

/// What happened: those of docker's actions that there are here (Engine API, `SystemEvents`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A container is there.
    Create,
    /// Its main process runs.
    Start,
    /// It has ended, or could not be started.
    Die,
    /// It was sent a signal.
    Kill,
    /// A user had it end.
    Stop,
    /// A user had it end and start again.
    Restart,
    /// It has another name.
    Rename,
    /// It is gone.
    Destroy,
    /// The kernel has killed in it for want of memory.
    Oom,
    /// A client has let go of it by the detach keys.
    Detach,
    /// An exec of this command line is known.
    ExecCreate(String),
    /// An exec of this command line was started.
    ExecStart(String),
    /// An exec has ended.
    ExecDie,
    /// A client has let go of an exec by the detach keys.
    ExecDetach,
    /// An image came from a registry.
    Pull,
    /// An image came from an archive.
    Load,
    /// An image has another name.
    Tag,
    /// An image has a name less.
    Untag,
    /// An image is gone.
    Delete,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The state's revision that brought it; events of one command share it.
    pub revision: u64,
    /// Who may see it.
    pub tenant: Tenant,
    /// What it is about.
    pub kind: EventKind,
    /// What happened.
    pub action: Action,
    /// The container's or image's id.
    pub id: String,
    /// `name`, `image`, `exitCode`, labels.
    pub attributes: BTreeMap<String, String>,
    /// Nanoseconds since the Unix epoch.
    pub at_ns: u64,
}

impl Event {
    /// Of a container, with what docker says about every container: its labels, image and name.
    pub fn of_container(container: &Container, action: Action, at_ns: u64) -> Self {
        let event = Self {
            revision: 0,
            tenant: container.tenant.clone(),
            kind: EventKind::Container,
            action,
            id: container.id.to_string(),
            attributes: container.spec.labels.clone(),
            at_ns,
        };
        event
            .with("image", &container.image_name)
            .with("name", &container.name)
    }

    /// The event with one more attribute.
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.attributes.insert(name.into(), value.to_string());
        self
    }

    /// Bytes of text in it.
    pub fn size(&self) -> usize {
        let attributes = self.attributes.iter();
        let attributes: usize = attributes
            .map(|(name, value)| name.len() + value.len())
            .sum();
        let line = match &self.action {
            Action::ExecCreate(line) | Action::ExecStart(line) => line.len(),
            _ => 0,
        };
        self.id.len() + line + attributes
    }
}

impl Action {
    /// docker's word for it, without what may follow it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Die => "die",
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Rename => "rename",
            Self::Destroy => "destroy",
            Self::Oom => "oom",
            Self::Detach => "detach",
            Self::ExecCreate(_) => "exec_create",
            Self::ExecStart(_) => "exec_start",
            Self::ExecDie => "exec_die",
            Self::ExecDetach => "exec_detach",
            Self::Pull => "pull",
            Self::Load => "load",
            Self::Tag => "tag",
            Self::Untag => "untag",
            Self::Delete => "delete",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExecCreate(line) | Self::ExecStart(line) => write!(f, "{}: {line}", self.word()),
            _ => f.write_str(self.word()),
        }
    }
}
