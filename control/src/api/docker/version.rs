//! Versions of the Docker Engine API, as they stand at the front of a path.

use std::fmt;

use super::errors::ApiError;

/// A version of the Docker Engine API, such as 1.41.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    major: u16,
    minor: u16,
}

/// The oldest that is spoken: what today's Go client goes down to.
pub const MINIMUM: ApiVersion = ApiVersion::new(1, 40);
/// The newest: the one that the types in bollard-stubs were generated from.
pub const MAXIMUM: ApiVersion = described_by_stubs(bollard_stubs::BASE_PATH.as_bytes());

impl ApiVersion {
    /// `major.minor`.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// Of a path (`/v1.41/info`), and the path behind it (`/info`); None where the path has no version.
    pub fn of_path(path: &str) -> (Option<Self>, &str) {
        let behind = path.strip_prefix('/').unwrap_or_default();
        let end = behind.find('/').unwrap_or(behind.len());
        match Self::of_segment(&behind[..end]) {
            Some(version) => (Some(version), &behind[end..]),
            None => (None, path),
        }
    }

    /// Of a path's first segment (`v1.41`).
    fn of_segment(segment: &str) -> Option<Self> {
        let (major, minor) = segment.strip_prefix('v')?.split_once('.')?;
        let number = |digits: &str| {
            if digits.bytes().all(|b| b.is_ascii_digit()) {
                digits.parse().ok()
            } else {
                None
            }
        };
        Some(Self::new(number(major)?, number(minor)?))
    }

    /// Refuses what is not spoken, with docker's words: clients show them, and some parse them.
    pub fn check(self) -> Result<Self, ApiError> {
        if self < MINIMUM {
            Err(ApiError::bad_request(format!(
                "client version {self} is too old. Minimum supported API version is {MINIMUM}, please upgrade your client to a newer version"
            )))
        } else if self > MAXIMUM {
            Err(ApiError::bad_request(format!(
                "client version {self} is too new. Maximum supported API version is {MAXIMUM}"
            )))
        } else {
            Ok(self)
        }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The version in `/v1.53`, at compile time.
const fn described_by_stubs(path: &[u8]) -> ApiVersion {
    let (mut major, mut minor, mut dots, mut at) = (0, 0, 0, 2);
    while at < path.len() {
        let digit = path[at];
        if digit == b'.' {
            dots += 1;
        } else if dots == 0 {
            major = major * 10 + (digit - b'0') as u16;
        } else {
            minor = minor * 10 + (digit - b'0') as u16;
        }
        at += 1;
    }
    ApiVersion::new(major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_that_of_the_stubs() {
        assert_eq!(format!("/v{MAXIMUM}"), bollard_stubs::BASE_PATH);
        // What docker CLI 28 speaks by itself.
        assert!(MAXIMUM >= ApiVersion::new(1, 50));
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(ApiVersion::new(1, 9) < ApiVersion::new(1, 10));
    }

    #[test]
    fn out_of_range_is_told_with_the_range() {
        let old = ApiVersion::of_segment("v1.12")
            .unwrap()
            .check()
            .unwrap_err();
        assert!(
            old.message()
                .contains("is too old. Minimum supported API version is 1.40")
        );
        let new = ApiVersion::of_segment("v1.99")
            .unwrap()
            .check()
            .unwrap_err();
        assert!(
            new.message()
                .contains("client version 1.99 is too new. Maximum supported API version is")
        );
        assert!(ApiVersion::of_segment("v1.41").unwrap().check().is_ok());
    }

    #[test]
    fn a_path_is_split_behind_its_version() {
        let version = Some(ApiVersion::new(1, 41));
        assert_eq!(
            ApiVersion::of_path("/v1.41/containers/json"),
            (version, "/containers/json")
        );
        assert_eq!(ApiVersion::of_path("/v1.41"), (version, ""));
        for path in ["/version", "/vx.1/info", "", "/", "*"] {
            assert_eq!(ApiVersion::of_path(path), (None, path));
        }
    }

    #[test]
    fn other_segments_are_no_versions() {
        for segment in [
            "",
            "v",
            "v1",
            "v1.",
            "v.1",
            "v1.x",
            "v1.+4",
            "v-1.4",
            "1.41",
            "version",
            "v1.41.2",
            "v1.99999999",
        ] {
            assert_eq!(ApiVersion::of_segment(segment), None, "{segment}");
        }
    }
}
