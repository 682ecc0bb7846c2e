//! What may be done to the state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Action, Container, ContainerId, ContainerName, Exit, PortBinding, Signal, Tenant};

/// A change, as it is written to the replicated log. Variants and fields are only ever added: the log outlives the program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// A new container in phase `Created`; its address is picked by the state machine.
    Create(Box<Container>),
    /// Phase `Starting`; host ports are picked. Answered `AlreadyRunning` where it is up.
    Start {
        /// Which.
        id: ContainerId,
        /// When.
        at_ns: u64,
        /// Because of its restart policy, not a user.
        by_policy: bool,
    },
    /// The node has started it.
    Started {
        /// Which.
        id: ContainerId,
        /// When.
        at_ns: u64,
        /// The monitor's.
        pid: u32,
    },
    /// The node could not start it; phase `Exited` with docker's code 125, 126, 127, or 128 and up.
    StartFailed {
        /// Which.
        id: ContainerId,
        /// When.
        at_ns: u64,
        /// Why, for the user.
        error: String,
        /// 125, 126 or 127.
        code: u8,
    },
    /// Its main process has ended. Ignored where it isn't up.
    Exited {
        /// Which.
        id: ContainerId,
        /// When.
        at_ns: u64,
        /// How.
        exit: Exit,
    },
    /// The kernel has killed for want of memory in it. Ignored where it isn't up, or no more often than was known.
    OutOfMemory {
        /// Which.
        id: ContainerId,
        /// When.
        at_ns: u64,
        /// How many processes of this run so far.
        kills: u64,
    },
    /// A user has asked it to stop or die; an `unless-stopped` policy holds still from here on. `signal` for the event.
    Signalled {
        /// Which.
        id: ContainerId,
        /// When.
        at_ns: u64,
        /// Which was sent.
        signal: Signal,
        /// It is meant to end: the restart policy holds still.
        stop: bool,
    },
    /// Another name.
    Rename {
        /// Which.
        id: ContainerId,
        /// When.
        at_ns: u64,
        /// The new one.
        name: ContainerName,
    },
    /// Gone. Refused while it is up.
    Remove {
        /// Which.
        id: ContainerId,
        /// When.
        at_ns: u64,
    },
    /// A tenant has an image now; `names` become tags, moving from what they named before.
    AddImage {
        /// Whose.
        tenant: Tenant,
        /// When.
        at_ns: u64,
        /// `sha256:…`.
        image: String,
        /// Familiar names with tag.
        names: Vec<String>,
        /// `registry/name@sha256:…`.
        repo_digest: Option<String>,
        /// `Pull`, `Load` or `Tag`, for the event.
        action: Action,
    },
    /// A name no longer names an image.
    Untag {
        /// Whose.
        tenant: Tenant,
        /// When.
        at_ns: u64,
        /// Familiar name with tag or digest.
        name: String,
    },
    /// A tenant no longer has an image, under any name. Refused while a container of the tenant uses it, unless `force`d and none is up; the bytes stay while a
    /// stopped one uses them.
    RemoveImage {
        /// Whose.
        tenant: Tenant,
        /// When.
        at_ns: u64,
        /// `sha256:…`.
        image: String,
        /// Even where stopped containers use it.
        force: bool,
    },
    /// Only an event of a container (`exec_create`, `stop`, …), for those who watch.
    Happened {
        /// Which.
        id: ContainerId,
        /// When.
        at_ns: u64,
        /// What.
        action: Action,
        /// Beside those that every event of a container has.
        attributes: BTreeMap<String, String>,
    },
}

/// What a command that was carried out gives back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done.
    Done,
    /// It was so before.
    Unchanged,
    /// `Start`: the ports of this run.
    Starting {
        /// Free ones filled in.
        ports: Vec<PortBinding>,
    },
}

/// Why a command was not carried out. The state is as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No container of that id.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// No image of that name.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// The tenant has a container of that name.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{by}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse {
        /// The name.
        name: String,
        /// The container's id.
        by: String,
    },
    /// It is up and should not be.
    #[error("container {0} is running: stop the container before removing or force remove")]
    Running(String),
    /// It is not up and should be.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// Something else on the node has the port.
    #[error("Bind for {address}:{port} failed: port is already allocated")]
    PortInUse {
        /// Address on the node.
        address: String,
        /// Port on the node.
        port: u16,
    },
    /// Every address of the pods' network is taken.
    #[error("no free address in the pods' network: remove containers that are no longer needed")]
    NoFreeAddress,
    /// A tenant has as many as it may.
    #[error("no more than {limit} {what}: remove some that are no longer needed")]
    TooMany {
        /// Of what, in the plural.
        what: String,
        /// How many there may be.
        limit: u32,
    },
    /// A container uses the image.
    #[error("conflict: unable to remove {image} - container {container} is using it")]
    ImageInUse {
        /// Name or id.
        image: String,
        /// Short id.
        container: String,
    },
}
