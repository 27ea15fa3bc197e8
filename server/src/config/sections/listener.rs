//! `[[listeners]]`: where the server can be reached.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// `[[listeners]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// IP address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// PEM chain; with `private_key` the listener speaks TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// PEM key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<PathBuf>,
    /// Whether `/metrics` is served here.
    #[serde(default)]
    pub metrics: bool,
}

impl Listener {
    pub(in crate::config) fn check(&self) -> Result<(), ConfigError> {
        if self.certificate.is_some() == self.private_key.is_some() {
            return Ok(());
        }
        Err(ConfigError::invalid(
            "listeners",
            "certificate and private_key belong together: give both or none",
        ))
    }

    /// Certificate and key, where the listener speaks TLS.
    pub fn tls(&self) -> Option<(&PathBuf, &PathBuf)> {
        self.certificate.as_ref().zip(self.private_key.as_ref())
    }
}
