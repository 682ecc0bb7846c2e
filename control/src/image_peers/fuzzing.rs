//! What another node asks for of this node's images.

use crate::state::encoding;

/// The first frame of a stream. What is read is the same when it is written and read again.
pub fn image_part(bytes: &[u8]) {
    if let Ok(part) = super::served::read(bytes) {
        let again = encoding::encode(&part).expect("what was read can be written");
        assert_eq!(super::served::read(&again), Ok(part));
    }
}
