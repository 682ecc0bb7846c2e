//! Values that tell whether they are still what was written: after each stand four letters and a checksum of its name and itself.
//!
//! ```text
//! CBOR ... | "sum1" | CRC-32C (RFC 3720, appendix B.4) of name and CBOR, little-endian
//! ```
//!
//! redb has checksums of its pages, and looks at them when a file is opened after a crash, or when it's asked to. A page that changes while the file
//! is open is read as it is, and written again with a new checksum, right over wrong. The name is in the sum, so that a value that has come to
//! stand under another is no more believed than a damaged one.
//!
//! Versions before this one wrote bare CBOR: that is taken if nothing comes after it. They read what has a sum too, for they don't look
//! at what comes after.

use serde::de::IgnoredAny;

/// After the value.
const MAGIC: [u8; 4] = *b"sum1";
const TRAILER: usize = MAGIC.len() + 4;

/// A value isn't what was written.
#[derive(Debug, thiserror::Error)]
#[error("a value is not as it was written")]
pub(super) struct Broken;

fn sum(name: &[u8], value: &[u8]) -> [u8; 4] {
    crc32c::crc32c_append(crc32c::crc32c(name), value).to_le_bytes()
}

/// A value as it is to be kept under its name.
pub(super) fn seal(name: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    let sum = sum(name, &value);
    value.extend_from_slice(&MAGIC);
    value.extend_from_slice(&sum);
    value
}

/// The value in what was found under a name.
pub(super) fn unseal<'a>(name: &[u8], found: &'a [u8]) -> Result<&'a [u8], Broken> {
    if let Some((value, trailer)) = found.split_last_chunk::<TRAILER>()
        && trailer[..MAGIC.len()] == MAGIC
    {
        return match trailer[MAGIC.len()..] == sum(name, value) {
            true => Ok(value),
            false => Err(Broken),
        };
    }
    let mut rest = found;
    match ciborium::from_reader::<IgnoredAny, _>(&mut rest) {
        Ok(IgnoredAny) if rest.is_empty() => Ok(found),
        _ => Err(Broken),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::encoding;

    proptest! {
        #[test]
        fn a_flipped_bit_is_found_wherever_it_is(text in ".{0,40}", at: prop::sample::Index, bit in 0_u8..8) {
            let value = encoding::encode(&text).unwrap();
            let mut kept = seal(b"vote", value.clone());
            prop_assert_eq!(unseal(b"vote", &kept).unwrap(), &value);
            prop_assert!(unseal(b"wote", &kept).is_err());
            let read: String = encoding::decode(&kept).unwrap();
            prop_assert_eq!(read, text, "an earlier version reads it");
            let at = at.index(kept.len());
            kept[at] ^= 1 << bit;
            prop_assert!(unseal(b"vote", &kept).is_err());
        }

        #[test]
        fn what_an_earlier_version_wrote_is_taken(text in ".{0,40}") {
            let value = encoding::encode(&text).unwrap();
            prop_assert_eq!(unseal(b"vote", &value).unwrap(), &value);
        }
    }
}
