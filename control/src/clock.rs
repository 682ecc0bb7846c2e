//! The time, as it goes into commands: the state machine has no clock of its own.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since the Unix epoch, until the year 2554.
pub fn now_ns() -> u64 {
    #[cfg(feature = "simulation")]
    if let Some(now) = crate::simulation::hooks::now_ns() {
        return now;
    }
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
