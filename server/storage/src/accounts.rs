//! Rows of accounts: who exists here. Not their devices, not their profile.

use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
};

/// One local account. Never deleted: a user id is never given to somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// PHC string; `None` if no password opens this account.
    pub password_hash: Option<String>,
    /// When it was registered, in milliseconds since the epoch.
    pub created_ts: u64,
    /// Whether its owner closed it.
    pub deactivated: bool,
    /// Whether it may use administration endpoints.
    pub admin: bool,
}

/// The account of `user_id`.
pub fn account(read: &impl Read, user_id: &UserId) -> Result<Option<Account>, StorageError> {
    codec::get(read, Cf::Accounts, key().str(user_id).as_ref())
}

/// Creates or replaces it.
pub fn put_account(batch: &mut Batch, user_id: &UserId, account: &Account) {
    codec::put(batch, Cf::Accounts, key().str(user_id), account);
}

/// Local users in order, beginning after `after`; at most `limit`.
pub fn users(
    read: &impl Read,
    after: Option<&UserId>,
    limit: usize,
) -> Result<Vec<OwnedUserId>, StorageError> {
    let from = after.map(|after| {
        let mut from = key().str(after).finish();
        from.push(0);
        from
    });
    let rows = read.scan(Cf::Accounts, b"", from.as_deref(), Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, _)| {
            let user_id = KeyParts::new(Cf::Accounts, row).str()?;
            OwnedUserId::try_from(user_id).map_err(|_| StorageError::BrokenKey { cf: Cf::Accounts.name() })
        })
        .collect()
}
