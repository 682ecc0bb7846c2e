//! What a monitor says on stderr while it runs: that the guest breaks a rule. The guest decides how often it does, so each source of
//! warnings says one line a minute at most, and counts the others.

use std::fmt::Display;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines of one source.
const INTERVAL: Duration = Duration::from_secs(60);

/// A source of warnings: a static of the device's.
#[derive(Debug)]
pub struct Warnings {
    source: &'static str,
    /// When the last line was said, and how many were not since. Held for moments only.
    said: Mutex<(Option<Instant>, u64)>,
}

impl Warnings {
    /// Of `source`, which each line begins with.
    pub const fn new(source: &'static str) -> Self {
        Self {
            source,
            said: Mutex::new((None, 0)),
        }
    }

    /// The guest has done something that a correct one does not.
    pub fn warn(&self, what: &dyn Display) {
        if let Some(line) = self.line(Instant::now(), what) {
            // Nobody else could be told that stderr is closed.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn line(&self, now: Instant, what: &dyn Display) -> Option<String> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, suppressed) = *said;
        if last.is_some_and(|last| now < last + INTERVAL) {
            said.1 = suppressed.saturating_add(1);
            return None;
        }
        *said = (Some(now), 0);
        let (source, pid) = (self.source, std::process::id());
        Some(format!(
            "vmm {pid}: {source}: {what} suppressed={suppressed}\n"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_can_not_fill_the_log() {
        let warnings = Warnings::new("device");
        let start = Instant::now();
        let at = |ms: u64| warnings.line(start + Duration::from_millis(ms), &"a long chain");
        let first = at(0).unwrap();
        assert!(
            first.ends_with("device: a long chain suppressed=0\n"),
            "{first}"
        );
        assert!((1..1000).all(|ms| at(ms).is_none()));
        assert!(at(60_000).unwrap().contains("suppressed=999"));
        assert!(at(60_001).is_none());
        assert!(at(120_000).unwrap().contains("suppressed=1"));
    }
}
