//! Secrets that people hold: `token` of `[cluster]`, and the key of a locked cluster.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::peer::IssuerDigest;
use super::seal::{SealKey, derive};
use super::token::{Secret, Token};
use crate::entropy;

/// Shortest `token`: 22 characters of base64 are 128 bits. That it looks like random ones, init has checked.
const TOKEN_MIN: usize = 22;
/// What an unlock key begins with; swarm's form.
const UNLOCK_PREFIX: &str = "SWMKEY-1-";

/// `token` under `[cluster]`: what all of an owner's sticks for one cluster share. It is never sent, kept or shown: what goes over the
/// network is drawn from it, a different thing for each use.
#[derive(Clone)]
pub struct ClusterSecret(String);

/// The key that opens a locked cluster's secrets after a boot (`docker swarm unlock`).
#[derive(Clone, PartialEq, Eq)]
pub struct UnlockKey([u8; 32]);

/// Why a text is none of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Guessable.
    #[error(
        "hearth.toml: token under [cluster] is too short, it needs 128 random bits: `openssl rand -hex 32` makes a good one"
    )]
    Short,
    /// No unlock key.
    #[error(
        "this is no unlock key: one begins with SWMKEY-1- and is 52 characters long; `docker swarm unlock-key`, on a node that is unlocked, shows it"
    )]
    UnlockKey,
}

impl ClusterSecret {
    /// From `token`.
    pub fn new(token: &str) -> Result<Self, SecretError> {
        if token.len() < TOKEN_MIN {
            return Err(SecretError::Short);
        }
        Ok(Self(token.to_owned()))
    }

    /// What a node with this stick shows to join; a cluster that was founded with this stick knows its hash.
    pub fn token(&self, issuer: IssuerDigest) -> Token {
        Token::new(issuer, Secret::from_bytes(self.draw(b"join")))
    }

    /// What the cluster's secrets are sealed with on this node's disk.
    pub fn seal_key(&self) -> SealKey {
        SealKey::from_bytes(self.draw(b"seal"))
    }

    /// What nodes with this stick know each other by on their link. Anybody may see it, and learns nothing of the secret.
    pub fn discovery_tag(&self) -> [u8; 16] {
        self.draw(b"discovery")
    }

    fn draw<const N: usize>(&self, what: &[u8]) -> [u8; N] {
        derive(
            b"hearth cluster token 1",
            self.0.as_bytes(),
            &[b"hearth ", what],
        )
    }
}

impl UnlockKey {
    /// A new one.
    pub fn random() -> Self {
        Self(entropy::random())
    }

    /// What it seals and opens with.
    pub fn seal_key(&self) -> SealKey {
        SealKey::from_bytes(derive(b"hearth unlock key 1", &self.0, &[b"hearth seal"]))
    }

    /// What it is known by; who has that has neither the key nor what it opens.
    pub fn check(&self) -> [u8; 32] {
        derive(b"hearth unlock key 1", &self.0, &[b"hearth check"])
    }
}

/// The whole key: for the owner's eyes.
impl std::fmt::Display for UnlockKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{UNLOCK_PREFIX}{}", STANDARD_NO_PAD.encode(self.0))
    }
}

impl FromStr for UnlockKey {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        let parse = || {
            let text = text.strip_prefix(UNLOCK_PREFIX)?;
            let bytes = STANDARD_NO_PAD.decode(text).ok()?;
            Some(Self(bytes.try_into().ok()?))
        };
        parse().ok_or(SecretError::UnlockKey)
    }
}

impl std::fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterSecret")
    }
}

impl std::fmt::Debug for UnlockKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UnlockKey")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::trust::Purpose;

    proptest! {
        #[test]
        fn unlock_keys_round_trip(bytes in any::<[u8; 32]>()) {
            let text = UnlockKey(bytes).to_string();
            prop_assert_eq!(text.len(), 52);
            prop_assert!(text.parse::<UnlockKey>() == Ok(UnlockKey(bytes)));
        }

        #[test]
        fn any_text_is_an_unlock_key_or_an_error(text in "(SWMKEY-1-)?[0-9a-zA-Z+/=é]{0,50}") {
            if let Ok(key) = text.parse::<UnlockKey>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }

    #[test]
    fn one_stick_means_one_token_one_seal_and_one_tag() {
        let text = "9f86d081884c7d659a2feaa0c55ad015";
        let (one, same) = (
            ClusterSecret::new(text).unwrap(),
            ClusterSecret::new(text).unwrap(),
        );
        let other = ClusterSecret::new("0f86d081884c7d659a2feaa0c55ad015").unwrap();
        let issuer = IssuerDigest([3; 32]);
        assert!(one.token(issuer) == same.token(issuer));
        assert!(one.token(issuer) != other.token(issuer));
        assert_eq!(one.discovery_tag(), same.discovery_tag());
        assert_ne!(one.discovery_tag(), other.discovery_tag());
        assert_ne!(one.discovery_tag(), one.token(issuer).secret().0);
        let sealed = one.seal_key().seal(Purpose::Token, b"x");
        assert!(same.seal_key().unseal(Purpose::Token, &sealed).is_ok());
        assert!(other.seal_key().unseal(Purpose::Token, &sealed).is_err());
    }

    #[test]
    fn an_unlock_key_is_known_by_what_doesnt_open_anything() {
        let (key, other) = (UnlockKey::random(), UnlockKey::random());
        assert_eq!(key.check(), key.clone().check());
        assert_ne!(key.check(), other.check());
        let sealed = key.seal_key().seal(Purpose::Node, b"x");
        let guessed = SealKey::from_bytes(key.check());
        assert!(guessed.unseal(Purpose::Node, &sealed).is_err());
    }

    #[test]
    fn a_short_token_is_refused() {
        assert_eq!(
            ClusterSecret::new("hunter2").unwrap_err(),
            SecretError::Short
        );
    }
}
