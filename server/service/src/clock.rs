//! The only place that asks the machine what time it is.
//!
//! Every use-case takes its time from a [`Clock`] that it was handed, so that a
//! test decides how time passes. Wall-clock time is for display, for expiry and
//! for `origin_server_ts`; it never decides which of two changes wins.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ruma::MilliSecondsSinceUnixEpoch;

/// A source of time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's own clocks.
    System,
    /// Milliseconds since the Unix epoch that a test sets and advances.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// A clock standing at `now_ms` milliseconds since the epoch.
    pub fn manual(now_ms: u64) -> Self {
        Self::Manual(Arc::new(AtomicU64::new(now_ms)))
    }

    /// Milliseconds since the Unix epoch.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn now_ms(&self) -> u64 {
        match self {
            Self::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            Self::Manual(now) => now.load(Ordering::SeqCst),
        }
    }

    /// The same as Matrix writes it (at most 2^53 − 1).
    pub fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(ruma::UInt::new_saturating(self.now_ms()))
    }

    /// A monotonic instant, for measuring how long something took.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn instant(&self) -> Instant {
        Instant::now()
    }

    /// Moves a manual clock forward; a system clock can't be moved.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(now) = self {
            now.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(1_000);
        assert_eq!(clock.now_ms(), 1_000);
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.now_ms(), 3_000);
    }
}
