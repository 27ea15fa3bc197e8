//! How long to leave a server alone that does not answer. Pure: time and
//! randomness are arguments; where the result is kept is the caller's matter.
//!
//! Invariant: a pause is never longer than [`BackoffPolicy::longest`], and two
//! servers that lost the same peer at the same time do not come back in step.

use std::time::Duration;

/// The bounds of the pauses.
#[derive(Clone, Copy, Debug)]
pub struct BackoffPolicy {
    /// Pause after the first failure.
    pub first: Duration,
    /// No pause is longer.
    pub longest: Duration,
}

impl Default for BackoffPolicy {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), longest: Duration::from_hours(1) }
    }
}

/// What is known of a server's failures. The default is a server in good order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    /// Failures in a row.
    pub failures: u32,
    /// No attempt before this time, in milliseconds since the Unix epoch.
    pub retry_at_ms: u64,
}

impl Backoff {
    /// The state after one more failure at `now_ms`; `jitter` is uniform in 0..1
    /// and shortens the pause by up to half of it.
    #[must_use]
    pub fn failed(self, policy: BackoffPolicy, now_ms: u64, jitter: f64) -> Self {
        let failures = self.failures.saturating_add(1);
        let doublings = failures.saturating_sub(1).min(31);
        let full = policy.first.saturating_mul(1 << doublings).min(policy.longest);
        let pause = full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0);
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        Self { failures, retry_at_ms: now_ms.saturating_add(pause_ms) }
    }

    /// How long to wait from `now_ms` on; `None` if an attempt may be made.
    ///
    /// A clock that was set back must not turn a short pause into an endless
    /// one, so the wait is capped at the longest pause.
    pub fn wait(self, policy: BackoffPolicy, now_ms: u64) -> Option<Duration> {
        let left = Duration::from_millis(self.retry_at_ms.saturating_sub(now_ms));
        (self.failures > 0 && !left.is_zero()).then(|| left.min(policy.longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BackoffPolicy =
        BackoffPolicy { first: Duration::from_secs(1), longest: Duration::from_mins(1) };

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::default();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            backoff = backoff.failed(POLICY, 1_000, 0.0);
            pauses.push((backoff.retry_at_ms - 1_000) / 1_000);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        for _ in 0..100 {
            backoff = backoff.failed(POLICY, 1_000, 0.0);
        }
        assert_eq!(backoff.retry_at_ms, 61_000);
    }

    #[test]
    fn jitter_shortens_by_at_most_half() {
        let backoff = Backoff::default().failed(POLICY, 0, 1.0);
        assert_eq!(backoff.retry_at_ms, 500);
        assert_eq!(Backoff::default().failed(POLICY, 0, 7.0).retry_at_ms, 500);
    }

    #[test]
    fn a_clock_set_back_does_not_silence_a_peer_for_ever() {
        let backoff = Backoff::default().failed(POLICY, 1_000_000_000, 0.0);
        assert_eq!(backoff.wait(POLICY, 5), Some(POLICY.longest));
        assert_eq!(backoff.wait(POLICY, 1_000_001_000), None);
        assert_eq!(Backoff::default().wait(POLICY, 0), None);
    }
}
