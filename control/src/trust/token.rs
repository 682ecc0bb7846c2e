//! What a node shows that wants to join, and what the cluster knows it by.
//!
//! The text is swarm's, since docker's command line passes it through and people know it by sight:
//! `SWMTKN-1-` , 50 digits of base 36 for the digest of who issues the cluster's certificates, `-`, 25 digits for the secret. The digest
//! is [`IssuerDigest`], not that of the owner's CA: a node that joins has the CA already, and knows by this which of the owner's
//! clusters may hear the secret.

use std::str::FromStr;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::base36;
use super::hex_bytes::hex_bytes;
use super::peer::IssuerDigest;
use super::seal::{Purpose, SealError, SealKey};
use crate::entropy;

/// What a token begins with.
const PREFIX: &str = "SWMTKN-1-";
/// 36⁵⁰ > 2²⁵⁶.
const DIGEST_DIGITS: usize = 50;
/// 36²⁵ > 2¹²⁸.
const SECRET_DIGITS: usize = 25;
/// Keeps the hash of a secret apart from all other uses of SHA-256.
const HASHED_AS: &[u8] = b"hearth join secret 1\0";

/// 128 random bits.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(super) [u8; 16]);

/// What the state keeps of a [`Secret`]: enough to know it, not to show it. 128 random bits need no salt.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecretHash([u8; 32]);

hex_bytes!(SecretHash, 32, "the hash of a token");

/// What lets a node join a cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    issuer: IssuerDigest,
    secret: Secret,
}

/// Why a token lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Some other text.
    #[error(
        "this is no join token: one begins with SWMTKN-1- and is 85 characters long; `docker swarm join-token worker`, on a node of the cluster, shows it"
    )]
    Text,
    /// Of a cluster whose certificates somebody else issues.
    #[error(
        "this join token is of another cluster: take the one that `docker swarm join-token worker` shows on a node of this cluster"
    )]
    OtherCluster,
    /// Of this cluster, and none that counts.
    #[error(
        "this join token isn't valid: it is mistyped, or has been replaced since (`docker swarm join-token --rotate`); take the one that `docker swarm join-token worker` shows now"
    )]
    Secret,
}

impl Secret {
    /// A new one.
    pub fn random() -> Self {
        Self(entropy::random())
    }

    /// From bytes that were drawn elsewhere, at random.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// What to keep of it.
    pub fn hash(&self) -> SecretHash {
        let hash = Sha256::new().chain_update(HASHED_AS).chain_update(self.0);
        SecretHash(hash.finalize().into())
    }
}

impl SecretHash {
    /// Whether this is the secret. It takes as long for any.
    pub fn matches(&self, secret: &Secret) -> bool {
        self.0.ct_eq(&secret.hash().0).into()
    }
}

impl Token {
    /// Of these two.
    pub fn new(issuer: IssuerDigest, secret: Secret) -> Self {
        Self { issuer, secret }
    }

    /// Who issues the certificates of the token's cluster: whom to trust with the secret ([`super::Anchor::new`]).
    pub fn issuer(&self) -> IssuerDigest {
        self.issuer
    }

    /// What the joining node has to show.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// That the token is of the cluster of this issuer, and its secret the one that was hashed.
    pub fn verify(&self, issuer: &IssuerDigest, hash: &SecretHash) -> Result<(), TokenError> {
        if self.issuer != *issuer {
            return Err(TokenError::OtherCluster);
        }
        if !hash.matches(&self.secret) {
            return Err(TokenError::Secret);
        }
        Ok(())
    }

    /// The bytes to keep where it must be shown again (`docker swarm join-token`).
    pub fn seal(&self, key: &SealKey) -> Vec<u8> {
        let mut plain = self.issuer.0.to_vec();
        plain.extend(self.secret.0);
        key.seal(Purpose::Token, &plain)
    }

    /// What [`Self::seal`] has sealed.
    pub fn unseal(key: &SealKey, sealed: &[u8]) -> Result<Self, SealError> {
        let plain = key.unseal(Purpose::Token, sealed)?;
        let (issuer, secret) = plain.split_first_chunk::<32>().ok_or(SealError::Content)?;
        Ok(Self {
            issuer: IssuerDigest(*issuer),
            secret: Secret(secret.try_into().map_err(|_| SealError::Content)?),
        })
    }
}

/// The whole token, secret included: for the owner's eyes.
impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{PREFIX}{}-{}",
            base36::encode(&self.issuer.0, DIGEST_DIGITS),
            base36::encode(&self.secret.0, SECRET_DIGITS)
        )
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parse = || {
            let (digest, secret) = text.strip_prefix(PREFIX)?.split_once('-')?;
            Some(Self {
                issuer: IssuerDigest(base36::decode(digest, DIGEST_DIGITS)?),
                secret: Secret(base36::decode(secret, SECRET_DIGITS)?),
            })
        };
        parse().ok_or(TokenError::Text)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token(of {})", self.issuer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tokens_round_trip(issuer in any::<[u8; 32]>(), secret in any::<[u8; 16]>()) {
            let token = Token::new(IssuerDigest(issuer), Secret(secret));
            let text = token.to_string();
            prop_assert_eq!(text.len(), 85);
            prop_assert!(text.parse::<Token>() == Ok(token));
        }

        #[test]
        fn any_text_is_a_token_or_an_error(text in "(SWMTKN-[12]-)?[0-9a-zA-Zé-]{0,90}") {
            if let Ok(token) = text.parse::<Token>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }
    }

    #[test]
    fn another_cluster_and_another_secret_are_told_apart() {
        let issuer = IssuerDigest([1; 32]);
        let token = Token::new(issuer, Secret::random());
        assert_eq!(token.verify(&issuer, &token.secret().hash()), Ok(()));
        assert_eq!(
            token.verify(&IssuerDigest([2; 32]), &token.secret().hash()),
            Err(TokenError::OtherCluster)
        );
        assert_eq!(
            token.verify(&issuer, &Secret::random().hash()),
            Err(TokenError::Secret)
        );
    }

    #[test]
    fn a_sealed_token_comes_back_and_is_never_shown_by_accident() {
        let token = Token::new(IssuerDigest([1; 32]), Secret::random());
        let key = SealKey::random();
        assert!(Token::unseal(&key, &token.seal(&key)) == Ok(token.clone()));
        let short = key.seal(Purpose::Token, b"short");
        assert_eq!(Token::unseal(&key, &short), Err(SealError::Content));
        let secret = base36::encode(&token.secret().0, SECRET_DIGITS);
        assert!(!format!("{token:?} {:?}", token.secret()).contains(&secret));
    }
}
