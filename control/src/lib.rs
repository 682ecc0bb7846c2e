//! The replicated controller, the node agent and the APIs.
//!
//! ```text
//! api::docker ──▶ Controller ──propose──▶ raft ──apply──▶ state::State ──events──▶ watchers (API streams, node agent)
//!                     │
//!                     └──────ask────────▶ agent::Agent (VMs, logs, streams of the containers on one node)
//! ```
//!
//! An API handler never touches a VM, a disk or a network: it reads the state, proposes a command through the
//! [`controller::Controller`], or asks the node agent.

pub mod agent;
pub mod api;
mod clock;
pub mod cluster;
pub mod config;
pub mod controller;
mod entropy;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod image_peers;
pub mod lease;
pub mod network;
pub mod node;
pub mod peers;
pub mod placement;
pub mod raft;
mod reserve;
pub mod scheduler;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod state;
pub mod trust;
