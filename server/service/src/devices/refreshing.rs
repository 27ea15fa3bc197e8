//! Refreshing a device's tokens, and revoking them.
//!
//! Old tokens end when the new ones are first used, so that a lost answer logs nobody
//! out (client-server API, "Refreshing access tokens"). Of a session by OAuth the last
//! refresh tokens that ended are remembered: who shows one of them has stolen it, or
//! it was stolen from him, and the session is over for both (RFC 9700, section 4.14).

use causeway_storage::{
    Batch,
    devices::{self as rows, Device, OAuthSession, TokenHash},
};
use ruma::UserId;

use super::{Devices, NewSession};
use crate::{error::MatrixError, secrets};

/// Refresh tokens of a session that are remembered after their end.
const SPENT_MAX: usize = 16;

impl Devices {
    /// New tokens for the refresh token of a device that was logged in by Matrix's own API.
    ///
    /// # Errors
    /// 401 `M_UNKNOWN_TOKEN` or `M_USER_LOCKED`.
    pub fn refresh(&self, refresh_token: &str) -> Result<NewSession, MatrixError> {
        self.refresh_for(refresh_token, None).map(|(session, _)| session)
    }

    /// The same for one that `client_id` logged in by OAuth; and what it was granted.
    ///
    /// # Errors
    /// As [`Self::refresh`].
    pub fn refresh_by_oauth(
        &self,
        refresh_token: &str,
        client_id: &str,
    ) -> Result<(NewSession, String), MatrixError> {
        let (session, granted) = self.refresh_for(refresh_token, Some(client_id))?;
        Ok((session, granted.map(|granted| granted.scope).unwrap_or_default()))
    }

    fn refresh_for(
        &self,
        refresh_token: &str,
        client_id: Option<&str>,
    ) -> Result<(NewSession, Option<OAuthSession>), MatrixError> {
        let hash = secrets::hash(refresh_token);
        let unknown = || MatrixError::new(401, "M_UNKNOWN_TOKEN", "Unknown refresh token");
        let writing = self.lock();
        let row = rows::refresh_token(&self.database, &hash)?.ok_or_else(unknown)?;
        self.check_usable(&row.user_id)?;
        let mut device = rows::device(&self.database, &row.user_id, &row.device_id)?.ok_or_else(unknown)?;
        if device.oauth.as_ref().map(|session| &*session.client_id) != client_id {
            return Err(unknown());
        }
        if is_spent(&device, &hash) {
            tracing::warn!(user_id = %row.user_id, "a refresh token was used again: its session is ended");
            self.delete_under(writing, &row.user_id, &[row.device_id])?;
            return Err(unknown());
        }
        let mut batch = self.database.batch();
        // Tokens of an earlier refresh whose answer was lost, if any, end now.
        let lost: Vec<TokenHash> =
            device.refresh_tokens.iter().copied().filter(|token| *token != hash).collect();
        end_refresh_tokens(&mut batch, &mut device, &lost);
        let old: Vec<TokenHash> = device.access_tokens.first().copied().into_iter().collect();
        rows::delete_tokens(&mut batch, device.access_tokens.get(1..).unwrap_or_default());
        device.access_tokens.truncate(1);
        let replaces = old.into_iter().chain([hash]).collect();
        let session = self.add_tokens(&mut batch, &row.user_id, &row.device_id, &mut device, true, replaces);
        rows::put_device(&mut batch, &row.user_id, &row.device_id, &device);
        let commit = self.database.commit(batch)?;
        drop(writing);
        self.database.wait_durable(commit)?;
        Ok((session, device.oauth))
    }

    /// Logs the device out whose access or refresh token this is; nothing where it is
    /// unknown or over (RFC 7009).
    pub fn revoke(&self, token: &str) -> Result<(), MatrixError> {
        let hash = secrets::hash(token);
        let writing = self.lock();
        let access = rows::access_token(&self.database, &hash)?.map(|row| (row.user_id, row.device_id));
        let refresh = || rows::refresh_token(&self.database, &hash);
        let (user_id, device_id) = match access {
            Some(owner) => owner,
            None => match refresh()? {
                Some(row) => (row.user_id, row.device_id),
                None => return Ok(()),
            },
        };
        match rows::device(&self.database, &user_id, &device_id)? {
            Some(device) if !is_spent(&device, &hash) => self.delete_under(writing, &user_id, &[device_id]),
            _ => Ok(()),
        }
    }

    /// Whether the device was logged in by OAuth.
    pub fn is_by_oauth(&self, user_id: &UserId, device_id: &ruma::DeviceId) -> Result<bool, MatrixError> {
        Ok(rows::device(&self.database, user_id, device_id)?.is_some_and(|device| device.oauth.is_some()))
    }

    /// The token `hash` was used: those that it replaces end.
    pub(super) fn end_replaced(&self, hash: &TokenHash) -> Result<(), MatrixError> {
        let _writing = self.lock();
        let Some(mut row) = rows::access_token(&self.database, hash)? else { return Ok(()) };
        let replaced = std::mem::take(&mut row.replaces);
        let mut batch = self.database.batch();
        rows::put_access_token(&mut batch, hash, &row);
        if let Some(mut device) = rows::device(&self.database, &row.user_id, &row.device_id)? {
            let (refresh, access): (Vec<TokenHash>, Vec<TokenHash>) =
                replaced.into_iter().partition(|token| device.refresh_tokens.contains(token));
            rows::delete_tokens(&mut batch, &access);
            device.access_tokens.retain(|token| !access.contains(token));
            end_refresh_tokens(&mut batch, &mut device, &refresh);
            rows::put_device(&mut batch, &row.user_id, &row.device_id, &device);
        }
        let _unsynced = self.database.commit(batch)?;
        Ok(())
    }
}

fn is_spent(device: &Device, hash: &TokenHash) -> bool {
    device.oauth.as_ref().is_some_and(|session| session.spent.contains(hash))
}

/// Ends refresh tokens of a device, whose row the caller writes.
fn end_refresh_tokens(batch: &mut Batch, device: &mut Device, ended: &[TokenHash]) {
    device.refresh_tokens.retain(|token| !ended.contains(token));
    let Some(session) = &mut device.oauth else {
        rows::delete_tokens(batch, ended);
        return;
    };
    session.spent.extend_from_slice(ended);
    let forgotten = session.spent.len().saturating_sub(SPENT_MAX);
    for token in session.spent.drain(..forgotten) {
        rows::delete_tokens(batch, &[token]);
    }
}
