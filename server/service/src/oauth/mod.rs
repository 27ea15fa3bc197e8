//! OAuth 2.0 for clients (client-server API, "OAuth 2.0 API"): programs register,
//! users log in and consent on pages of this server, programs get tokens. Not the
//! pages and endpoints, which are the door's.
//!
//! There is no OAuth account or session beside Matrix's own: what a program gets is a
//! device like any other, with the tokens of `devices`, and ends with it.

pub mod clients;
pub mod codes;
pub mod device_codes;
mod error;
pub mod params;
pub mod requests;
pub mod scope;
pub mod uris;
pub mod visits;

use causeway_storage::Database;
use ruma::OwnedUserId;
use url::Url;

use crate::{
    clock::Clock,
    credential::Credential,
    devices::{OAuthSession, SessionRequest},
    settings::OAuthSettings,
};
use clients::{Clients, OAuthClient};
use codes::Codes;
use device_codes::DeviceCodes;
pub use error::OAuthError;
use scope::Scope;
use visits::Visits;

/// Bytes of the name of a new device.
const DEVICE_NAME_BYTES_MAX: usize = 100;

/// That a user who proved who he is lets a client log in as him.
#[derive(Clone, Debug)]
pub struct Consent {
    /// The client.
    pub client_id: String,
    /// What a new device is called.
    pub display_name: String,
    /// The user.
    pub user_id: OwnedUserId,
    /// What he showed: the consent ends with the password that he gave.
    pub credential: Credential,
    /// What he granted.
    pub scope: Scope,
}

impl Consent {
    /// What `devices` is asked for.
    pub fn wish(self) -> SessionRequest {
        let session =
            OAuthSession { client_id: self.client_id, scope: self.scope.granted, spent: Vec::new() };
        SessionRequest {
            device_id: Some(self.scope.device_id),
            display_name: Some(self.display_name),
            refresh: true,
            credential: Some(self.credential),
            oauth: Some(session),
        }
    }
}

/// What a client is called where people see it: the name it gave itself, else its host.
pub fn shown_name(client: &OAuthClient) -> String {
    let host = || uris::web(&client.client_uri).and_then(|page| page.host_str().map(str::to_owned));
    let mut name = client.client_name.clone().or_else(host).unwrap_or_default();
    name.truncate(name.floor_char_boundary(DEVICE_NAME_BYTES_MAX));
    name
}

/// See the module. Only there when it is offered.
pub struct OAuth {
    /// Where browsers and clients reach this server.
    pub base: Url,
    /// Programs that registered.
    pub clients: Clients,
    /// What users consented to.
    pub codes: Codes,
    /// Programs that wait for a user who has the browser.
    pub device_codes: DeviceCodes,
    /// Users who manage their accounts.
    pub visits: Visits,
}

impl OAuth {
    /// Over `database`.
    pub fn new(settings: &OAuthSettings, database: &Database, clock: &Clock) -> Self {
        Self {
            base: settings.base.clone(),
            clients: Clients::new(database.clone(), clock.clone()),
            codes: Codes::new(clock.clone()),
            device_codes: DeviceCodes::new(clock.clone()),
            visits: Visits::new(clock.clone()),
        }
    }

    /// The address of one of its pages or endpoints.
    pub fn address(&self, path: &str) -> String {
        format!("{}{path}", self.base.as_str().trim_end_matches('/'))
    }
}
