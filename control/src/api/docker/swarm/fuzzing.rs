//! Bodies of `/swarm`, `/nodes` and `/configs`.

use bollard_stubs::models::SwarmSpec;

use super::membership::{Reached, Unlock};
use super::{configs, nodes, spec};
use crate::api::docker::answer::JSON;
use crate::api::docker::body;

/// One of them; the first byte says which.
pub fn swarm_body(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    match kind % 5 {
        0 => {
            if let Ok(asked) = body::decode::<SwarmSpec>(Some(JSON), rest) {
                let _ = (spec::check(&asked), spec::locks(&asked));
            }
        }
        1 => {
            if let Ok(asked) = body::decode::<Reached>(Some(JSON), rest) {
                asked.understand();
            }
        }
        2 => drop(nodes::understand(rest)),
        3 => {
            if let Ok(asked) = body::decode::<Unlock>(Some(JSON), rest) {
                let _ = asked.key();
            }
        }
        _ => configs::understand(rest),
    }
}
