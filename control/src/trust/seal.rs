//! Secrets on disk: sealed under a key that isn't on that disk.
//!
//! ```text
//! version: 1 byte = 1 │ salt: 32 bytes │ ciphertext │ tag: 16 bytes
//! ```
//!
//! ChaCha20-Poly1305 (RFC 8439) under a key of its own for each sealing, drawn by HKDF-SHA-256 (RFC 5869) from the sealing key and the
//! salt: thus its nonce can be zero, and no count of sealings is too many. What the bytes are for goes into that key, so that one kind
//! can't be passed off for another.

use ring::{aead, hkdf};

use crate::entropy;

/// Of the format.
const VERSION: u8 = 1;
/// Bytes of salt: as many as the hash has.
const SALT_LEN: usize = 32;
/// Bytes of a Poly1305 tag.
const TAG_LEN: usize = 16;

/// A key to seal with: 256 bits that nobody can guess.
#[derive(Clone)]
pub struct SealKey([u8; 32]);

/// What sealed bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A cluster's issuer, with its key.
    Issuer,
    /// A join token.
    Token,
    /// Another [`SealKey`].
    Key,
    /// What a node of a locked cluster keeps to itself.
    Node,
}

/// Why sealed bytes stay so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Of a format that isn't known.
    #[error(
        "sealed by a later version of Hearth (format {0}): boot the version that this node had before"
    )]
    Version(u8),
    /// Fewer bytes than any sealing has.
    #[error("what was sealed is cut off: this node's disk has lost bytes")]
    Short,
    /// Altered, or under another key.
    #[error(
        "it doesn't open: the token or key isn't the one it was sealed with, or its bytes were altered"
    )]
    Key,
    /// Opened, and not what it should be.
    #[error("it opens and holds something else than it should")]
    Content,
}

/// Bytes that HKDF is to give.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Issuer => b"issuer",
            Self::Token => b"token",
            Self::Key => b"key",
            Self::Node => b"node",
        }
    }
}

/// Bytes drawn from a secret for one use; who knows them knows neither the secret nor the bytes of another use.
pub(super) fn derive<const N: usize>(salt: &[u8], secret: &[u8], uses: &[&[u8]]) -> [u8; N] {
    let mut bytes = [0; N];
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(secret)
        .expand(uses, Length(N))
        .and_then(|drawn| drawn.fill(&mut bytes))
        .expect("HKDF gives up to 255 times as many bytes");
    bytes
}

impl SealKey {
    /// A new one.
    pub fn random() -> Self {
        Self(entropy::random())
    }

    pub(super) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Seals bytes.
    pub fn seal(&self, purpose: Purpose, plain: &[u8]) -> Vec<u8> {
        let salt: [u8; SALT_LEN] = entropy::random();
        let mut sealed = Vec::with_capacity(1 + SALT_LEN + plain.len() + TAG_LEN);
        sealed.push(VERSION);
        sealed.extend(salt);
        let mut bytes = plain.to_vec();
        self.cipher(&salt, purpose)
            .seal_in_place_append_tag(nonce(), aead::Aad::from([VERSION]), &mut bytes)
            .expect("ChaCha20-Poly1305 takes up to 256 GiB");
        sealed.extend(bytes);
        sealed
    }

    /// What [`Self::seal`] was given.
    pub fn unseal(&self, purpose: Purpose, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (version, rest) = sealed.split_first().ok_or(SealError::Short)?;
        if *version != VERSION {
            return Err(SealError::Version(*version));
        }
        let (salt, rest) = rest
            .split_first_chunk::<SALT_LEN>()
            .ok_or(SealError::Short)?;
        if rest.len() < TAG_LEN {
            return Err(SealError::Short);
        }
        let mut bytes = rest.to_vec();
        let plain = self
            .cipher(salt, purpose)
            .open_in_place(nonce(), aead::Aad::from([VERSION]), &mut bytes)
            .map_err(|_| SealError::Key)?
            .len();
        bytes.truncate(plain);
        Ok(bytes)
    }

    /// This key, sealed under another: what is sealed under this one needn't be sealed anew when the other changes.
    pub fn seal_under(&self, outer: &Self) -> Vec<u8> {
        outer.seal(Purpose::Key, &self.0)
    }

    /// What [`Self::seal_under`] has sealed.
    pub fn unseal_under(outer: &Self, sealed: &[u8]) -> Result<Self, SealError> {
        let plain = outer.unseal(Purpose::Key, sealed)?;
        Ok(Self(plain.try_into().map_err(|_| SealError::Content)?))
    }

    fn cipher(&self, salt: &[u8; SALT_LEN], purpose: Purpose) -> aead::LessSafeKey {
        let key: [u8; 32] = derive(salt, &self.0, &[b"hearth seal 1 ", purpose.label()]);
        aead::UnboundKey::new(&aead::CHACHA20_POLY1305, &key)
            .map(aead::LessSafeKey::new)
            .expect("32 bytes are a key of ChaCha20-Poly1305")
    }
}

/// Zero: no key is used twice.
fn nonce() -> aead::Nonce {
    aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN])
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_sealed_comes_back(plain in proptest::collection::vec(any::<u8>(), 0..300)) {
            let key = SealKey::random();
            let sealed = key.seal(Purpose::Issuer, &plain);
            prop_assert_eq!(key.unseal(Purpose::Issuer, &sealed), Ok(plain));
            prop_assert!(key.unseal(Purpose::Token, &sealed).is_err());
            prop_assert!(SealKey::random().unseal(Purpose::Issuer, &sealed).is_err());
        }

        #[test]
        fn a_flipped_bit_or_a_lost_byte_is_an_error(
            plain in proptest::collection::vec(any::<u8>(), 0..100), at in any::<proptest::sample::Index>(), bit in 0..8u32,
        ) {
            let key = SealKey::random();
            let sealed = key.seal(Purpose::Issuer, &plain);
            let at = at.index(sealed.len());
            let mut flipped = sealed.clone();
            flipped[at] ^= 1 << bit;
            prop_assert!(key.unseal(Purpose::Issuer, &flipped).is_err());
            prop_assert!(key.unseal(Purpose::Issuer, &sealed[..at]).is_err());
        }

        #[test]
        fn any_bytes_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(SealKey::random().unseal(Purpose::Issuer, &bytes).is_err());
        }
    }

    #[test]
    fn a_key_under_a_key_comes_back() {
        let (inner, outer) = (SealKey::random(), SealKey::random());
        let sealed = inner.seal_under(&outer);
        assert_eq!(SealKey::unseal_under(&outer, &sealed).unwrap().0, inner.0);
        let other = outer.seal(Purpose::Key, b"no key");
        assert_eq!(
            SealKey::unseal_under(&outer, &other).unwrap_err(),
            SealError::Content
        );
    }

    #[test]
    fn later_versions_say_so() {
        let key = SealKey::random();
        let mut sealed = key.seal(Purpose::Token, b"x");
        sealed[0] = 2;
        assert_eq!(
            key.unseal(Purpose::Token, &sealed),
            Err(SealError::Version(2))
        );
    }
}
