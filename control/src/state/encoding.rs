//! How commands, snapshots and what raft keeps beside them are written: CBOR (RFC 8949), maps with names for keys.
//!
//! Self-describing, so that a later version may add fields (`#[serde(default)]` on each) and variants, and an earlier one's log and
//! snapshots are still read.

use serde::{Serialize, de::DeserializeOwned};

/// Bytes that are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum EncodingError {
    /// A value that CBOR can't hold.
    #[error("encoding: {0}")]
    Encode(String),
    /// Damaged, or written by a version that changed what it should only have added to.
    #[error("decoding: {0}")]
    Decode(String),
}

/// A value as bytes.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, EncodingError> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|e| EncodingError::Encode(e.to_string()))?;
    Ok(bytes)
}

/// How many bytes a value is encoded.
pub fn size<T: Serialize>(value: &T) -> Result<usize, EncodingError> {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    ciborium::into_writer(value, &mut count).map_err(|e| EncodingError::Encode(e.to_string()))?;
    Ok(count.0)
}

/// The value in some bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, EncodingError> {
    ciborium::from_reader(bytes).map_err(|e| EncodingError::Decode(e.to_string()))
}
