//! From the configuration's sections to the settings of the services and of
//! federation.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use causeway_appservice::host;
use causeway_federation::{Settings as FederationSettings, backoff::BackoffPolicy, settings::Overrides};
use causeway_service::settings::{
    MediaSettings, OAuthSettings, PasswordSettings, RateLimit, RateLimitSettings,
    Registration as Registering, Settings, TurnSettings, WellKnownSettings,
};
use rustls::RootCertStore;
use url::Url;

use crate::{
    config::{Bucket, Config, RateLimits, Registration, RegistrationMode, Storage},
    tls::{self, TlsError},
};

/// What the use-cases are told of the configuration.
pub fn of_services(config: &Config) -> Settings {
    let filled = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let mut settings = Settings::new(config.server_name.clone());
    settings.registration = registering(&config.registration);
    settings.guests = config.registration.guests;
    settings.registration_shared_secret = filled(&config.registration.shared_secret);
    settings.access_token_lifetime_ms = config.registration.access_token_lifetime_ms;
    settings.passwords = PasswordSettings {
        memory_kib: config.passwords.memory_kib,
        iterations: config.passwords.iterations,
        parallelism: config.passwords.parallelism,
    };
    settings.password_chars_min = config.passwords.min_length;
    settings.media = MediaSettings {
        upload_bytes_max: config.media.upload_max_bytes,
        allow_legacy_download: config.media.allow_legacy_download,
        prefetch: config.media.prefetch,
        keep_remote_days: NonZeroU32::new(config.media.keep_remote_days),
    };
    settings.rate_limits = rate_limits(&config.rate_limits);
    settings.well_known = WellKnownSettings {
        client: Url::parse(&config.well_known.client).ok(),
        server: filled(&config.well_known.server),
    };
    settings.oauth =
        config.oauth.enabled.then(|| base_url(config)).flatten().map(|base| OAuthSettings { base });
    settings.turn = TurnSettings {
        uris: config.turn.uris.clone(),
        secret: filled(&config.turn.secret),
        lifetime_s: config.turn.lifetime_s,
    };
    settings.presence = config.presence.enabled;
    settings.rank_wait_ms = config.shared_space.announce_step_ms;
    settings.space_quota_bytes = config.shared_space.server_quota_bytes;
    settings.default_room_version = config.rooms.default_version.clone();
    settings
}

/// What the federation door is told; reads the authorities' files.
pub fn of_federation(config: &Config) -> Result<FederationSettings, TlsError> {
    let section = &config.federation;
    let mut roots = RootCertStore::empty();
    // Systems come with a few that are malformed; those are left out.
    roots.add_parsable_certificates(tls::authorities(&section.extra_ca_files)?);
    let servers = section.servers.iter().map(|known| (known.name.clone(), known.address)).collect();
    let mut settings = FederationSettings::new(config.server_name.clone(), Arc::new(roots));
    settings.denied_addresses.clone_from(&section.ip_deny_list);
    settings.overrides = Overrides { servers, ..Overrides::default() };
    settings.request_timeout = Duration::from_millis(section.request_timeout_ms);
    settings.backoff = BackoffPolicy {
        first: Duration::from_millis(section.backoff_min_ms),
        longest: Duration::from_millis(section.backoff_max_ms),
    };
    let ms = Duration::from_millis;
    settings.advertise = (ms(config.shared_space.advertise_min_ms), ms(config.shared_space.advertise_max_ms));
    settings.notaries.clone_from(&section.notaries);
    settings.is_measured = config.is_measured();
    Ok(settings)
}

/// What hosting application services is told; reads the authorities' files.
pub fn of_appservices(config: &Config) -> Result<host::Settings, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(tls::authorities(&config.federation.extra_ca_files)?);
    let files = config.appservices.registrations.clone();
    Ok(host::Settings { files, tls_roots: Arc::new(roots), pauses: host::Pauses::default() })
}

/// Whom requests to the sidecar's homeserver trust.
pub fn of_sidecar(config: &Config) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(tls::authorities(&config.federation.extra_ca_files)?);
    Ok(Arc::new(roots))
}

/// How much the database may take.
pub fn of_storage(config: &Config, open_files_max: i32) -> causeway_storage::Options {
    let Storage { cache_bytes, write_buffer_bytes, .. } = config.storage;
    let default = causeway_storage::Options::default();
    causeway_storage::Options { cache_bytes, write_buffer_bytes, open_files_max, ..default }
}

/// Where browsers and clients reach this server.
fn base_url(config: &Config) -> Option<Url> {
    let named = [&config.oauth.base_url, &config.well_known.client];
    let named = named.into_iter().find(|url| !url.is_empty()).cloned();
    Url::parse(&named.unwrap_or_else(|| format!("https://{}", config.server_name))).ok()
}

fn registering(section: &Registration) -> Registering {
    match section.mode {
        RegistrationMode::Closed => Registering::Closed,
        RegistrationMode::Token => Registering::Token(section.tokens.clone()),
        RegistrationMode::Open => Registering::Open,
    }
}

/// How many requests are let through.
pub fn rate_limits(section: &RateLimits) -> RateLimitSettings {
    let limit = |bucket: Bucket| RateLimit { per_second: bucket.per_second, burst: bucket.burst };
    RateLimitSettings {
        enabled: section.enabled,
        trust_forwarded_for: section.trust_forwarded_for,
        login: limit(section.login),
        registration: limit(section.registration),
        anonymous: limit(section.anonymous),
        request: limit(section.request),
        message: limit(section.message),
        federation: limit(section.federation),
    }
}
