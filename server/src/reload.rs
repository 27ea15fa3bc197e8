//! Reading the configuration again (SIGHUP), while the server runs.
//!
//! Taken over at once: certificates and keys of listeners, `telemetry.log`,
//! `[rate_limits]`, `storage.keep_free_bytes`; and the registrations of application services
//! are read again, which decide by themselves whether they can be used. What else has changed is named in the log
//! and waits for the next start.
//!
//! Invariant: all or nothing. A configuration, or a certificate, that can't be used
//! changes nothing.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc};

use axum_server::tls_rustls::RustlsConfig;
use causeway_service::{Services, appservices::questions::Question, error::Chain};
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    settings,
    telemetry::{LogFilter, TelemetryError},
    tls,
};

/// What is read again without a restart; keys that begin so.
const LIVE: [&str; 4] = ["listeners", "telemetry.log", "rate_limits.", "storage.keep_free_bytes"];

/// Everything that can be changed in the running server.
pub struct Reload {
    /// Where the configuration is.
    pub path: PathBuf,
    /// As it is in force.
    pub config: Config,
    /// What each listener shows, in the order of the configuration.
    pub certificates: Vec<Option<RustlsConfig>>,
    /// What is logged.
    pub log: LogFilter,
    /// The use-cases.
    pub services: Arc<Services>,
}

impl Reload {
    /// Reads it again at each signal, until `stop`.
    pub async fn run(mut self, mut signal: Signal, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                received = signal.recv() => if received.is_none() {
                    return stop.cancelled().await;
                },
            }
            appservices(&self.services).await;
            // Some small files.
            match self.reload() {
                Ok(waiting) if waiting.is_empty() => tracing::info!("the configuration was read again"),
                Ok(waiting) => tracing::warn!(
                    keys = waiting.join(", "),
                    "the configuration was read again; these keys wait for a restart"
                ),
                Err(error) => {
                    tracing::error!(%error, "the configuration can't be used: nothing was changed");
                }
            }
        }
    }

    /// The keys that wait for a restart.
    fn reload(&mut self) -> Result<Vec<String>, String> {
        let told = |error: &(dyn std::error::Error + 'static)| Chain(error).to_string();
        let new = Config::load(&self.path).map_err(|error| told(&error))?;
        let mut certificates: Vec<(&RustlsConfig, Arc<rustls::ServerConfig>)> = Vec::new();
        for ((old, shown), new) in self.config.listeners.iter().zip(&self.certificates).zip(&new.listeners) {
            if let (Some(shown), Some((certificate, key)), true) =
                (shown, new.tls(), old.address == new.address)
            {
                let read = tls::server_config(certificate, key).map_err(|error| told(&error))?;
                certificates.push((shown, read.get_inner()));
            }
        }
        let kept = |error: TelemetryError| told(&error);
        self.log.set(&new.telemetry.log).map_err(kept)?;
        for (shown, read) in certificates {
            shown.reload_from_config(read);
        }
        self.services.rate_limits.set(settings::rate_limits(&new.rate_limits));
        self.services.database.keep_free(new.storage.keep_free_bytes);
        let waiting = waiting(&self.config, &new);
        // What waits is told again the next time, until it is in force or taken back.
        self.config.telemetry.log = new.telemetry.log;
        self.config.rate_limits = new.rate_limits;
        self.config.storage.keep_free_bytes = new.storage.keep_free_bytes;
        Ok(waiting)
    }
}

/// Reads the registrations of application services again.
async fn appservices(services: &Services) {
    match services.appservices.questions.ask(|reply| Question::Reload { reply }).await {
        Ok(count) => tracing::info!(count, "application services are registered anew"),
        Err(error) => tracing::error!(%error, "application services stay registered as they were"),
    }
}

/// The keys that differ and are not read again.
fn waiting(old: &Config, new: &Config) -> Vec<String> {
    let (old_values, new_values) = (values(old), values(new));
    let mut keys: Vec<String> = old_values
        .iter()
        .filter(|(key, value)| new_values.get(*key) != Some(value))
        .map(|(key, _)| key.clone())
        .chain(new_values.keys().filter(|key| !old_values.contains_key(*key)).cloned())
        .filter(|key| !LIVE.iter().any(|live| key == live || live.ends_with('.') && key.starts_with(live)))
        .collect();
    let addresses = |config: &Config| -> Vec<(SocketAddr, bool, bool)> {
        config.listeners.iter().map(|one| (one.address, one.metrics, one.tls().is_some())).collect()
    };
    if addresses(old) != addresses(new) {
        keys.push("listeners".to_owned());
    }
    keys
}

/// Every value by its key, `section.key`; lists are one value.
fn values(config: &Config) -> BTreeMap<String, toml::Value> {
    let mut found = BTreeMap::new();
    // What was read from TOML can be written as TOML.
    let table = toml::Table::try_from(config).unwrap_or_default();
    for (section, value) in table {
        match value {
            toml::Value::Table(keys) => {
                found.extend(keys.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)));
            }
            value => drop(found.insert(section, value)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        let minimal = "server_name = \"a.example\"\n";
        Config::parse(&format!("{minimal}{text}"), Path::new("causeway.toml"), []).expect("usable")
    }

    #[test]
    fn only_what_needs_a_restart_is_said_to_wait() {
        let listener = |port: u16| format!("[[listeners]]\naddress = \"127.0.0.1:{port}\"\n");
        let old = config(&listener(1));
        let live = format!(
            "{}certificate = \"c\"\nprivate_key = \"k\"\n[telemetry]\nlog = \"debug\"\n[rate_limits]\nenabled = false\n[storage]\nkeep_free_bytes = 1\n",
            listener(1)
        );
        assert_eq!(waiting(&old, &old), Vec::<String>::new());
        let with_tls = format!("{}certificate = \"b\"\nprivate_key = \"k\"\n", listener(1));
        assert_eq!(waiting(&config(&with_tls), &config(&live)), Vec::<String>::new());
        assert_eq!(waiting(&old, &config(&listener(2))), ["listeners"]);
        let other =
            format!("{}[media]\nupload_max_bytes = 1\n[registration]\nmode = \"open\"\n", listener(1));
        assert_eq!(waiting(&old, &config(&other)), ["media.upload_max_bytes", "registration.mode"]);
    }
}
