//! The sections of the configuration: plain values with their defaults and the
//! checks that a type can't express. What each key means is in `example.toml`.

mod appservices;
mod federation;
mod listener;
mod rate_limits;
mod sidecar;
mod storage;
mod telemetry;

use std::path::PathBuf;

use causeway_service::rooms::VERSIONS;
use ruma::RoomVersionId;
use serde::{Deserialize, Serialize};
use url::Url;

pub use appservices::Appservices;
pub use federation::Federation;
pub use listener::Listener;
pub use rate_limits::{Bucket, RateLimits};
pub use sidecar::{Sidecar, is_base};
pub use storage::Storage;
pub use telemetry::{LogFormat, Telemetry};

use super::ConfigError;

/// `[registration]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registration {
    /// Who may make an account.
    pub mode: RegistrationMode,
    /// Tokens for [`RegistrationMode::Token`].
    pub tokens: Vec<String>,
    /// They stand here, a line each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_file: Option<PathBuf>,
    /// Whether anybody may have a guest's account.
    pub guests: bool,
    /// Key of the administrators' registration endpoint; empty = off.
    pub shared_secret: String,
    /// It stands here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_secret_file: Option<PathBuf>,
    /// How long an access token is valid that can be refreshed.
    pub access_token_lifetime_ms: u64,
}

impl Default for Registration {
    fn default() -> Self {
        Self {
            mode: RegistrationMode::Closed,
            tokens: Vec::new(),
            tokens_file: None,
            guests: false,
            shared_secret: String::new(),
            shared_secret_file: None,
            access_token_lifetime_ms: 3_600_000,
        }
    }
}

/// Who may make an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistrationMode {
    /// Nobody.
    #[default]
    Closed,
    /// Those who know a token.
    Token,
    /// Anybody.
    Open,
}

/// `[passwords]`: the cost of argon2id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Passwords {
    /// Characters at least.
    pub min_length: usize,
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes.
    pub iterations: u32,
    /// Lanes.
    pub parallelism: u32,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { min_length: 8, memory_kib: 19_456, iterations: 2, parallelism: 1 }
    }
}

impl Passwords {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.iterations == 0 || self.parallelism == 0 || self.parallelism > 64 {
            return Err(ConfigError::invalid("passwords", "iterations from 1, parallelism from 1 to 64"));
        }
        // RFC 9106, section 3.1: at least 8 KiB for each lane.
        if self.memory_kib < 8 * self.parallelism || self.memory_kib > 4 << 20 {
            return Err(ConfigError::invalid("passwords.memory_kib", "from 8 for each lane to 4194304"));
        }
        Ok(())
    }
}

/// `[rooms]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rooms {
    /// Version of rooms whose creator names none.
    pub default_version: RoomVersionId,
}

impl Default for Rooms {
    fn default() -> Self {
        Self { default_version: RoomVersionId::V12 }
    }
}

impl Rooms {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if VERSIONS.contains(&self.default_version) {
            return Ok(());
        }
        Err(ConfigError::invalid("rooms.default_version", "a version from \"6\" to \"12\""))
    }
}

/// `[presence]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Presence {
    /// Whether it is kept and told who is online.
    pub enabled: bool,
}

impl Default for Presence {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// `[media]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Media {
    /// Largest file, in bytes.
    pub upload_max_bytes: u64,
    /// Whether the old paths that ask for no token serve files.
    pub allow_legacy_download: bool,
    /// Whether the files of shared items are fetched in the background.
    pub prefetch: bool,
    /// Days for which copies of other servers' files are kept; 0: always.
    pub keep_remote_days: u32,
}

impl Default for Media {
    fn default() -> Self {
        Self {
            upload_max_bytes: 100 << 20,
            allow_legacy_download: false,
            prefetch: true,
            keep_remote_days: 0,
        }
    }
}

/// `[shared_space]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SharedSpace {
    /// First interval of the timer that heals a quiet room.
    pub advertise_min_ms: u64,
    /// Longest interval of it.
    pub advertise_max_ms: u64,
    /// Wait for each server that should announce a conflict before the next does.
    pub announce_step_ms: u64,
    /// Bytes that each other server may put into a room's space.
    pub server_quota_bytes: u64,
}

impl Default for SharedSpace {
    fn default() -> Self {
        Self {
            advertise_min_ms: 60_000,
            advertise_max_ms: 3_600_000,
            announce_step_ms: 30_000,
            server_quota_bytes: 1 << 30,
        }
    }
}

/// `[well_known]`: empty means not served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WellKnown {
    /// Base URL for clients.
    pub client: String,
    /// `host:port` for other servers.
    pub server: String,
}

impl WellKnown {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !self.client.is_empty() && Url::parse(&self.client).is_err() {
            return Err(ConfigError::invalid("well_known.client", "not a URL"));
        }
        if !self.server.is_empty() && ruma::ServerName::parse(&self.server).is_err() {
            return Err(ConfigError::invalid("well_known.server", "not a server name"));
        }
        Ok(())
    }
}

/// `[oauth]`: OAuth 2.0 for clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OAuth {
    /// Whether it is offered.
    pub enabled: bool,
    /// Where browsers reach this server; empty: where clients do.
    pub base_url: String,
}

impl OAuth {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.base_url.is_empty() || Url::parse(&self.base_url).is_ok_and(|url| is_base(&url)) {
            return Ok(());
        }
        Err(ConfigError::invalid("oauth.base_url", "an address like https://matrix.example.org"))
    }
}

/// `[turn]`: no URIs, no calls through it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Turn {
    /// `turn:` and `turns:` URIs.
    pub uris: Vec<String>,
    /// Shared with the TURN servers.
    pub secret: String,
    /// It stands here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// How long credentials are valid.
    pub lifetime_s: u64,
}

impl Default for Turn {
    fn default() -> Self {
        Self { uris: Vec::new(), secret: String::new(), secret_file: None, lifetime_s: 86_400 }
    }
}
