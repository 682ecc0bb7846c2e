//! Types that are some bytes, and hexadecimal digits to people and in the state.

/// Gives a type `NAME([u8; N])` its text: `Display`, `Debug`, `FromStr` and serde, all in lower-case hexadecimal digits.
macro_rules! hex_bytes {
    ($name:ident, $bytes:literal, $what:literal) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::trust::NameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let lower = text
                    .bytes()
                    .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                let mut bytes = [0; $bytes];
                if !lower || hex::decode_to_slice(text, &mut bytes).is_err() {
                    return Err(crate::trust::NameError {
                        what: $what,
                        digits: 2 * $bytes,
                    });
                }
                Ok(Self(bytes))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(super) use hex_bytes;
