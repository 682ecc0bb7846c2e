//! Names that are checked once, where they come in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name that can't be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not docker's pattern.
    #[error("Invalid container name: it has {0} characters, and {CONTAINER_NAME_MAX} are the most")]
    ContainerLength(usize),
    /// Of a container.
    #[error("Invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    Container(String),
    /// Not 64 hexadecimal digits.
    #[error("{0:?} is no container id: 64 hexadecimal digits are expected")]
    Id(String),
    /// Empty or with control characters.
    #[error(
        "the certificate's organisation {0:?} can't be a tenant's name: 1 to 64 printable characters are expected"
    )]
    Tenant(String),
}

/// Who owns a thing: the organisation (O) in the client's certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tenant(String);

/// 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

/// A container's name without docker's leading slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerName(String);

/// A machine of the cluster; never reused.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct NodeId(pub u64);

/// Longest tenant name: the upper bound of an organisation name in X.509 (RFC 5280, ub-organization-name).
const TENANT_MAX: usize = 64;

impl Tenant {
    /// The owner's own tenant, which may also manage nodes.
    pub const OWNER: &str = "owner";
}

impl TryFrom<String> for Tenant {
    type Error = NameError;
    fn try_from(name: String) -> Result<Self, NameError> {
        let ok =
            !name.is_empty() && name.len() <= TENANT_MAX && !name.chars().any(char::is_control);
        if ok {
            Ok(Self(name))
        } else {
            Err(NameError::Tenant(name))
        }
    }
}

impl TryFrom<String> for ContainerId {
    type Error = NameError;
    fn try_from(id: String) -> Result<Self, NameError> {
        let ok = id.len() == 64 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if ok {
            Ok(Self(id))
        } else {
            Err(NameError::Id(id))
        }
    }
}

impl ContainerId {
    /// The id made of 32 random bytes.
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// The least of all ids that begin so; it may be none itself.
    pub(super) fn bound(beginning: &str) -> Self {
        Self(beginning.to_owned())
    }

    /// The twelve digits that tools show.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

/// Longest name of a container. docker has no bound but that of a request; a name is in every event, and tools make file names of it
/// (255, NAME_MAX in linux/limits.h).
const CONTAINER_NAME_MAX: usize = 255;

impl TryFrom<String> for ContainerName {
    type Error = NameError;
    fn try_from(name: String) -> Result<Self, NameError> {
        let bytes = name.as_bytes();
        if bytes.len() > CONTAINER_NAME_MAX {
            return Err(NameError::ContainerLength(bytes.len()));
        }
        let ok = bytes.len() >= 2
            && bytes[0].is_ascii_alphanumeric()
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if ok {
            Ok(Self(name))
        } else {
            Err(NameError::Container(name))
        }
    }
}

macro_rules! text {
    ($($name:ident),*) => {$(
        impl $name {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                text.to_owned().try_into()
            }
        }
    )*};
}
text!(Tenant, ContainerId, ContainerName);
