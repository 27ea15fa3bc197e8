//! Rows of OAuth clients: programs that registered themselves, and which devices
//! were logged in by them. Not the tokens, which are those of any device.

use ruma::{DeviceId, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
};

/// What a program said of itself (RFC 7591), checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OAuthClient {
    /// A page about it.
    pub client_uri: String,
    /// As it calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    /// Its picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logo_uri: Option<String>,
    /// Its terms of service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tos_uri: Option<String>,
    /// What it does with its users' data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_uri: Option<String>,
    /// Where its users may be sent back to.
    pub redirect_uris: Vec<String>,
    /// How it may get tokens.
    pub grant_types: Vec<String>,
    /// Whether it is installed on its user's device, rather than a web page.
    pub native: bool,
    /// When it last registered, in milliseconds since the epoch; coarse.
    pub registered_ts: u64,
}

/// One client.
pub fn client(read: &impl Read, client_id: &str) -> Result<Option<OAuthClient>, StorageError> {
    codec::get(read, Cf::OAuthClients, key().str(client_id).as_ref())
}

/// Adds or replaces it.
pub fn put_client(batch: &mut Batch, client_id: &str, client: &OAuthClient) {
    codec::put(batch, Cf::OAuthClients, key().str(client_id), client);
}

/// Deletes it.
pub fn delete_client(batch: &mut Batch, client_id: &str) {
    batch.delete(Cf::OAuthClients, key().str(client_id));
}

/// All clients, at most `limit`.
pub fn clients(read: &impl Read, limit: usize) -> Result<Vec<(String, OAuthClient)>, StorageError> {
    let rows = read.scan(Cf::OAuthClients, b"", None, Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, value)| {
            let client_id = KeyParts::new(Cf::OAuthClients, row).str()?.to_owned();
            Ok((client_id, codec::decode(Cf::OAuthClients, value)?))
        })
        .collect()
}

/// Notes that a device was logged in by a client.
pub fn put_session(batch: &mut Batch, client_id: &str, user_id: &UserId, device_id: &DeviceId) {
    batch.put(Cf::OAuthSessions, key().str(client_id).str(user_id).str(device_id), b"");
}

/// Notes that it no longer is.
pub fn delete_session(batch: &mut Batch, client_id: &str, user_id: &UserId, device_id: &DeviceId) {
    batch.delete(Cf::OAuthSessions, key().str(client_id).str(user_id).str(device_id));
}

/// Whether any device is logged in by a client.
pub fn has_sessions(read: &impl Read, client_id: &str) -> Result<bool, StorageError> {
    let prefix = key().str(client_id);
    Ok(!read.scan(Cf::OAuthSessions, prefix.as_ref(), None, Direction::Forward, 1)?.is_empty())
}
