//! The replicated state: what the machines together know and promise.
//!
//! Pure and deterministic: a [`Command`] goes in, an [`Outcome`] or [`Refusal`] and [`Change`]s come out. No clock, no random
//! number, no I/O: times and ids are in the command, so that every replica and a simulator get the same.
//!
//! What is wanted and what is lie in different fields, written by different hands: users and the scheduler write the first (a
//! container's `wanted`, a pod's `assignment`), the nodes' agents the second (`status`). Nobody is told to do anything: agents compare.

pub mod address;
mod apply;
pub mod capability;
mod change;
mod command;
#[cfg(test)]
mod compatibility;
mod container;
mod containers;
pub mod encoding;
mod image;
mod map;
mod names;
mod node;
mod placed;
mod pod;
mod pods;
mod ports;
#[cfg(test)]
pub(crate) mod samples;
mod signal;
mod tree;

pub use apply::Applied;
pub use change::{Change, Object, What};
pub use command::{Command, FEATURES, NewContainer, Outcome, Refusal, Report, Telling};
pub use container::{
    AsAsked, Container, ContainerSpec, DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS,
    DEFAULT_SHM_BYTES, Exit, Failure, FailureKind, GOOD_RUN_NS, Layer, LogDriver, NetworkMode,
    Phase, PortBinding, PortRequest, Protocol, RestartPolicy, Run, Status, Stop, Ulimit, Wanted,
};
pub use containers::Containers;
pub use image::{ImageRecord, Stored, TagRecord};
pub use map::Map;
pub use names::{ContainerId, ContainerName, NameError, NodeId, PodId, Tenant};
pub use node::{Availability, Cluster, Health, Node, NodeIs, NodeWanted, Role};
pub use placed::Placed;
pub use pod::Pod;
pub use pods::Pods;
pub use signal::{InvalidSignal, Signal};

use serde::{Deserialize, Serialize};

/// Everything that is replicated. A copy costs the same however much that is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Every container of every tenant.
    pub containers: Containers,
    /// Every pod of every tenant.
    pub pods: Pods,
    /// Image names of each tenant, by `(tenant, familiar name with tag or digest)`.
    pub tags: Map<(Tenant, String), TagRecord>,
    /// Images that a tenant has pulled or loaded, by `(tenant, image id "sha256:…")`.
    pub images: Map<(Tenant, String), ImageRecord>,
    /// What is known of the bytes of an image, by its id.
    pub stored: Map<String, Stored>,
    /// The machines.
    pub nodes: Map<NodeId, Node>,
    /// What belongs to no machine in particular.
    pub cluster: Cluster,
    /// The term of the leader that decides about leases.
    pub term: u64,
    /// Commands applied so far; grows by one with each, refused ones included.
    pub revision: u64,
}
