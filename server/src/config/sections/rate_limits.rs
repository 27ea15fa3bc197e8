//! `[rate_limits]`: how many requests are let through.

use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// `[rate_limits]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimits {
    /// Whether any limit holds.
    pub enabled: bool,
    /// Whether a reverse proxy says who the client is.
    pub trust_forwarded_for: bool,
    /// Logging in, by account and by address.
    pub login: Bucket,
    /// Registrations, by address.
    pub registration: Bucket,
    /// Requests without a token, by address.
    pub anonymous: Bucket,
    /// Requests with a token, by user.
    pub request: Bucket,
    /// Events sent, by user.
    pub message: Bucket,
    /// Requests of other servers, by server.
    pub federation: Bucket,
}

/// A bucket that refills steadily.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// Requests per second in the long run.
    pub per_second: f64,
    /// Requests at once.
    pub burst: u32,
}

impl Default for RateLimits {
    fn default() -> Self {
        let bucket = |per_second, burst| Bucket { per_second, burst };
        Self {
            enabled: true,
            trust_forwarded_for: false,
            login: bucket(0.2, 10),
            registration: bucket(0.2, 10),
            anonymous: bucket(5.0, 50),
            request: bucket(20.0, 200),
            message: bucket(20.0, 200),
            federation: bucket(200.0, 2_000),
        }
    }
}

impl RateLimits {
    pub(in crate::config) fn check(&self) -> Result<(), ConfigError> {
        for (key, bucket) in [
            ("rate_limits.login", self.login),
            ("rate_limits.registration", self.registration),
            ("rate_limits.anonymous", self.anonymous),
            ("rate_limits.request", self.request),
            ("rate_limits.message", self.message),
            ("rate_limits.federation", self.federation),
        ] {
            if !bucket.per_second.is_finite() || bucket.per_second <= 0.0 || bucket.burst == 0 {
                return Err(ConfigError::invalid(key, "per_second and burst must be above 0"));
            }
        }
        Ok(())
    }
}
