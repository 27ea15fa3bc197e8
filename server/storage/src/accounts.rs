//! Rows of accounts: who exists here. Not their devices, not their profile.

use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
};

/// One local account. Never deleted: a user id is never given to somebody else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is an administrator's or the owner's own decision")]
pub struct Account {
    /// PHC string; `None` if no password opens this account.
    pub password_hash: Option<String>,
    /// When it was registered, in milliseconds since the epoch.
    pub created_ts: u64,
    /// Whether its owner closed it.
    pub deactivated: bool,
    /// Whether it may use administration endpoints.
    pub admin: bool,
    /// Whether nothing may be done with it until an administrator unlocks it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub locked: bool,
    /// Whether it may only read and leave until an administrator lifts that.
    #[serde(default, skip_serializing_if = "is_false")]
    pub suspended: bool,
    /// Whether its owner wished to be forgotten when it was closed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub erased: bool,
    /// Then: where the stream was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erased_at: Option<u64>,
    /// Whether it was made without any proof, and may do little (client-server API, "Guest access").
    #[serde(default, skip_serializing_if = "is_false")]
    pub guest: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(flag: &bool) -> bool {
    !flag
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
    Ok(accounts(read, after, limit)?.into_iter().map(|(user_id, _)| user_id).collect())
}

/// The same with their accounts.
pub fn accounts(
    read: &impl Read,
    after: Option<&UserId>,
    limit: usize,
) -> Result<Vec<(OwnedUserId, Account)>, StorageError> {
    let from = after.map(|after| {
        let mut from = key().str(after).finish();
        from.push(0);
        from
    });
    let rows = read.scan(Cf::Accounts, b"", from.as_deref(), Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, value)| {
            let user_id = KeyParts::new(Cf::Accounts, row).str()?;
            let broken = |_| StorageError::BrokenKey { cf: Cf::Accounts.name() };
            let user_id = OwnedUserId::try_from(user_id).map_err(broken)?;
            Ok((user_id, codec::decode(Cf::Accounts, value)?))
        })
        .collect()
}
