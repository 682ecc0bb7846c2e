//! Names that are checked once, where they come in.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{Error as DeserializeError, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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
pub struct Tenant(Arc<str>);

/// Names a container for ever: 32 random bytes, 64 lower-case hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId([u8; 32]);

/// Names a pod for ever. A pod that was made for one container has that container's bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodId([u8; 32]);

impl From<ContainerId> for PodId {
    fn from(id: ContainerId) -> Self {
        Self(id.0)
    }
}

/// A container's name without docker's leading slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerName(Arc<str>);

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

    /// [`Self::OWNER`].
    pub fn owner() -> Self {
        Self::OWNER
            .parse()
            .expect("it is made of letters, and short")
    }
}

impl TryFrom<String> for Tenant {
    type Error = NameError;
    fn try_from(name: String) -> Result<Self, NameError> {
        let ok =
            !name.is_empty() && name.len() <= TENANT_MAX && !name.chars().any(char::is_control);
        if ok {
            Ok(Self(name.into()))
        } else {
            Err(NameError::Tenant(name))
        }
    }
}

/// Digits of an id that tools show.
const SHORT: usize = 12;

macro_rules! id {
    ($($name:ident),*) => {$(
        impl $name {
            /// The id made of 32 random bytes.
            pub fn from_random(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The twelve digits that tools show.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..SHORT / 2])
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                let mut bytes = [0; 32];
                match hex::decode_to_slice(text, &mut bytes) {
                    Ok(()) if lower => Ok(Self(bytes)),
                    _ => Err(NameError::Id(text.to_owned())),
                }
            }
        }
        /// Bytes where nobody reads it, text where somebody does.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(D::Error::custom)
                } else {
                    deserializer.deserialize_bytes(IdBytes).map(Self)
                }
            }
        }
    )*};
}
id!(ContainerId, PodId);

/// Takes the bytes of an id.
struct IdBytes;

impl Visitor<'_> for IdBytes {
    type Value = [u8; 32];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("32 bytes")
    }

    fn visit_bytes<E: DeserializeError>(self, bytes: &[u8]) -> Result<[u8; 32], E> {
        let wrong = || E::invalid_length(bytes.len(), &self);
        bytes.try_into().map_err(|_| wrong())
    }
}

impl ContainerId {
    /// The least id that begins with these digits; None: no id does.
    pub(super) fn least_with(beginning: &str) -> Option<Self> {
        let mut text = beginning.to_owned();
        (text.len() <= 64).then(|| text.extend(std::iter::repeat_n('0', 64 - text.len())))?;
        text.parse().ok()
    }

    /// Whether its text begins so.
    pub fn begins_with(&self, digits: &str) -> bool {
        self.to_string().starts_with(digits)
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
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
            Ok(Self(name.into()))
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
                name.as_str().to_owned()
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
text!(Tenant, ContainerName);
