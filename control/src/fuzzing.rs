//! What fuzzing reaches of this crate: what clients, guests, other nodes and the owner's file say, and what is read back from a log.

use crate::config::{Boot, Owner};

pub use crate::agent::local::fuzzing::{log, reply};
pub use crate::agent::remote::fuzzing::agent_question;
pub use crate::api::docker::fuzzing::{json_body, query, registry_auth};
pub use crate::api::docker::swarm_body;
pub use crate::api::fuzzing::certificate;
pub use crate::cluster::fuzzing::stranger;
pub use crate::image_peers::fuzzing::image_part;
pub use crate::peers::fuzzing::peer_frames;
pub use crate::raft::fuzzing::raft_request;

/// `hearth.toml` once more, and what init has found: control reads both for itself.
pub fn owner(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = toml::from_str::<Owner>(text);
        let _ = toml::from_str::<Boot>(text);
    }
}
