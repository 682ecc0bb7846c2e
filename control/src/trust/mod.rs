//! Who belongs to a cluster, and how one proves it.
//!
//! ```text
//! owner's CA ──signs──▶ issuer (serverAuth and our peer usage, never clientAuth)
//!      │                  ├──▶ peer certificate of a node     (peer usage)   hearth://CLUSTER/node/NODE
//!      │                  └──▶ server certificate of a node   (serverAuth)   its names and addresses
//!      └────signs──▶ users' certificates (clientAuth)          a tenant
//! ```
//!
//! The owner's key stays at home; what a cluster holds is the [`Issuer`], and whatever is done with that makes nodes and never users:
//! the extended key usage of a certificate counts for all below it. Nodes make their own keys ([`NodeKey`]) and show short-lived
//! certificates ([`Credentials`]), which the next ones replace while connections go on. Who has no certificate yet shows a [`Token`].
//!
//! Nothing here has a clock or a place in the replicated state: time is handed in, and what must be kept is bytes, sealed
//! ([`SealKey`]) where they are secret.

mod anchor;
mod base36;
mod credentials;
mod hex_bytes;
mod issuer;
mod key;
mod peer;
pub mod revocation;
mod seal;
mod secret;
mod tls;
mod token;
mod validity;

#[cfg(test)]
mod tests;

pub use anchor::{Anchor, AnchorError, Refusal};
pub use credentials::{Credentials, CredentialsError};
pub use issuer::{Issuer, IssuerError};
pub use key::{FILE as NODE_KEY_FILE, KeyError, NodeKey, write_secret};
pub use peer::{ClusterId, Fingerprint, IssuerDigest, NameError, Peer, fingerprint, issuer_digest};
pub use seal::{Purpose, SealError, SealKey};
pub use secret::{ClusterSecret, SecretError, UnlockKey};
pub use tls::{Peering, join_client_config, peer_in, peer_of};
pub use token::{Secret, SecretHash, Token, TokenError};
pub use validity::{LIFETIME, renew_at};

/// The extended key usage of nodes towards each other. It is made of a random UUID below the arc that Microsoft leaves to anybody for
/// that (1.2.840.113556.1.8000.2554), since the registered arc for UUIDs, 2.25, has numbers that Go's parser refuses, and docker's
/// command line is a program in Go that is shown the issuer's certificate.
pub const PEER_USAGE: &str =
    "1.2.840.113556.1.8000.2554.46164.19885.12665.16657.36227.16267574.13727204";

/// [`PEER_USAGE`], as numbers.
const PEER_USAGE_ARCS: [u64; 14] = [
    1, 2, 840, 113_556, 1, 8000, 2554, 46164, 19885, 12665, 16657, 36227, 16_267_574, 13_727_204,
];

/// [`PEER_USAGE`], as certificates hold it: DER without tag and length (X.690, section 8.19).
const PEER_USAGE_DER: &[u8] = &[
    0x2a, 0x86, 0x48, 0x86, 0xf7, 0x14, 0x01, 0xbe, 0x40, 0x93, 0x7a, 0x82, 0xe8, 0x54, 0x81, 0x9b,
    0x2d, 0xe2, 0x79, 0x81, 0x82, 0x11, 0x82, 0x9b, 0x03, 0x87, 0xe0, 0xf2, 0x36, 0x86, 0xc5, 0xeb,
    0x64,
];
