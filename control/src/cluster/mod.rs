//! Several machines as one: who belongs to the cluster and votes, whose lease holds, and where pods are. What is decided is decided
//! from the state, apart from being done ([`voters`], [`moves`]); whoever leads does it ([`steward`]), and the next leader goes on.

pub mod discovery;
pub mod finder;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod identity;
pub mod join;
pub mod leases;
pub mod links;
pub mod lock;
pub mod membership;
pub mod moves;
pub mod service;
pub mod steward;
pub mod tenant;
pub mod voters;
pub mod ways;

#[cfg(test)]
mod tests;
