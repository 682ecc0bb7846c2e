//! What another node asks of this node's agent, and what it answers.

use bytes::Bytes;

use super::wire::{self, Answer, Opening, Output, Question};
use crate::agent::AgentError;
use crate::state::encoding;

/// A question, an opening, an answer, or a frame. What is read is the same when it is written and read again.
pub fn agent_question(bytes: &[u8]) {
    if let Ok(question) = wire::read::<Question>(bytes) {
        let again = encoding::encode(&question).expect("what was read can be written");
        assert_eq!(wire::read::<Question>(&again), Ok(question));
    }
    if let Ok(opening) = wire::read::<Opening>(bytes) {
        let again = encoding::encode(&opening).expect("what was read can be written");
        assert_eq!(wire::read::<Opening>(&again), Ok(opening));
    }
    if let Ok(Answer::Failed { failure }) = encoding::decode(bytes) {
        let _ = AgentError::from(failure).to_string();
    }
    let frame = Bytes::copy_from_slice(bytes);
    if let Ok(output) = Output::read(frame.clone()) {
        assert_eq!(output.head()[..], bytes[..1]);
    }
    if let Ok(record) = wire::read_record(frame) {
        assert_eq!(wire::record_head(&record)[..], bytes[..9]);
    }
}
