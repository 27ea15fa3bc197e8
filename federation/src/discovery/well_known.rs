//! `/.well-known/matrix/server`: to which server another one delegates.
//!
//! Every failure but "can't be reached" counts as "there is none", as the
//! specification wants it: the next step of discovery follows.

use std::{collections::HashMap, time::Duration};

use reqwest::header::CACHE_CONTROL;
use ruma::OwnedServerName;
use serde::Deserialize;

/// Longest file that is read, in bytes.
pub const WELL_KNOWN_BYTES_MAX: usize = 50 * 1024;
/// How long an answer holds that says nothing about it.
const DEFAULT_LIFETIME: Duration = Duration::from_hours(24);
/// Bounds of what an answer may say.
const LIFETIME_MIN: Duration = Duration::from_mins(5);
const LIFETIME_MAX: Duration = Duration::from_hours(48);

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WellKnown {
    /// The server is to be found under another name.
    Delegates {
        /// That name.
        to: OwnedServerName,
        /// How long this may be remembered.
        lifetime: Duration,
    },
    /// There is no such file, or it can't be used.
    Absent,
    /// Nobody answered.
    Unreachable,
}

/// Where the file is read.
#[derive(Debug)]
pub struct WellKnownSource {
    fixed: HashMap<String, String>,
    http: Option<reqwest::Client>,
}

#[derive(Deserialize)]
struct Content {
    #[serde(rename = "m.server")]
    server: String,
}

impl WellKnownSource {
    /// Fixed answers only: host to `m.server`.
    pub fn fixed(fixed: HashMap<String, String>) -> Self {
        Self { fixed, http: None }
    }

    /// Fixed answers first, then the host itself, asked with `http`, whose
    /// redirect policy must check every hop.
    pub fn new(fixed: HashMap<String, String>, http: reqwest::Client) -> Self {
        Self { fixed, http: Some(http) }
    }

    /// What `host` delegates to.
    pub async fn ask(&self, host: &str) -> WellKnown {
        if let Some(to) = self.fixed.get(host) {
            return delegation(to, None);
        }
        let Some(http) = &self.http else { return WellKnown::Absent };
        let url = format!("https://{host}/.well-known/matrix/server");
        // Addresses never come here; what only a URL takes for one (127.1) is a trick.
        if !url::Url::parse(&url).is_ok_and(|url| matches!(url.host(), Some(url::Host::Domain(_)))) {
            return WellKnown::Absent;
        }
        let response = match http.get(url).send().await {
            Ok(response) => response,
            Err(error) if error.is_redirect() || error.is_builder() => return WellKnown::Absent,
            Err(_) => return WellKnown::Unreachable,
        };
        if response.status() != reqwest::StatusCode::OK {
            return WellKnown::Absent;
        }
        let header = response.headers().get(CACHE_CONTROL).and_then(|value| value.to_str().ok());
        let cache_control = header.map(ToOwned::to_owned);
        let Ok(body) = crate::body::read_bounded(response, WELL_KNOWN_BYTES_MAX).await else {
            return WellKnown::Absent;
        };
        match serde_json::from_slice::<Content>(&body) {
            Ok(content) => delegation(&content.server, cache_control.as_deref()),
            Err(_) => WellKnown::Absent,
        }
    }
}

fn delegation(to: &str, cache_control: Option<&str>) -> WellKnown {
    match OwnedServerName::try_from(to) {
        Ok(to) => WellKnown::Delegates { to, lifetime: lifetime(cache_control) },
        Err(_) => WellKnown::Absent,
    }
}

/// `max-age` within bounds.
fn lifetime(cache_control: Option<&str>) -> Duration {
    max_age(cache_control).unwrap_or(DEFAULT_LIFETIME).clamp(LIFETIME_MIN, LIFETIME_MAX)
}

/// How long a `Cache-Control` lets an answer be kept, if it says so.
pub(crate) fn max_age(cache_control: Option<&str>) -> Option<Duration> {
    let directives =
        cache_control.unwrap_or_default().split(',').map(|each| each.trim().to_ascii_lowercase());
    let mut age = None;
    for directive in directives {
        if directive == "no-store" || directive == "no-cache" {
            return Some(Duration::ZERO);
        }
        if let Some(seconds) = directive.strip_prefix("max-age=").and_then(|age| age.parse().ok()) {
            age = Some(Duration::from_secs(seconds));
        }
    }
    age
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_keep_within_bounds() {
        assert_eq!(lifetime(None), DEFAULT_LIFETIME);
        assert_eq!(lifetime(Some("public, Max-Age=7200")), Duration::from_hours(2));
        assert_eq!(lifetime(Some("max-age=1")), LIFETIME_MIN);
        assert_eq!(lifetime(Some("max-age=99999999999")), LIFETIME_MAX);
        assert_eq!(lifetime(Some("max-age=7200, no-store")), LIFETIME_MIN);
        assert_eq!(lifetime(Some("max-age=x")), DEFAULT_LIFETIME);
    }
}
