//! OAuth 2.0 for clients (client-server API, "OAuth 2.0 API"): programs register,
//! users log in and consent on pages of this server, programs get tokens. Not the
//! pages and endpoints, which are the door's.
//!
//! There is no OAuth account or session beside Matrix's own: what a program gets is a
//! device like any other, with the tokens of `devices`, and ends with it.

pub mod clients;
mod error;
pub mod scope;
pub mod uris;

use causeway_storage::Database;
use url::Url;

use crate::{clock::Clock, settings::OAuthSettings};
use clients::Clients;
pub use error::OAuthError;

/// See the module. Only there when it is offered.
pub struct OAuth {
    /// Where browsers and clients reach this server.
    pub base: Url,
    /// Programs that registered.
    pub clients: Clients,
}

impl OAuth {
    /// Over `database`.
    pub fn new(settings: &OAuthSettings, database: &Database, clock: &Clock) -> Self {
        Self { base: settings.base.clone(), clients: Clients::new(database.clone(), clock.clone()) }
    }

    /// The address of one of its pages or endpoints.
    pub fn address(&self, path: &str) -> String {
        format!("{}{path}", self.base.as_str().trim_end_matches('/'))
    }
}
