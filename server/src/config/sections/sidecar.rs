//! `[sidecar]`: beside a homeserver of another make.

use std::path::PathBuf;

use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::config::ConfigError;

/// `[sidecar]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sidecar {
    /// Where that homeserver is; empty: this is a homeserver itself.
    pub homeserver: String,
    /// The registration file.
    pub registration: PathBuf,
    /// The file with the signing key.
    pub signing_key: PathBuf,
    /// The server name of its own under which it publishes that key; none: the homeserver does.
    pub name: Option<OwnedServerName>,
}

impl Default for Sidecar {
    fn default() -> Self {
        Self {
            homeserver: String::new(),
            registration: PathBuf::from("registration.yaml"),
            signing_key: PathBuf::from("signing.key"),
            name: None,
        }
    }
}

impl Sidecar {
    /// Where the homeserver is, if this is a sidecar.
    pub fn homeserver(&self) -> Option<Url> {
        Url::parse(&self.homeserver).ok().filter(is_base)
    }

    pub(in crate::config) fn check(&self) -> Result<(), ConfigError> {
        if self.homeserver.is_empty() || self.homeserver().is_some() {
            return Ok(());
        }
        Err(ConfigError::invalid("sidecar.homeserver", "an address like http://127.0.0.1:8008"))
    }
}

/// Whether paths can be put behind it.
pub fn is_base(url: &Url) -> bool {
    matches!(url.scheme(), "https" | "http")
        && url.has_host()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none()
}
