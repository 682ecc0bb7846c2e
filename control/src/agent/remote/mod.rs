//! Another node's agent, over the connection between nodes ([`crate::peers`]).
//!
//! [`RemoteAgent`] asks, [`call`] and [`open`] answer with the agent of their own node. What goes back and forth is in `wire`; what is
//! carried over a stream, and what becomes of it when one side goes, in `carry`.

mod carry;
mod client;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod server;
#[cfg(test)]
mod tests;
mod wire;

pub use client::RemoteAgent;
pub use server::{call, open};

/// The path of questions with one answer.
pub const ASK: &str = "/agent/ask";
/// The path of streams.
pub const OPEN: &str = "/agent/open";
