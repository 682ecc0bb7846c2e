//! What fuzzing reaches of this crate: what clients, guests and the owner's file say, and what is read back from a log.

use crate::config::{Boot, Owner};

pub use crate::agent::local::fuzzing::{log, reply};
pub use crate::api::docker::fuzzing::{json_body, query, registry_auth};
pub use crate::api::fuzzing::certificate;

/// `hearth.toml` once more, and what init has found: control reads both for itself.
pub fn owner(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = toml::from_str::<Owner>(text);
        let _ = toml::from_str::<Boot>(text);
    }
}
