//! `causeway sidecar`: beside a homeserver of another make.
//!
//! [`init`](self::init()) prepares it and says what the operator is to do; it is run as a server
//! is, which takes its doors from here.

mod doors;
mod init;
mod published;

use std::path::Path;

use causeway_appservice::sidecar::registration::{self, Tokens};
use causeway_service::{
    clock::Clock,
    server_keys::{ServerKeys, SigningLine},
};
use causeway_storage::Database;
use ruma::OwnedServerName;
use url::Url;

pub use self::{
    doors::{Beside, doors},
    init::{CONFIG_FILE, Init, init},
};
use crate::{
    config::Config,
    exit::{Failure, Reason},
    files,
};

/// What a sidecar's configuration names.
pub struct Attached {
    /// Where its homeserver is.
    pub homeserver: Url,
    /// What both show each other.
    pub tokens: Tokens,
    /// With what it signs.
    pub key: SigningLine,
    /// Under which name of its own it publishes that, if the homeserver does not.
    pub name: Option<OwnedServerName>,
}

/// What the configuration of a sidecar leads to.
pub fn attached(config: &Config) -> Result<Attached, Failure> {
    let wrong = |why: String| Failure::new(Reason::Configuration, why);
    let section = &config.sidecar;
    let Some(homeserver) = section.homeserver() else {
        return Err(wrong("sidecar.homeserver is not set: this is no sidecar's configuration".to_owned()));
    };
    if !config.federation.enabled {
        return Err(wrong("federation.enabled is false: a sidecar is there to replicate".to_owned()));
    }
    let read = |path: &Path| files::read(path).map_err(|error| wrong(format!("{}: {error}", path.display())));
    let named = |path: &Path, error: &dyn std::error::Error| wrong(format!("{}: {error}", path.display()));
    let tokens = registration::read(&read(&section.registration)?)
        .map_err(|error| named(&section.registration, &error))?;
    let key = SigningLine::read(&read(&section.signing_key)?)
        .map_err(|error| named(&section.signing_key, &error))?;
    let name = section.name.clone();
    if name.as_ref() == Some(&config.server_name) {
        return Err(wrong("sidecar.name is the homeserver's: it is a name of the sidecar's own".to_owned()));
    }
    Ok(Attached { homeserver, tokens, key, name })
}

/// Has the database sign with the sidecar's key.
pub fn take_key(database: &Database, key: &SigningLine) -> Result<(), Failure> {
    ServerKeys::take(database, &Clock::System, key).map_err(|error| Failure::new(Reason::DataFolder, error))
}
