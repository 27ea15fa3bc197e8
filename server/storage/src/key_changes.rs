//! Rows that say whose keys or devices changed when, in the order of the stream.
//!
//! Not the keys themselves: see [`crate::keys`]. Invariant: of a user there is
//! the last change only, for all and for each other user who alone is told. A
//! reader who has seen less than that one is told once, whatever came before.
//! (Two at the same moment may leave a row too many, until the next one.)

use ruma::{OwnedUserId, UserId};

use crate::{
    Batch, Cf, Direction, Read, StorageError, StreamPosition,
    codec::{self, Key, KeyParts, SEPARATOR, key},
};

/// Earlier changes of one user that are taken away at once; more than one is rare.
const EARLIER_MAX: usize = 100;

/// That a user's keys or devices changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// When.
    pub position: StreamPosition,
    /// Whose.
    pub user_id: OwnedUserId,
    /// The one user who is told of it, if not all are.
    pub only_for: Option<OwnedUserId>,
}

/// Notes that a user's keys or devices changed; only for one other user, if one
/// is named. In the stream it takes the place of the user's change before.
pub fn put(
    read: &impl Read,
    batch: &mut Batch,
    user_id: &UserId,
    only_for: Option<&UserId>,
) -> Result<(), StorageError> {
    let position = batch.position();
    let mut value = user_id.as_bytes().to_vec();
    if let Some(only_for) = only_for {
        value.push(SEPARATOR);
        value.extend_from_slice(only_for.as_bytes());
    }
    batch.put(Cf::KeyChanges, key().u64(position.0), value);
    replace(read, batch, user_id, only_for, position)
}

fn replace(
    read: &impl Read,
    batch: &mut Batch,
    user_id: &UserId,
    only_for: Option<&UserId>,
    position: StreamPosition,
) -> Result<(), StorageError> {
    for earlier in positions(read, user_id, only_for)? {
        if earlier < position {
            batch.delete(Cf::KeyChanges, key().u64(earlier.0));
            batch.delete(Cf::KeyChangesByUser, by_user(user_id, only_for).u64(earlier.0));
        }
    }
    batch.put(Cf::KeyChangesByUser, by_user(user_id, only_for).u64(position.0), []);
    Ok(())
}

fn by_user(user_id: &UserId, only_for: Option<&UserId>) -> Key {
    key().str(user_id).str(only_for.map_or("", UserId::as_str))
}

fn positions(
    read: &impl Read,
    user_id: &UserId,
    only_for: Option<&UserId>,
) -> Result<Vec<StreamPosition>, StorageError> {
    let prefix = by_user(user_id, only_for);
    let rows = read.scan(Cf::KeyChangesByUser, prefix.as_ref(), None, Direction::Forward, EARLIER_MAX)?;
    let position = |row: &[u8]| {
        let mut parts = KeyParts::new(Cf::KeyChangesByUser, row);
        parts.str()?;
        parts.str()?;
        parts.u64().map(StreamPosition)
    };
    rows.iter().map(|(row, _)| position(row)).collect()
}

/// Whose keys changed after `since` and up to `until`; at most `limit` changes, in order.
pub fn between(
    read: &impl Read,
    since: StreamPosition,
    until: StreamPosition,
    limit: usize,
) -> Result<Vec<KeyChange>, StorageError> {
    let from = key().u64(since.0.saturating_add(1));
    let rows = read.scan(Cf::KeyChanges, b"", Some(from.as_ref()), Direction::Forward, limit)?;
    let mut changes = Vec::with_capacity(rows.len());
    for (row, value) in rows {
        let change = decode(&row, &value)?;
        if change.position > until {
            break;
        }
        changes.push(change);
    }
    Ok(changes)
}

fn decode(row: &[u8], value: &[u8]) -> Result<KeyChange, StorageError> {
    let broken = || StorageError::BrokenKey { cf: Cf::KeyChanges.name() };
    let id = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).map_err(|_| broken())?;
        OwnedUserId::try_from(text).map_err(|_| broken())
    };
    let mut parts = value.split(|byte| *byte == SEPARATOR);
    let user_id = id(parts.next().unwrap_or_default())?;
    let only_for = parts.next().map(id).transpose()?;
    Ok(KeyChange { position: StreamPosition(codec::decode_u64(Cf::KeyChanges, row)?), user_id, only_for })
}

/// Takes the place of the changes before `change`, which is in the stream
/// already, from when changes were not listed by user.
pub(crate) fn collapse(read: &impl Read, batch: &mut Batch, change: &KeyChange) -> Result<(), StorageError> {
    let (user_id, only_for) = (&change.user_id, change.only_for.as_deref());
    replace(read, batch, user_id, only_for, change.position)
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::{Database, Options};

    #[test]
    fn of_a_user_the_last_change_is_kept_for_all_and_for_each_who_alone_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(folder.path(), &Options::default()).expect("opens");
        let (alice, bob) = (user_id!("@alice:a.example"), user_id!("@bob:b.example"));
        let change = |user_id, only_for| {
            let mut batch = database.batch();
            put(&database, &mut batch, user_id, only_for).expect("reads");
            database.commit_durable(batch).expect("writes")
        };
        change(bob, None);
        let only = change(bob, Some(alice));
        let other = change(alice, None);
        let seen = change(bob, None);
        let last = change(bob, None);
        let all = between(&database, StreamPosition(0), last, 10).expect("reads");
        let expected = [(only, bob, Some(alice)), (other, alice, None), (last, bob, None)];
        let expected = expected.map(|(position, user_id, only_for): (_, &UserId, Option<&UserId>)| {
            KeyChange { position, user_id: user_id.to_owned(), only_for: only_for.map(ToOwned::to_owned) }
        });
        assert_eq!(all, expected);
        assert_eq!(between(&database, seen, last, 10).expect("reads"), expected[2..]);
    }
}
