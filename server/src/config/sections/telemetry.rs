//! `[telemetry]`: what the operator can see of the running server.

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use url::Url;

use crate::config::ConfigError;

/// `[telemetry]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Level or directives.
    pub log: String,
    /// For people or machines.
    pub log_format: LogFormat,
    /// Base URL of an OTLP collector; empty = off.
    pub otlp_endpoint: String,
    /// Part of the traces that is kept, 0.0 to 1.0.
    pub trace_ratio: f64,
    /// Interval of sending metrics.
    pub metrics_interval_ms: u64,
}

/// How a line of log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            otlp_endpoint: String::new(),
            trace_ratio: 1.0,
            metrics_interval_ms: 30_000,
        }
    }
}

impl Telemetry {
    pub(in crate::config) fn check(&self) -> Result<(), ConfigError> {
        if let Err(error) = EnvFilter::try_new(&self.log) {
            return Err(ConfigError::invalid("telemetry.log", error.to_string()));
        }
        if !self.otlp_endpoint.is_empty() && Url::parse(&self.otlp_endpoint).is_err() {
            return Err(ConfigError::invalid("telemetry.otlp_endpoint", "not a URL"));
        }
        if !(0.0..=1.0).contains(&self.trace_ratio) {
            return Err(ConfigError::invalid("telemetry.trace_ratio", "from 0.0 to 1.0"));
        }
        if self.metrics_interval_ms == 0 {
            return Err(ConfigError::invalid("telemetry.metrics_interval_ms", "must not be 0"));
        }
        Ok(())
    }
}
