//! Rows of backups of room keys: a user's versions, and the keys in each.
//!
//! What is in a key is encrypted for the user; nothing of it is understood here.

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, RoomId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, Key, KeyParts, key},
    read::Row,
    rooms::room_id_part,
};

/// Rows read at once to count them.
const COUNTED_AT_ONCE: usize = 128;

/// One version of a user's backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Version {
    /// How keys are encrypted.
    pub algorithm: String,
    /// What the algorithm needs to be known in public, as its owner wrote it.
    pub auth_data: Box<RawValue>,
    /// Counts the changes of its keys.
    pub etag: u64,
    /// How many keys are in it.
    pub count: u64,
    /// How long its keys are together, in bytes.
    pub bytes: u64,
    /// Whether it is gone. Only the last version is remembered so, because its
    /// number must not be given again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

/// The key of one session of a room.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoomKey {
    /// The index of the first message that it opens.
    pub first_message_index: u64,
    /// How often it was forwarded.
    pub forwarded_count: u64,
    /// Whether the device that backed it up had verified where it came from.
    pub is_verified: bool,
    /// The encrypted key.
    pub session_data: Box<RawValue>,
}

/// Which keys of a backup are meant.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// All.
    All,
    /// Those of a room.
    Room(&'a RoomId),
    /// That of a session.
    Session(&'a RoomId, &'a str),
}

impl Which<'_> {
    fn prefix(self, user_id: &UserId, version: u64) -> Key {
        let prefix = key().str(user_id).u64(version);
        match self {
            Self::All => prefix,
            Self::Room(room_id) => prefix.str(room_id),
            Self::Session(room_id, session_id) => prefix.str(room_id).str(session_id),
        }
    }
}

/// Keys by room and session.
pub type RoomKeys = BTreeMap<OwnedRoomId, BTreeMap<String, RoomKey>>;

/// All versions of a user's backup, in order; the last may be marked as deleted.
pub fn versions(read: &impl Read, user_id: &UserId) -> Result<Vec<(u64, Version)>, StorageError> {
    let prefix = key().str(user_id);
    let rows = read.scan(Cf::KeyBackups, prefix.as_ref(), None, Direction::Forward, usize::MAX)?;
    let decoded = rows.iter().map(|(row, value)| {
        let mut parts = KeyParts::new(Cf::KeyBackups, row);
        parts.str()?;
        Ok((parts.u64()?, codec::decode(Cf::KeyBackups, value)?))
    });
    decoded.collect()
}

/// Writes a version.
pub fn put_version(batch: &mut Batch, user_id: &UserId, number: u64, version: &Version) {
    codec::put(batch, Cf::KeyBackups, key().str(user_id).u64(number), version);
}

/// Deletes a version's row; its keys are deleted by [`delete_keys`].
pub fn delete_version(batch: &mut Batch, user_id: &UserId, number: u64) {
    batch.delete(Cf::KeyBackups, key().str(user_id).u64(number));
}

/// A stretch of a version's keys, by room and session.
#[derive(Debug, Default)]
pub struct KeysPage {
    /// The keys.
    pub keys: Vec<(OwnedRoomId, String, RoomKey)>,
    /// Where to go on; `None` at the end.
    pub next: Option<Vec<u8>>,
}

/// Up to `limit` keys of a version, from `from` on.
pub fn keys(
    read: &impl Read,
    user_id: &UserId,
    version: u64,
    which: Which<'_>,
    from: Option<&[u8]>,
    limit: usize,
) -> Result<KeysPage, StorageError> {
    let (rows, next) = page(read, which.prefix(user_id, version).as_ref(), from, limit)?;
    let mut keys = Vec::with_capacity(rows.len());
    for (row, value) in rows {
        let mut parts = KeyParts::new(Cf::BackedUpKeys, &row);
        parts.str()?;
        parts.u64()?;
        let room_id = room_id_part(Cf::BackedUpKeys, &mut parts)?;
        let session_id = parts.str()?.to_owned();
        keys.push((room_id, session_id, codec::decode(Cf::BackedUpKeys, &value)?));
    }
    Ok(KeysPage { keys, next })
}

/// Up to `limit` rows, and the key of the next one.
fn page(
    read: &impl Read,
    prefix: &[u8],
    from: Option<&[u8]>,
    limit: usize,
) -> Result<(Vec<Row>, Option<Vec<u8>>), StorageError> {
    let limit_and_one = limit.saturating_add(1);
    let mut rows = read.scan(Cf::BackedUpKeys, prefix, from, Direction::Forward, limit_and_one)?;
    let next = if rows.len() > limit { rows.pop().map(|(key, _)| key) } else { None };
    Ok((rows, next))
}

/// A session's key; its length in bytes is that of [`put_key`].
pub fn session_key(
    read: &impl Read,
    user_id: &UserId,
    version: u64,
    room_id: &RoomId,
    session_id: &str,
) -> Result<Option<(RoomKey, u64)>, StorageError> {
    let row = Which::Session(room_id, session_id).prefix(user_id, version);
    let Some(value) = read.get(Cf::BackedUpKeys, row.as_ref())? else { return Ok(None) };
    let bytes = (row.as_ref().len() + value.len()) as u64;
    Ok(Some((codec::decode(Cf::BackedUpKeys, &value)?, bytes)))
}

/// How many keys these are, and their length in bytes.
pub fn size(
    read: &impl Read,
    user_id: &UserId,
    version: u64,
    which: Which<'_>,
) -> Result<(u64, u64), StorageError> {
    let (mut count, mut bytes, mut from) = (0, 0, None::<Vec<u8>>);
    loop {
        let (rows, next) =
            page(read, which.prefix(user_id, version).as_ref(), from.as_deref(), COUNTED_AT_ONCE)?;
        count += rows.len() as u64;
        bytes += rows.iter().map(|(row, value)| (row.len() + value.len()) as u64).sum::<u64>();
        from = next;
        if from.is_none() {
            return Ok((count, bytes));
        }
    }
}

/// Writes a session's key; how many bytes it takes, with its own key in the table.
pub fn put_key(
    batch: &mut Batch,
    user_id: &UserId,
    version: u64,
    room_id: &RoomId,
    session_id: &str,
    value: &RoomKey,
) -> u64 {
    let (row, bytes) = (Which::Session(room_id, session_id).prefix(user_id, version), codec::encode(value));
    let taken = (row.as_ref().len() + bytes.len()) as u64;
    batch.put(Cf::BackedUpKeys, row, &bytes);
    taken
}

/// Deletes keys of a version.
pub fn delete_keys(batch: &mut Batch, user_id: &UserId, version: u64, which: Which<'_>) {
    batch.delete_prefix(Cf::BackedUpKeys, which.prefix(user_id, version));
}
