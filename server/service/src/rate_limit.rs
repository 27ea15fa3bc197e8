//! Token buckets: how many requests of a class a user or an address may make.
//!
//! In memory only: a restart fills every bucket. Bounded: full buckets are
//! forgotten when there are many.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use crate::{
    clock::Clock,
    error::MatrixError,
    settings::{RateLimit, RateLimitSettings},
};

/// Buckets remembered at once.
const BUCKETS_MAX: usize = 100_000;

/// Reports of one user: people write them, and administrators read each.
const REPORTS: RateLimit = RateLimit { per_second: 0.05, burst: 20 };

/// Codes that are typed, by everybody together: who has many addresses guesses no
/// faster. Far more than people type, far fewer than finding one takes.
const USER_CODES: RateLimit = RateLimit { per_second: 5.0, burst: 100 };

/// Of an IPv6 address, what its network gives to one customer.
const CUSTOMER_BITS: u32 = 64;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// An attempt to log in or confirm a password.
    Login,
    /// A registration.
    Registration,
    /// A request without a token.
    Anonymous,
    /// A request with a token.
    Request,
    /// An event sent.
    Message,
    /// A report to the administrators.
    Report,
    /// A code typed to log another device in.
    UserCode,
    /// A signed request of another server.
    Federation,
}

/// Counts requests.
pub struct RateLimits {
    settings: RwLock<RateLimitSettings>,
    clock: Clock,
    buckets: Mutex<HashMap<(Class, Arc<str>), Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at_ms: u64,
}

impl RateLimits {
    /// Buckets that are all full.
    pub fn new(settings: RateLimitSettings, clock: Clock) -> Self {
        Self { settings: RwLock::new(settings), clock, buckets: Mutex::default() }
    }

    /// Other limits from now on; buckets keep what they have.
    pub fn set(&self, settings: RateLimitSettings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Takes a token of `who`'s bucket.
    ///
    /// # Errors
    /// 429 `M_LIMIT_EXCEEDED` with `retry_after_ms`.
    pub fn admit(&self, class: Class, who: &str) -> Result<(), MatrixError> {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        if !settings.enabled {
            return Ok(());
        }
        let limit = limit_of(&settings, class);
        let now_ms = self.clock.now_ms();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS_MAX {
            buckets.retain(|(class, _), bucket| {
                let limit = limit_of(&settings, *class);
                refilled(*bucket, limit, now_ms).tokens < f64::from(limit.burst)
            });
        }
        let full = Bucket { tokens: f64::from(limit.burst), at_ms: now_ms };
        let bucket = buckets.entry((class, who.into())).or_insert(full);
        *bucket = refilled(*bucket, limit, now_ms);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        let wait_ms = ((1.0 - bucket.tokens) / limit.per_second.max(1e-6) * 1000.0).ceil();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and saturates"
        )]
        let wait_ms = wait_ms as u64;
        Err(MatrixError::new(429, "M_LIMIT_EXCEEDED", "Too many requests").with("retry_after_ms", wait_ms))
    }

    /// The same for an address; all unknown addresses share one bucket, and so do
    /// those of one IPv6 network, of which anybody has more than can be counted.
    pub fn admit_address(&self, class: Class, address: Option<IpAddr>) -> Result<(), MatrixError> {
        self.admit(class, &address.map_or_else(|| "unknown".to_owned(), counted_as))
    }
}

fn limit_of(settings: &RateLimitSettings, class: Class) -> RateLimit {
    match class {
        Class::Login => settings.login,
        Class::Registration => settings.registration,
        Class::Anonymous => settings.anonymous,
        Class::Request => settings.request,
        Class::Message => settings.message,
        Class::Report => REPORTS,
        Class::UserCode => USER_CODES,
        Class::Federation => settings.federation,
    }
}

/// Who an address is counted as. An IPv4 address is the same however it is written.
fn counted_as(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let network = address.to_bits() >> CUSTOMER_BITS << CUSTOMER_BITS;
            format!("{}/{CUSTOMER_BITS}", Ipv6Addr::from_bits(network))
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "fractions of a token don't matter")]
fn refilled(bucket: Bucket, limit: RateLimit, now_ms: u64) -> Bucket {
    let gained = now_ms.saturating_sub(bucket.at_ms) as f64 / 1000.0 * limit.per_second;
    Bucket { tokens: (bucket.tokens + gained).min(f64::from(limit.burst)), at_ms: now_ms }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_empties_says_how_long_to_wait_and_refills() {
        let clock = Clock::manual(0);
        let login = RateLimit { per_second: 0.5, burst: 2 };
        let limits =
            RateLimits::new(RateLimitSettings { login, ..RateLimitSettings::default() }, clock.clone());
        assert!(limits.admit(Class::Login, "@a:x").is_ok());
        assert!(limits.admit(Class::Login, "@a:x").is_ok());
        let refused = limits.admit(Class::Login, "@a:x").expect_err("empty");
        assert_eq!((refused.status, refused.errcode), (429, "M_LIMIT_EXCEEDED"));
        assert_eq!(refused.extra["retry_after_ms"], 2000);
        assert!(limits.admit(Class::Login, "@b:x").is_ok(), "others have their own");
        clock.advance(Duration::from_secs(2));
        assert!(limits.admit(Class::Login, "@a:x").is_ok());
        assert!(limits.admit(Class::Login, "@a:x").is_err());
    }

    #[test]
    fn an_ipv6_network_is_one_and_an_ipv4_address_is_its_mapped_one() {
        let login = RateLimit { per_second: 0.5, burst: 1 };
        let settings = RateLimitSettings { login, ..RateLimitSettings::default() };
        let limits = RateLimits::new(settings, Clock::manual(0));
        let admit =
            |text: &str| limits.admit_address(Class::Login, Some(text.parse().expect("an address"))).is_ok();
        assert!(admit("2001:db8::1"));
        assert!(!admit("2001:db8::2") && !admit("2001:db8::ffff:0:0:1"), "of the same network");
        assert!(admit("2001:db8:0:1::1"), "the next network");
        assert!(admit("192.0.2.1") && admit("192.0.2.2"));
        assert!(!admit("::ffff:192.0.2.1"));
    }

    #[test]
    fn switched_off_it_counts_nothing() {
        let settings = RateLimitSettings { enabled: false, ..RateLimitSettings::default() };
        let limits = RateLimits::new(settings, Clock::manual(0));
        assert!((0..1000).all(|_| limits.admit(Class::Login, "@a:x").is_ok()));
    }
}
