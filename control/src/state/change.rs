//! What the state machine tells those who watch: what has changed, in types. APIs make of it what their clients know.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Container, ContainerName, Exit, Node, Signal, Tenant};

/// Something has changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The state's revision that brought it; changes of one command share it.
    pub revision: u64,
    /// Nanoseconds since the Unix epoch, as the command says.
    pub at_ns: u64,
    /// What it is about.
    pub object: Object,
    /// What happened.
    pub what: What,
}

/// What a change is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A container, as the change left it, or as it was when it went.
    Container(Arc<Container>),
    /// A tenant's image.
    Image {
        /// Whose.
        tenant: Tenant,
        /// `sha256:…`, or the name that it was pulled by.
        id: String,
        /// What it is called.
        name: String,
    },
    /// A machine, as the change left it, or as it was when it went.
    Node(Arc<Node>),
    /// What belongs to no machine in particular.
    Cluster,
}

/// What has happened. Nodes tell each other what changes nothing of the state: variants and fields are only added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum What {
    /// It is there.
    Created,
    /// A container's pod is somewhere else, or nowhere: it will begin there with a fresh layer.
    Moved,
    /// Its main process runs.
    Started,
    /// It has ended, or could not be started.
    Died {
        /// How.
        exit: Exit,
        /// For how long it had run, nanoseconds.
        ran_ns: u64,
    },
    /// A user has it sent a signal.
    Signalled(Signal),
    /// A user's `stop` has ended it.
    Stopped,
    /// A user's `restart` has started it.
    Restarted,
    /// What is wanted of it has changed in a way that has no event.
    Wanted,
    /// It had another name.
    Renamed {
        /// Which.
        from: ContainerName,
    },
    /// The kernel has killed in it for want of memory.
    OutOfMemory,
    /// It stands still.
    Paused,
    /// It goes on.
    Unpaused,
    /// It is gone.
    Removed,
    /// An image came from a registry.
    Pulled,
    /// An image came from an archive.
    Loaded,
    /// An image has another name.
    Tagged,
    /// An image has a name less.
    Untagged,
    /// A node, or what is wanted of it, or the cluster as a whole, is another.
    Updated {
        /// The node as it was.
        #[serde(skip)]
        from: Option<Arc<Node>>,
    },
    /// A client has let go of a container by the detach keys. This and what follows changes nothing of the state: it is known where
    /// it happened, and forgotten with that node's control.
    Detached,
    /// An exec is known.
    ExecCreated {
        /// Which.
        exec: String,
        /// Its command line.
        line: String,
    },
    /// An exec was started.
    ExecStarted {
        /// Which.
        exec: String,
        /// Its command line.
        line: String,
    },
    /// An exec has ended.
    ExecDied {
        /// Which.
        exec: String,
        /// Its exit code.
        code: u8,
    },
    /// A client has let go of an exec by the detach keys.
    ExecDetached {
        /// Which.
        exec: String,
    },
}

impl Change {
    /// Who may see it; None: those who look after the machines.
    pub fn tenant(&self) -> Option<&Tenant> {
        match &self.object {
            Object::Container(container) => Some(&container.tenant),
            Object::Image { tenant, .. } => Some(tenant),
            Object::Node(_) | Object::Cluster => None,
        }
    }

    /// Bytes that keeping it takes, about.
    pub fn size(&self) -> usize {
        match &self.object {
            Object::Container(container) => {
                let labels = container.spec.labels.iter();
                let labels: usize = labels.map(|(name, value)| name.len() + value.len()).sum();
                let line = match &self.what {
                    What::ExecCreated { line, .. } | What::ExecStarted { line, .. } => line.len(),
                    _ => 0,
                };
                labels + line + container.image_name.len() + container.name.as_str().len()
            }
            Object::Image { id, name, .. } => id.len() + name.len(),
            Object::Node(node) => {
                let labels = node.wanted.labels.iter().chain(&node.is.labels);
                let labels: usize = labels.map(|(name, value)| name.len() + value.len()).sum();
                labels + node.is.hostname.len() + node.wanted.name.len()
            }
            Object::Cluster => 0,
        }
    }
}
