//! The configuration: one TOML file, overridden by the environment.
//!
//! `example.toml` beside this file is the catalogue of every key with its
//! documentation and default value; it is what `generate-config` prints, and
//! what decides whether a key is known. A test holds it and the structs of the
//! sections together. Nothing here opens a socket or touches the data folder.

mod catalogue;
mod environment;
mod error;
mod generate;
mod secrets;
mod sections;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};

pub use error::ConfigError;
pub use generate::{Template, generate};
pub use sections::{
    Appservices, Bucket, Federation, Listener, LogFormat, Media, OAuth, Passwords, Presence, RateLimits,
    Registration, RegistrationMode, Rooms, SharedSpace, Sidecar, Storage, Telemetry, Turn, WellKnown,
    is_base,
};

/// Everything that the operator decides. The keys are described in `example.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What stands after the colon in the names of this server's users.
    pub server_name: OwnedServerName,
    /// Where everything is stored.
    #[serde(default = "default_data_folder")]
    pub data_folder: PathBuf,
    /// Where to listen; at least one.
    pub listeners: Vec<Listener>,
    /// Who may make an account.
    #[serde(default)]
    pub registration: Registration,
    /// Cost of hashing a password.
    #[serde(default)]
    pub passwords: Passwords,
    /// Defaults for new rooms.
    #[serde(default)]
    pub rooms: Rooms,
    /// Who is online.
    #[serde(default)]
    pub presence: Presence,
    /// Files.
    #[serde(default)]
    pub media: Media,
    /// Other servers.
    #[serde(default)]
    pub federation: Federation,
    /// Application services.
    #[serde(default)]
    pub appservices: Appservices,
    /// Beside another homeserver.
    #[serde(default)]
    pub sidecar: Sidecar,
    /// Replication and conflicts.
    #[serde(default)]
    pub shared_space: SharedSpace,
    /// Memory and disk.
    #[serde(default)]
    pub storage: Storage,
    /// OAuth 2.0 for clients.
    #[serde(default)]
    pub oauth: OAuth,
    /// Limits per client address.
    #[serde(default)]
    pub rate_limits: RateLimits,
    /// Logs, traces and metrics.
    #[serde(default)]
    pub telemetry: Telemetry,
    /// What `/.well-known/matrix/…` answers.
    #[serde(default)]
    pub well_known: WellKnown,
    /// TURN servers for calls.
    #[serde(default)]
    pub turn: Turn,
}

fn default_data_folder() -> PathBuf {
    PathBuf::from("data")
}

impl Config {
    /// Reads `path`, applies the `CAUSEWAY_…` variables of the environment, and
    /// checks every value. Relative paths become relative to the file's folder.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        });
        let mut config = Self::parse(&text, path, variables)?;
        config.resolve_paths(path.parent().unwrap_or(Path::new("")));
        config.read_secrets()?;
        Ok(config)
    }

    /// The same without the file system: `path` is only named in errors.
    pub fn parse(
        text: &str,
        path: &Path,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let not_toml =
            |source: toml::de::Error| ConfigError::NotToml { path: path.to_owned(), what: one_line(&source) };
        let mut table: toml::Table = text.parse().map_err(not_toml)?;
        let catalogue = catalogue::Catalogue::of_example();
        catalogue.check(&table, path)?;
        environment::apply(&mut table, &catalogue, variables)?;
        let config: Self = table.try_into().map_err(not_toml)?;
        config.check()?;
        Ok(config)
    }

    /// Whether some listener serves `/metrics`.
    pub fn is_scraped(&self) -> bool {
        self.listeners.iter().any(|listener| listener.metrics)
    }

    /// Whether anybody reads metrics.
    pub fn is_measured(&self) -> bool {
        self.is_scraped() || !self.telemetry.otlp_endpoint.is_empty()
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.listeners.is_empty() {
            return Err(ConfigError::invalid("listeners", "at least one is needed"));
        }
        for listener in &self.listeners {
            listener.check()?;
        }
        self.passwords.check()?;
        self.rooms.check()?;
        self.federation.check()?;
        self.sidecar.check()?;
        self.storage.check()?;
        self.oauth.check()?;
        self.rate_limits.check()?;
        self.telemetry.check()?;
        self.well_known.check()
    }

    fn resolve_paths(&mut self, folder: &Path) {
        self.data_folder = folder.join(&self.data_folder);
        for listener in &mut self.listeners {
            for path in [&mut listener.certificate, &mut listener.private_key].into_iter().flatten() {
                *path = folder.join(&*path);
            }
        }
        let (registration, turn) = (&mut self.registration, &mut self.turn);
        for path in
            [&mut registration.shared_secret_file, &mut registration.tokens_file, &mut turn.secret_file]
        {
            *path = path.take().map(|path| folder.join(path));
        }
        for path in [&mut self.sidecar.registration, &mut self.sidecar.signing_key] {
            *path = folder.join(&*path);
        }
        let registrations = self.appservices.registrations.iter_mut();
        for path in self.federation.extra_ca_files.iter_mut().chain(registrations) {
            *path = folder.join(&*path);
        }
    }
}

/// TOML errors are drawings of several lines; an error of ours is one line.
fn one_line(error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', " ");
    error.span().map_or(message.clone(), |span| format!("{message} (at byte {})", span.start))
}
