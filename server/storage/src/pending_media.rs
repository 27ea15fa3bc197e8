//! Rows of media addresses that were given out before there is a content.
//!
//! Invariant: a pending address has a row by its id and one by its user; both come and go
//! together.

use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
};

/// Who may fill an address, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Who asked for it.
    pub user_id: OwnedUserId,
    /// In milliseconds since the epoch.
    pub expires_ts: u64,
}

/// What is known of a pending media id of this server.
pub fn pending(read: &impl Read, media_id: &str) -> Result<Option<Pending>, StorageError> {
    codec::get(read, Cf::PendingMedia, key().str(media_id).as_ref())
}

/// A user's pending media ids, those that expire first before others; at most `limit`.
pub fn of_user(
    read: &impl Read,
    user_id: &UserId,
    limit: usize,
) -> Result<Vec<(String, Pending)>, StorageError> {
    let prefix = key().str(user_id).finish();
    let rows = read.scan(Cf::PendingMediaByUser, &prefix, None, Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, _)| {
            let mut parts = KeyParts::new(Cf::PendingMediaByUser, &row[prefix.len()..]);
            let expires_ts = parts.u64()?;
            Ok((parts.str()?.to_owned(), Pending { user_id: user_id.to_owned(), expires_ts }))
        })
        .collect()
}

/// Pending media ids after one, in order, at most `limit`.
pub fn page(
    read: &impl Read,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, Pending)>, StorageError> {
    let from = after.map(|media_id| key().str(media_id).bytes(&[0]).finish());
    let rows = read.scan(Cf::PendingMedia, b"", from.as_deref(), Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, value)| {
            let media_id = KeyParts::new(Cf::PendingMedia, row).str()?.to_owned();
            Ok((media_id, codec::decode(Cf::PendingMedia, value)?))
        })
        .collect()
}

/// Adds it.
pub fn put(batch: &mut Batch, media_id: &str, pending: &Pending) {
    codec::put(batch, Cf::PendingMedia, key().str(media_id), pending);
    batch.put(Cf::PendingMediaByUser, by_user(media_id, pending), b"");
}

/// Deletes it.
pub fn delete(batch: &mut Batch, media_id: &str, pending: &Pending) {
    batch.delete(Cf::PendingMedia, key().str(media_id));
    batch.delete(Cf::PendingMediaByUser, by_user(media_id, pending));
}

fn by_user(media_id: &str, pending: &Pending) -> Vec<u8> {
    key().str(&pending.user_id).u64(pending.expires_ts).str(media_id).finish()
}
