//! Who we are to a registry.

use std::fmt;

/// What a client sent along with a pull (docker's `X-Registry-Auth`).
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody in particular.
    #[default]
    Anonymous,
    /// A name and a password (or an access token in its place).
    Basic {
        /// The account.
        username: String,
        /// Its password.
        password: String,
    },
    /// An OAuth2 refresh token, exchanged for an access token at the registry's token service.
    IdentityToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Secrets never reach a log, not even by `{:?}`.
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Basic { username, .. } => write!(f, "Basic({username})"),
            Self::IdentityToken(_) => f.write_str("IdentityToken"),
        }
    }
}
