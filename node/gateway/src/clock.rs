//! The one place that reads clocks.

use jincai_types::Millis;
use std::time::{Instant, SystemTime};

/// Milliseconds since 1970-01-01T00:00:00Z by the wall clock.
#[expect(clippy::disallowed_methods, reason = "the shell reads the clock and passes time in")]
pub(crate) fn now() -> Millis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A stopwatch.
#[expect(clippy::disallowed_methods, reason = "the shell reads the clock and passes time in")]
pub(crate) fn instant() -> Instant {
    Instant::now()
}
