//! Backups of room keys: versions of a user's backup, and the encrypted keys in them.
//!
//! This server can open none of it; whether a backup is to be trusted its owner's
//! devices decide. Invariants:
//! - a version number is given once, also after its deletion;
//! - keys are added to the last version only;
//! - a key gives way only to a better one ("Server-side key backups").

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
};

pub use causeway_storage::backup::{KeysPage, RoomKey, RoomKeys, Which};
use causeway_storage::{
    Batch, Database,
    backup::{self as rows, Version},
};
use ruma::{RoomId, UserId};
use serde_json::value::RawValue;

use crate::error::MatrixError;

/// Versions that a user may have at once.
pub const VERSIONS_MAX: usize = 100;

/// Bytes of keys in all backups of one user.
pub const USER_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Keys in all backups of one user.
pub const USER_KEYS_MAX: u64 = 200_000;

/// Keys that are read at once, so that a backup is never held in memory.
const PAGE: usize = 128;

/// Writers of different users that may write at once.
const LOCKS: usize = 64;

/// One key, in bytes.
const KEY_BYTES_MAX: usize = 16 * 1024;

/// The public part of a backup, in bytes.
const AUTH_DATA_BYTES_MAX: usize = 16 * 1024;

/// The name of an algorithm or the id of a session, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// See the module.
pub struct Backups {
    database: Database,
    /// Held from reading a version until what follows from it is committed; each is for some users.
    writing: [Mutex<()>; LOCKS],
}

/// What is known of a version.
#[derive(Clone, Debug)]
pub struct Info {
    /// Its number.
    pub version: String,
    /// How keys are encrypted.
    pub algorithm: String,
    /// As its owner wrote it.
    pub auth_data: Box<RawValue>,
    /// Its keys.
    pub held: Held,
}

/// How much a version holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Another one after each change of the keys.
    pub etag: String,
    /// How many keys.
    pub count: u64,
}

impl Backups {
    /// Over `database`.
    pub fn new(database: Database) -> Self {
        Self { database, writing: std::array::from_fn(|_| Mutex::default()) }
    }

    /// Begins a new version; its number.
    ///
    /// # Errors
    /// 413 when its public part is too large or there are too many versions.
    pub fn create(
        &self,
        user_id: &UserId,
        algorithm: String,
        auth_data: Box<RawValue>,
    ) -> Result<String, MatrixError> {
        check_public(&algorithm, &auth_data)?;
        let writing = self.lock(user_id);
        let versions = rows::versions(&self.database, user_id)?;
        if versions.len() >= VERSIONS_MAX {
            return Err(MatrixError::too_large("There are too many backups: delete one first"));
        }
        let mut batch = self.database.batch();
        let last = versions.last();
        if let Some((number, _)) = last.filter(|(_, last)| last.deleted) {
            rows::delete_version(&mut batch, user_id, *number);
        }
        let number = last.map_or(1, |(number, _)| number.saturating_add(1));
        let version = Version { algorithm, auth_data, etag: 0, count: 0, bytes: 0, deleted: false };
        rows::put_version(&mut batch, user_id, number, &version);
        self.finish(writing, batch)?;
        Ok(number.to_string())
    }

    /// The last version.
    ///
    /// # Errors
    /// 404 when there is none.
    pub fn latest(&self, user_id: &UserId) -> Result<Info, MatrixError> {
        Ok(info(self.held(user_id)?.pop().ok_or_else(none)?))
    }

    /// A version.
    ///
    /// # Errors
    /// 404 when there is none of this number.
    pub fn info(&self, user_id: &UserId, version: &str) -> Result<Info, MatrixError> {
        self.find(user_id, version).map(info)
    }

    /// Replaces the public part of a version.
    ///
    /// # Errors
    /// 404 when there is none; 400 for another algorithm or another version inside.
    pub fn update(
        &self,
        user_id: &UserId,
        version: &str,
        named: Option<&str>,
        algorithm: &str,
        auth_data: Box<RawValue>,
    ) -> Result<(), MatrixError> {
        check_public(algorithm, &auth_data)?;
        let writing = self.lock(user_id);
        let (number, mut row) = self.find(user_id, version)?;
        if named.is_some_and(|named| named != version) {
            return Err(MatrixError::invalid_param("The version is not that of the path"));
        }
        if row.algorithm != algorithm {
            return Err(MatrixError::invalid_param("The algorithm of a backup doesn't change"));
        }
        row.auth_data = auth_data;
        let mut batch = self.database.batch();
        rows::put_version(&mut batch, user_id, number, &row);
        self.finish(writing, batch)
    }

    /// Deletes a version and its keys; that it was deleted before is no error.
    ///
    /// # Errors
    /// 404 when there never was one of this number.
    pub fn delete(&self, user_id: &UserId, version: &str) -> Result<(), MatrixError> {
        let writing = self.lock(user_id);
        let versions = rows::versions(&self.database, user_id)?;
        let number: u64 = version.parse().map_err(|_| unknown())?;
        let last = versions.last().map_or(0, |(number, _)| *number);
        if number == 0 || number > last {
            return Err(unknown());
        }
        let mut batch = self.database.batch();
        for (_, row) in versions.into_iter().filter(|(held, row)| *held == number && !row.deleted) {
            delete_version(&mut batch, user_id, number, (number == last).then_some(row));
        }
        self.finish(writing, batch)
    }

    /// Deletes all versions: the user is no more.
    pub fn delete_all(&self, user_id: &UserId) -> Result<(), MatrixError> {
        let writing = self.lock(user_id);
        let mut batch = self.database.batch();
        for (number, _) in rows::versions(&self.database, user_id)? {
            delete_version(&mut batch, user_id, number, None);
        }
        self.finish(writing, batch)
    }

    /// Adds keys to the last version, each unless a better one is held.
    ///
    /// # Errors
    /// 404 when there is no backup, 403 `M_WRONG_ROOM_KEYS_VERSION` for another
    /// version than the last, 413 for too much.
    pub fn add(&self, user_id: &UserId, version: &str, keys: &RoomKeys) -> Result<Held, MatrixError> {
        let sessions =
            || keys.iter().flat_map(|(room, keys)| keys.iter().map(move |(id, key)| (room, id, key)));
        for (_, session_id, key) in sessions() {
            check_key(session_id, key)?;
        }
        let writing = self.lock(user_id);
        let mut held = self.held(user_id)?;
        let others = || held.iter().rev().skip(1).map(|(_, row)| row);
        let other_bytes = others().map(|row| row.bytes).fold(0, u64::saturating_add);
        let other_keys = others().map(|row| row.count).fold(0, u64::saturating_add);
        let (number, mut row) = held.pop().ok_or_else(none)?;
        if number.to_string() != version {
            return Err(MatrixError::new(403, "M_WRONG_ROOM_KEYS_VERSION", "Not the current backup version")
                .with("current_version", number.to_string()));
        }
        let (mut batch, mut changed) = (self.database.batch(), false);
        for (room_id, session_id, key) in sessions() {
            let before = rows::session_key(&self.database, user_id, number, room_id, session_id)?;
            if before.as_ref().is_some_and(|(before, _)| !is_better(key, before)) {
                continue;
            }
            let bytes = rows::put_key(&mut batch, user_id, number, room_id, session_id, key);
            row.bytes = row.bytes.saturating_sub(before.as_ref().map_or(0, |(_, bytes)| *bytes)) + bytes;
            row.count += u64::from(before.is_none());
            changed = true;
        }
        if other_bytes.saturating_add(row.bytes) > USER_BYTES_MAX
            || other_keys.saturating_add(row.count) > USER_KEYS_MAX
        {
            return Err(MatrixError::too_large("There are too many keys in the backup"));
        }
        self.changed(writing, batch, user_id, (number, row), changed)
    }

    /// A page of a version's keys, from `from` on.
    ///
    /// # Errors
    /// 404 when there is no such version.
    pub fn keys(
        &self,
        user_id: &UserId,
        version: &str,
        which: Which<'_>,
        from: Option<&[u8]>,
    ) -> Result<KeysPage, MatrixError> {
        let (number, _) = self.find(user_id, version)?;
        Ok(rows::keys(&self.database, user_id, number, which, from, PAGE)?)
    }

    /// The key of a session.
    ///
    /// # Errors
    /// 404 when there is none.
    pub fn session_key(
        &self,
        user_id: &UserId,
        version: &str,
        room_id: &RoomId,
        session_id: &str,
    ) -> Result<RoomKey, MatrixError> {
        let (number, _) = self.find(user_id, version)?;
        let found = rows::session_key(&self.database, user_id, number, room_id, session_id)?;
        found.map(|(key, _)| key).ok_or_else(|| MatrixError::not_found("The backup has no such key"))
    }

    /// Deletes keys of a version.
    ///
    /// # Errors
    /// 404 when there is no such version.
    pub fn remove(&self, user_id: &UserId, version: &str, which: Which<'_>) -> Result<Held, MatrixError> {
        let writing = self.lock(user_id);
        let (number, mut row) = self.find(user_id, version)?;
        let (count, bytes) = match which {
            Which::All => (row.count, row.bytes),
            _ => rows::size(&self.database, user_id, number, which)?,
        };
        let mut batch = self.database.batch();
        rows::delete_keys(&mut batch, user_id, number, which);
        row.count = row.count.saturating_sub(count);
        row.bytes = row.bytes.saturating_sub(bytes);
        self.changed(writing, batch, user_id, (number, row), count > 0)
    }

    /// Commits a change of keys, if it is one, with the version's new row.
    fn changed(
        &self,
        writing: MutexGuard<'_, ()>,
        mut batch: Batch,
        user_id: &UserId,
        (number, mut row): (u64, Version),
        changed: bool,
    ) -> Result<Held, MatrixError> {
        if changed {
            row.etag = row.etag.saturating_add(1);
            rows::put_version(&mut batch, user_id, number, &row);
            self.finish(writing, batch)?;
        } else {
            drop(writing);
            // What is there already may be another request's that is not synced yet.
            self.database.barrier()?;
        }
        Ok(held(&row))
    }

    /// Commits; the disk is waited for when others may write again.
    fn finish(&self, writing: MutexGuard<'_, ()>, batch: Batch) -> Result<(), MatrixError> {
        let commit = self.database.commit(batch)?;
        drop(writing);
        self.database.wait_durable(commit)?;
        Ok(())
    }

    /// The versions that are not deleted, in order.
    fn held(&self, user_id: &UserId) -> Result<Vec<(u64, Version)>, MatrixError> {
        let mut versions = rows::versions(&self.database, user_id)?;
        versions.retain(|(_, version)| !version.deleted);
        Ok(versions)
    }

    fn find(&self, user_id: &UserId, version: &str) -> Result<(u64, Version), MatrixError> {
        let mut versions = self.held(user_id)?.into_iter();
        versions.find(|(number, _)| number.to_string() == version).ok_or_else(unknown)
    }

    /// The lock guards no data, so a panic under it breaks nothing.
    fn lock(&self, user_id: &UserId) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        user_id.hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or_default();
        self.writing[place].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deletes a version, or all but the number of the last.
fn delete_version(batch: &mut Batch, user_id: &UserId, number: u64, last: Option<Version>) {
    rows::delete_keys(batch, user_id, number, Which::All);
    match last {
        None => rows::delete_version(batch, user_id, number),
        Some(row) => {
            let (auth_data, algorithm) = (RawValue::NULL.to_owned(), String::new());
            let row = Version { auth_data, algorithm, count: 0, bytes: 0, deleted: true, ..row };
            rows::put_version(batch, user_id, number, &row);
        }
    }
}

fn none() -> MatrixError {
    MatrixError::not_found("There is no backup")
}

fn unknown() -> MatrixError {
    MatrixError::not_found("Unknown backup version")
}

fn info((number, row): (u64, Version)) -> Info {
    let held = held(&row);
    Info { version: number.to_string(), algorithm: row.algorithm, auth_data: row.auth_data, held }
}

fn held(row: &Version) -> Held {
    Held { etag: row.etag.to_string(), count: row.count }
}

/// Verified before unverified, then what opens more messages, then what was
/// forwarded less often. Of equal ones the first stays.
fn is_better(new: &RoomKey, held: &RoomKey) -> bool {
    let rank = |key: &RoomKey| (!key.is_verified, key.first_message_index, key.forwarded_count);
    rank(new) < rank(held)
}

fn check_public(algorithm: &str, auth_data: &RawValue) -> Result<(), MatrixError> {
    if !is_object(auth_data) {
        return Err(MatrixError::bad_json("`auth_data` is an object"));
    }
    if algorithm.len() > NAME_BYTES_MAX || auth_data.get().len() > AUTH_DATA_BYTES_MAX {
        return Err(MatrixError::too_large("The description of the backup is too large"));
    }
    Ok(())
}

fn check_key(session_id: &str, key: &RoomKey) -> Result<(), MatrixError> {
    if !is_object(&key.session_data) {
        return Err(MatrixError::bad_json("`session_data` is an object"));
    }
    if session_id.len() > NAME_BYTES_MAX || key.session_data.get().len() > KEY_BYTES_MAX {
        return Err(MatrixError::too_large("A key is too large"));
    }
    Ok(())
}

fn is_object(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_better_key_is_verified_then_earlier_then_closer() {
        let key = |is_verified, first_message_index, forwarded_count| RoomKey {
            first_message_index,
            forwarded_count,
            is_verified,
            session_data: RawValue::NULL.to_owned(),
        };
        let in_order =
            [key(true, 0, 0), key(true, 0, 9), key(true, 7, 0), key(false, 0, 0), key(false, 7, 7)];
        for (place, one) in in_order.iter().enumerate() {
            for (other_place, other) in in_order.iter().enumerate() {
                assert_eq!(is_better(one, other), place < other_place, "{one:?} {other:?}");
            }
        }
    }
}
