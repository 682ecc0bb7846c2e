//! The replicated state: what the machines together know and promise.
//!
//! Pure and deterministic: a [`Command`] goes in, an [`Outcome`] or [`Refusal`] and [`Event`]s come out. No clock, no random
//! number, no I/O: times and ids are in the command, so that every replica and a simulator get the same state.

pub mod address;
mod apply;
pub mod capability;
mod command;
mod container;
mod containers;
pub mod encoding;
mod event;
mod image;
mod names;
mod ports;
mod signal;

pub use apply::Applied;
pub use command::{Command, Outcome, Refusal};
pub use container::{
    AsAsked, Container, ContainerSpec, DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS,
    DEFAULT_SHM_BYTES, Exit, GOOD_RUN_NS, LogDriver, NetworkMode, Phase, PortBinding, PortRequest,
    Protocol, RestartPolicy, Status, Ulimit,
};
pub use containers::{Change, Containers};
pub use event::{Action, Event, EventKind};
pub use image::{ImageRecord, TagRecord};
pub use names::{ContainerId, ContainerName, NameError, NodeId, Tenant};
pub use signal::{InvalidSignal, Signal};

use serde::{Deserialize, Serialize};

/// A map that shares what is equal with its copies.
pub type Map<K, V> = rpds::RedBlackTreeMapSync<K, V>;

/// Everything that is replicated. A copy costs the same however much that is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Every container of every tenant.
    pub containers: Containers,
    /// Image names of each tenant, by `(tenant, familiar name with tag or digest)`.
    pub tags: Map<(Tenant, String), TagRecord>,
    /// Images that a tenant has pulled or loaded, by `(tenant, image id "sha256:…")`.
    pub images: Map<(Tenant, String), ImageRecord>,
    /// Commands applied so far; grows by one with each, refused ones included.
    pub revision: u64,
}
