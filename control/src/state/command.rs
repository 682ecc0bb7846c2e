//! What may be done to the state.

use serde::{Deserialize, Serialize};

use super::{
    Cluster, Container, ContainerId, ContainerName, ContainerSpec, Exit, Failure, Health, NodeId,
    NodeIs, NodeWanted, PodId, PortBinding, Run, Signal, Stored, Tenant,
};

/// The level of commands that this version understands: raised with each variant or field that an earlier version would misread. A
/// command of a higher level than the cluster's is refused ([`Command::features`]).
pub const FEATURES: u32 = 3;
/// What every version understands.
pub(super) const FIRST_FEATURES: u32 = 1;

/// A container as it is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewContainer {
    /// Never used before.
    pub id: ContainerId,
    /// Whose.
    pub tenant: Tenant,
    /// Unique within the tenant.
    pub name: ContainerName,
    /// `sha256:…` of the image's configuration.
    pub image: String,
    /// The image's name as the user gave it.
    pub image_name: String,
    /// What it is to be.
    pub spec: ContainerSpec,
}

/// A change, as it is written to the replicated log. Variants and fields are only ever added: the log outlives the program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// A new container, and a pod for it; its address is picked by the state machine.
    Create {
        /// As asked for.
        container: Box<NewContainer>,
        /// When.
        at_ns: u64,
        /// Where the scheduler puts it; None: nowhere yet.
        node: Option<NodeId>,
        /// Why nowhere.
        #[serde(default)]
        pending: String,
    },
    /// It is to run; host ports are picked. [`Outcome::Unchanged`] where it is up.
    Start {
        /// Which.
        id: ContainerId,
        /// When.
        at_ns: u64,
    },
    /// What runs is to end, and its policy to hold still.
    Stop {
        /// Which.
        id: ContainerId,
        /// When.
        at_ns: u64,
        /// Sent first.
        signal: Signal,
        /// Seconds from then to SIGKILL; None: never.
        timeout_s: Option<u64>,
        /// See [`super::Stop::tell`].
        tell: bool,
    },
    /// What runs is to end, and another run to begin.
    Restart {
        /// Which.
        id: ContainerId,
        /// When.
        at_ns: u64,
        /// Sent first.
        signal: Signal,
        /// Seconds from then to SIGKILL; None: never.
        timeout_s: Option<u64>,
    },
    /// A user sends it a signal. `end`: its policy holds still from here on. [`Outcome::Unchanged`] where nothing is left to be sent: its
    /// node sends it once it runs, or it is between two runs.
    Signalled {
        /// Which.
        id: ContainerId,
        /// When.
        at_ns: u64,
        /// Which was sent.
        signal: Signal,
        /// It is meant to end.
        end: bool,
    },
    /// What runs is to stand still, or to go on. Refused where nothing runs, and where that is asked for already.
    Pause {
        /// Which.
        id: ContainerId,
        /// When.
        at_ns: u64,
        /// It is to stand still.
        paused: bool,
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
    /// Gone. Refused while it is up, unless `force`: then it is killed, and goes with its end.
    Remove {
        /// Which.
        id: ContainerId,
        /// When.
        at_ns: u64,
        /// Even if it is up.
        force: bool,
    },
    /// The scheduler gives a pod to a node, or to none. Refused where it was given away meanwhile.
    Assign {
        /// Which.
        pod: PodId,
        /// When.
        at_ns: u64,
        /// Its epoch as the scheduler knew it.
        epoch: u64,
        /// To which node.
        node: Option<NodeId>,
        /// Why to none.
        pending: String,
        /// Names, never used before, for the containers that keep what the pod's containers have written where it was; in these
        /// containers' order, unused for those that have written nothing there. Empty: it is not to be kept.
        kept: Vec<ContainerId>,
    },
    /// A node's agent tells what is.
    Report {
        /// Which node's.
        node: NodeId,
        /// When it happened there.
        at_ns: u64,
        /// What.
        report: Report,
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
        /// Where it is from.
        telling: Telling,
        /// The node that has its bytes now, and what they are; nothing where that is no news.
        #[serde(default)]
        stored: Stored,
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
    /// A node is there, or is another than before.
    Join {
        /// Which.
        node: NodeId,
        /// When.
        at_ns: u64,
        /// What it says of itself.
        is: Box<NodeIs>,
        /// What is wanted of it, if it is new.
        wanted: NodeWanted,
    },
    /// Something else is wanted of a node.
    UpdateNode {
        /// Which.
        node: NodeId,
        /// When.
        #[serde(default)]
        at_ns: u64,
        /// Its version as it was looked at.
        version: u64,
        /// What.
        wanted: NodeWanted,
    },
    /// A node's lease is over, or it comes in again. Refused where its tenure is another by then.
    NodeHealth {
        /// Which.
        node: NodeId,
        /// When.
        #[serde(default)]
        at_ns: u64,
        /// `Ready` is the node's own word: whatever may run elsewhere has ended there. It begins the next tenure, also where nobody had
        /// called it out yet. `Down` is the leader's, or that of a node that goes in order.
        health: Health,
        /// As whoever says so knew it.
        #[serde(default)]
        tenure: u64,
        /// The term of the leader that says so: refused where another decides by then. None: the node itself does.
        #[serde(default)]
        term: Option<u64>,
    },
    /// A leader decides about leases from here on. It grants none before that is applied, and what leaders before it have decided, and is
    /// not applied yet, is refused.
    Lead {
        /// Its term.
        term: u64,
    },
    /// A node is no member any more, and never will be again.
    RemoveNode {
        /// Which.
        node: NodeId,
        /// When.
        at_ns: u64,
        /// Even if it is there.
        force: bool,
        /// Refused all the same while it is there and something may run on it.
        #[serde(default)]
        empty: bool,
    },
    /// The cluster as a whole is another. Refused where that was changed meanwhile.
    SetCluster {
        /// As it was.
        from: Box<Cluster>,
        /// As it is to be.
        to: Box<Cluster>,
    },
}

/// How an image came to a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Telling {
    /// From a registry.
    Pull,
    /// From an archive.
    Load,
    /// It was there, and has another name.
    Tag,
}

/// What a node's agent tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// A run has begun.
    Started {
        /// Of what.
        id: ContainerId,
        /// Which.
        run: Run,
        /// The monitor's.
        pid: u32,
    },
    /// A run could not begin.
    StartFailed {
        /// Of what.
        id: ContainerId,
        /// Which.
        run: Run,
        /// Why.
        failure: Failure,
        /// docker's 125, 126, 127, or 128.
        code: u8,
    },
    /// A start that a user has called off before anything of it ran.
    NotStarted {
        /// Of what.
        id: ContainerId,
        /// Which ([`super::Wanted::start`]).
        start: u64,
    },
    /// A run's main process has ended.
    Exited {
        /// Of what.
        id: ContainerId,
        /// Which.
        run: Run,
        /// How.
        exit: Exit,
    },
    /// The kernel has killed for want of memory.
    OutOfMemory {
        /// In what.
        id: ContainerId,
        /// In which run.
        run: Run,
        /// How many processes of it so far.
        kills: u64,
    },
    /// A run stands still, or goes on.
    Paused {
        /// Of what.
        id: ContainerId,
        /// Which.
        run: Run,
        /// It stands still.
        paused: bool,
    },
    /// Nothing of a pod that was given away runs there any more.
    Released {
        /// Which pod.
        pod: PodId,
        /// Its epoch, as the node knew it when it let go.
        epoch: u64,
    },
    /// The node has an image, or has it no more.
    Image {
        /// `sha256:…`.
        image: String,
        /// See [`super::Stored::contents`].
        contents: Vec<u8>,
        /// Bytes on the disk.
        bytes: u64,
        /// It has.
        present: bool,
    },
}

impl Command {
    /// The level of commands that this one belongs to: one that is added later, or has a field that an earlier version would misread, names
    /// its own.
    pub fn features(&self) -> u32 {
        match self {
            // What earlier ones would lose.
            Self::SetCluster { from, to } if [from, to].into_iter().any(|it| it.is_of_2()) => 2,
            Self::RemoveNode { empty: true, .. } => 2,
            Self::Pause { .. } => 3,
            _ => FIRST_FEATURES,
        }
    }
}

/// What a command that was carried out gives back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done.
    Done,
    /// It was so before.
    Unchanged,
    /// `Start`, `Restart`: which start of the container it is ([`super::Wanted::start`]).
    Starting {
        /// Its number.
        start: u64,
        /// Of the pod, free ones filled in.
        ports: Vec<PortBinding>,
    },
}

impl NewContainer {
    /// The container that it becomes.
    pub(super) fn made(&self, at_ns: u64, version: u64) -> Container {
        Container {
            id: self.id,
            tenant: self.tenant.clone(),
            name: self.name.clone(),
            pod: self.id.into(),
            created_ns: at_ns,
            image: self.image.clone(),
            image_name: self.image_name.clone(),
            spec: self.spec.clone(),
            wanted: super::Wanted::default(),
            status: super::Status::default(),
            layer: None,
            version,
        }
    }
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
    /// It goes as soon as it has ended.
    #[error("container is marked for removal and cannot be started")]
    BeingRemoved(String),
    /// It is up and should not be.
    #[error("container {0} is running: stop the container before removing or force remove")]
    Running(String),
    /// It is not up and should be.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// It stands still, or is about to.
    #[error("Container {0} is already paused")]
    Paused(String),
    /// It doesn't stand still.
    #[error("Container {0} is not paused")]
    NotPaused(String),
    /// Something else on the node has the port.
    #[error("Bind for {address}:{port} failed: port is already allocated")]
    PortInUse {
        /// Address on the node.
        address: String,
        /// Port on the node.
        port: u16,
    },
    /// Somebody has changed it since it was looked at.
    #[error("update out of sequence")]
    OutOfSequence,
    /// No node of that id.
    #[error("node {0} not found")]
    NoSuchNode(String),
    /// A node that is still there can't be taken out.
    #[error("node {0} is not down and can't be removed")]
    NodeIsUp(String),
    /// Nobody could manage the cluster any more.
    #[error("attempting to demote the last manager of the swarm")]
    LastManager,
    /// Not all members know such a command.
    #[error(
        "not every node of the cluster knows how to do this: update those of an older version first"
    )]
    TooNew,
    /// A node doesn't know what this cluster's commands do.
    #[error(
        "this cluster uses what this node's version doesn't know (level {cluster}; the node's is {node}): boot a newer version there"
    )]
    TooOld {
        /// What the cluster uses.
        cluster: u32,
        /// What the node knows.
        node: u32,
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
