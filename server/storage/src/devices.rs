//! Rows of devices and of the tokens that open them.
//!
//! Tokens are stored as SHA-256 only: who reads the database can't act as its users.

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
    oauth,
};

/// Devices of one user that are listed.
pub const DEVICES_LISTED_MAX: usize = 1_000;

/// SHA-256 of a token.
pub type TokenHash = [u8; 32];

/// One login.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// As its owner named it.
    pub display_name: Option<String>,
    /// When it was last seen, in milliseconds since the epoch; coarse.
    pub last_seen_ts: u64,
    /// From where.
    pub last_seen_ip: Option<String>,
    /// Its valid access tokens.
    pub access_tokens: Vec<TokenHash>,
    /// Its valid refresh tokens.
    pub refresh_tokens: Vec<TokenHash>,
    /// The access token of its last login, valid or not: names the session, which
    /// refreshed tokens go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<TokenHash>,
    /// How it was logged in, if by OAuth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth: Option<OAuthSession>,
}

/// A login by OAuth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OAuthSession {
    /// The client that got the tokens.
    pub client_id: String,
    /// What it was granted.
    pub scope: String,
    /// Refresh tokens that were replaced and are known by their rows still: who shows
    /// one is not, or not alone, who was given it. Oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spent: Vec<TokenHash>,
}

/// What an access token opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessToken {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// When it ends, in milliseconds since the epoch; `None` for never.
    pub expires_ts: Option<u64>,
    /// Tokens of the device that end when this one is used for the first time.
    pub replaces: Vec<TokenHash>,
}

/// What a refresh token opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshToken {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
}

/// One device.
pub fn device(
    read: &impl Read,
    user_id: &UserId,
    device_id: &DeviceId,
) -> Result<Option<Device>, StorageError> {
    codec::get(read, Cf::Devices, key().str(user_id).str(device_id).as_ref())
}

/// Creates or replaces a device.
pub fn put_device(batch: &mut Batch, user_id: &UserId, device_id: &DeviceId, device: &Device) {
    codec::put(batch, Cf::Devices, key().str(user_id).str(device_id), device);
}

/// Deletes a device's row and its tokens; what else belongs to it is of other modules.
pub fn delete_device(batch: &mut Batch, user_id: &UserId, device_id: &DeviceId, device: &Device) {
    batch.delete(Cf::Devices, key().str(user_id).str(device_id));
    delete_session(batch, user_id, device_id, device);
}

/// Deletes a device's tokens, and by which client it was logged in; not its row.
pub fn delete_session(batch: &mut Batch, user_id: &UserId, device_id: &DeviceId, device: &Device) {
    delete_tokens(batch, &device.access_tokens);
    delete_tokens(batch, &device.refresh_tokens);
    if let Some(session) = &device.oauth {
        delete_tokens(batch, &session.spent);
        oauth::delete_session(batch, &session.client_id, user_id, device_id);
    }
}

/// A user's devices, at most [`DEVICES_LISTED_MAX`].
pub fn devices(read: &impl Read, user_id: &UserId) -> Result<Vec<(OwnedDeviceId, Device)>, StorageError> {
    let prefix = key().str(user_id);
    let rows = read.scan(Cf::Devices, prefix.as_ref(), None, Direction::Forward, DEVICES_LISTED_MAX)?;
    rows.iter()
        .map(|(row, value)| {
            let mut parts = KeyParts::new(Cf::Devices, row);
            parts.str()?;
            Ok((OwnedDeviceId::from(parts.str()?), codec::decode(Cf::Devices, value)?))
        })
        .collect()
}

/// What an access token opens.
pub fn access_token(read: &impl Read, token: &TokenHash) -> Result<Option<AccessToken>, StorageError> {
    codec::get(read, Cf::AccessTokens, token)
}

/// Adds or replaces an access token.
pub fn put_access_token(batch: &mut Batch, token: &TokenHash, row: &AccessToken) {
    codec::put(batch, Cf::AccessTokens, token, row);
}

/// What a refresh token opens.
pub fn refresh_token(read: &impl Read, token: &TokenHash) -> Result<Option<RefreshToken>, StorageError> {
    codec::get(read, Cf::RefreshTokens, token)
}

/// Adds a refresh token.
pub fn put_refresh_token(batch: &mut Batch, token: &TokenHash, row: &RefreshToken) {
    codec::put(batch, Cf::RefreshTokens, token, row);
}

/// Deletes tokens of either kind.
pub fn delete_tokens(batch: &mut Batch, tokens: &[TokenHash]) {
    for token in tokens {
        batch.delete(Cf::AccessTokens, token);
        batch.delete(Cf::RefreshTokens, token);
    }
}
