//! Who goes before whom, and who may be evicted for whom.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A pod's priority: the higher, the earlier it is placed.
///
/// Numbers and bands are those of Borg's published trace of 2019: free below 100, batch up to 119, production from 120, monitoring
/// from 360.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Priority(u16);

/// A range of priorities that are treated alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Band {
    /// Takes what is left over.
    BestEffort,
    /// Gets done, whenever.
    Batch,
    /// Serves somebody who waits.
    Production,
    /// Watches over production, and must run for it to be mended.
    Monitoring,
}

/// A priority that isn't one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no priority: best-effort, batch, production, monitoring or a number from 0 to {MAX} is expected"
)]
pub struct InvalidPriority(String);

/// The highest number that the trace has.
const MAX: u16 = 450;

impl Band {
    /// All of them, the lowest first.
    pub const ALL: [Self; 4] = [
        Self::BestEffort,
        Self::Batch,
        Self::Production,
        Self::Monitoring,
    ];

    /// The lowest priority in it, which its name stands for.
    pub const fn floor(self) -> Priority {
        Priority(match self {
            Self::BestEffort => 0,
            Self::Batch => 100,
            Self::Production => 120,
            Self::Monitoring => 360,
        })
    }

    /// As labels have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BestEffort => "best-effort",
            Self::Batch => "batch",
            Self::Production => "production",
            Self::Monitoring => "monitoring",
        }
    }
}

impl Priority {
    /// The band that it lies in.
    pub fn band(self) -> Band {
        Band::ALL
            .into_iter()
            .rfind(|band| band.floor() <= self)
            .unwrap_or(Band::BestEffort)
    }

    /// Every pod of a lower priority than this one may be evicted for it: its own, but all of production's for a pod in production.
    /// There, an eviction would only hand the outage on to the next (Verma et al., Large-scale cluster management at Google with Borg,
    /// EuroSys 2015, section 2.5).
    pub fn evicts_below(self) -> Self {
        match self.band() {
            Band::Production => Band::Production.floor(),
            _ => self,
        }
    }
}

/// Production: somebody who says `docker run` wants it to go on. What may be evicted has to say so.
impl Default for Priority {
    fn default() -> Self {
        Band::Production.floor()
    }
}

impl TryFrom<u16> for Priority {
    type Error = InvalidPriority;
    fn try_from(number: u16) -> Result<Self, InvalidPriority> {
        if number > MAX {
            return Err(InvalidPriority(number.to_string()));
        }
        Ok(Self(number))
    }
}

impl From<Priority> for u16 {
    fn from(priority: Priority) -> Self {
        priority.0
    }
}

impl FromStr for Priority {
    type Err = InvalidPriority;
    fn from_str(text: &str) -> Result<Self, InvalidPriority> {
        if let Some(band) = Band::ALL.into_iter().find(|band| band.name() == text) {
            return Ok(band.floor());
        }
        text.parse::<u16>()
            .ok()
            .and_then(|number| Self::try_from(number).ok())
            .ok_or_else(|| InvalidPriority(text.to_owned()))
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let band = self.band();
        match self.0 - band.floor().0 {
            0 => f.write_str(band.name()),
            _ => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_priority_are_the_same() {
        for number in 0..=MAX {
            let priority = Priority(number);
            assert_eq!(priority.to_string().parse(), Ok(priority));
        }
        for wrong in ["", "451", "-1", "prod", "Batch", "1e2"] {
            assert!(wrong.parse::<Priority>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn production_evicts_no_production() {
        let priority = |text: &str| text.parse::<Priority>().unwrap();
        let may = |one: &str, other: &str| priority(other) < priority(one).evicts_below();
        assert!(may("production", "batch"));
        assert!(may("monitoring", "production"));
        assert!(may("119", "batch"));
        assert!(!may("359", "production"));
        assert!(!may("batch", "batch"));
        assert!(!may("batch", "production"));
    }
}
