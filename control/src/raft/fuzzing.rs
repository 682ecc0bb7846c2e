//! What another node's replica asks of this one, and what it answers.

use super::peers::{self, Reply, Request};
use crate::state::encoding;

/// A request or a reply. What is read can be written, and read again.
pub fn raft_request(bytes: &[u8]) {
    if let Ok(request) = peers::decode::<Request>(bytes) {
        let again = encoding::encode(&request).expect("what was read can be written");
        let again = peers::decode::<Request>(&again).expect("what was written can be read");
        assert_eq!(again.speaks_for(), request.speaks_for());
    }
    if let Ok(reply) = peers::decode::<Reply>(bytes) {
        let again = encoding::encode(&reply).expect("what was read can be written");
        peers::decode::<Reply>(&again).expect("what was written can be read");
    }
}
