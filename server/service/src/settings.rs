//! What an operator can choose about the use-cases of this crate.
//!
//! Plain values with defaults; reading them from a file is the composition
//! root's work.

use std::num::NonZeroU32;

use ruma::{OwnedServerName, RoomVersionId};
use url::Url;

/// Guests whose accounts are open, at most: anybody becomes one without proof.
pub const GUESTS_MAX: usize = 10_000;

/// All settings of the services.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name in user ids and room aliases; with the port, if it has one.
    pub server_name: OwnedServerName,
    /// Who may register.
    pub registration: Registration,
    /// Whether anybody may have a guest's account.
    pub guests: bool,
    /// Guests whose accounts are open, at most.
    pub guests_max: usize,
    /// The shared secret of `/_synapse/admin/v1/register`; without it the endpoint is closed.
    pub registration_shared_secret: Option<String>,
    /// The cost of hashing a password.
    pub passwords: PasswordSettings,
    /// Characters that a password has at least.
    pub password_chars_min: usize,
    /// How long an access token is valid, in milliseconds, for clients that
    /// asked for a refresh token.
    pub access_token_lifetime_ms: u64,
    /// Uploads and thumbnails.
    pub media: MediaSettings,
    /// OAuth 2.0 for clients; `None` when it is not offered.
    pub oauth: Option<OAuthSettings>,
    /// How many requests are let through.
    pub rate_limits: RateLimitSettings,
    /// What `/.well-known/matrix/client` and `/.well-known/matrix/server` answer.
    pub well_known: WellKnownSettings,
    /// What `/voip/turnServer` answers.
    pub turn: TurnSettings,
    /// The version of rooms whose creator asks for none.
    pub default_room_version: RoomVersionId,
    /// Whether it is kept and told who is online.
    pub presence: bool,
    /// How long each server that should tell a conflict, or adopt an event, is
    /// waited for before the next one does, in milliseconds.
    pub rank_wait_ms: u64,
    /// Bytes of changes that each other server may put into a room.
    pub space_quota_bytes: u64,
}

impl Settings {
    /// Closed registration and safe costs.
    pub fn new(server_name: OwnedServerName) -> Self {
        Self {
            server_name,
            registration: Registration::Closed,
            guests: false,
            guests_max: GUESTS_MAX,
            registration_shared_secret: None,
            passwords: PasswordSettings::default(),
            password_chars_min: 8,
            access_token_lifetime_ms: 60 * 60 * 1000,
            media: MediaSettings::default(),
            oauth: None,
            rate_limits: RateLimitSettings::default(),
            well_known: WellKnownSettings::default(),
            turn: TurnSettings::default(),
            default_room_version: RoomVersionId::V12,
            presence: true,
            rank_wait_ms: 30_000,
            space_quota_bytes: 1 << 30,
        }
    }

    /// For tests: open registration, the cheapest passwords, no rate limits.
    pub fn for_tests(server_name: OwnedServerName) -> Self {
        Self {
            registration: Registration::Open,
            passwords: PasswordSettings::cheapest(),
            password_chars_min: 1,
            rate_limits: RateLimitSettings { enabled: false, ..RateLimitSettings::default() },
            ..Self::new(server_name)
        }
    }
}

/// Who may register an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Nobody, except through the shared secret.
    Closed,
    /// Who knows one of these tokens.
    Token(Vec<String>),
    /// Anybody.
    Open,
}

/// Parameters of argon2id.
#[derive(Clone, Copy, Debug)]
pub struct PasswordSettings {
    /// Memory in KiB, at least 8.
    pub memory_kib: u32,
    /// Passes, at least 1.
    pub iterations: u32,
    /// Lanes, at least 1.
    pub parallelism: u32,
}

impl Default for PasswordSettings {
    /// OWASP's recommendation: 19 MiB and 2 passes, about 16 ms.
    fn default() -> Self {
        Self { memory_kib: 19 * 1024, iterations: 2, parallelism: 1 }
    }
}

impl PasswordSettings {
    /// For tests that register thousands of users; worthless against a thief.
    pub const fn cheapest() -> Self {
        Self { memory_kib: 8, iterations: 1, parallelism: 1 }
    }
}

/// Uploads and files of other servers.
#[derive(Clone, Debug)]
pub struct MediaSettings {
    /// The largest upload, in bytes; also the largest file taken from another server.
    pub upload_bytes_max: u64,
    /// Whether the old unauthenticated download paths serve media, too.
    pub allow_legacy_download: bool,
    /// Whether the files that shared spaces' items refer to are fetched in the background.
    pub prefetch: bool,
    /// Days for which copies of other servers' files are kept; `None` for always.
    pub keep_remote_days: Option<NonZeroU32>,
}

impl Default for MediaSettings {
    fn default() -> Self {
        Self {
            upload_bytes_max: 100 << 20,
            allow_legacy_download: false,
            prefetch: true,
            keep_remote_days: None,
        }
    }
}

/// OAuth 2.0 for clients.
#[derive(Clone, Debug)]
pub struct OAuthSettings {
    /// Where browsers and clients reach this server: `https://matrix.example.org/`, with
    /// its path only `/`. The pages and endpoints lie under it.
    pub base: Url,
}

/// A bucket that refills steadily.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    /// Requests per second in the long run.
    pub per_second: f64,
    /// Requests at once.
    pub burst: u32,
}

/// How many requests are let through.
#[derive(Clone, Debug)]
pub struct RateLimitSettings {
    /// Whether anything is limited.
    pub enabled: bool,
    /// Whether a reverse proxy sets `X-Forwarded-For`: then its last entry is
    /// the client's address. Never set this when clients connect directly.
    pub trust_forwarded_for: bool,
    /// Attempts to log in or confirm a password, by account and by address.
    pub login: RateLimit,
    /// Registrations by address.
    pub registration: RateLimit,
    /// Requests without a token to endpoints that Matrix calls rate limited, by address.
    pub anonymous: RateLimit,
    /// Requests to endpoints that Matrix calls rate limited, by user.
    pub request: RateLimit,
    /// Events sent, by user.
    pub message: RateLimit,
    /// Signed requests of other servers, by server.
    pub federation: RateLimit,
}

impl Default for RateLimitSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            trust_forwarded_for: false,
            login: RateLimit { per_second: 0.2, burst: 10 },
            registration: RateLimit { per_second: 0.2, burst: 10 },
            anonymous: RateLimit { per_second: 5.0, burst: 50 },
            request: RateLimit { per_second: 20.0, burst: 200 },
            message: RateLimit { per_second: 20.0, burst: 200 },
            federation: RateLimit { per_second: 200.0, burst: 2_000 },
        }
    }
}

/// What the well-known documents say; each is 404 without its setting.
#[derive(Clone, Debug, Default)]
pub struct WellKnownSettings {
    /// The base address that clients are sent to.
    pub client: Option<Url>,
    /// `host:port` that other servers are sent to.
    pub server: Option<String>,
}

/// TURN servers for calls.
#[derive(Clone, Debug, Default)]
pub struct TurnSettings {
    /// `turn:` and `turns:` addresses; empty for none.
    pub uris: Vec<String>,
    /// The secret shared with the TURN server (its REST API scheme).
    pub secret: Option<String>,
    /// How long credentials are valid, in seconds.
    pub lifetime_s: u64,
}
