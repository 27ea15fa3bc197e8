//! The threads of a room: a row for each, their order, and who took part.
//!
//! An index over the relations, written in the batch of the event that changes
//! it. What of it a user may see is not decided here.

use ruma::{EventId, OwnedEventId, RoomId, UserId};
use serde::{Deserialize, Serialize};

use super::event_id_value;
use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
};

/// What is known of a thread beside its events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Where its last event stands in the timeline.
    pub latest: i64,
    /// Its events, without the root and without what was redacted.
    pub count: u64,
}

/// The thread that begins at `root`, if one does.
pub fn thread(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    root: &EventId,
) -> Result<Option<Thread>, StorageError> {
    codec::get(read, Cf::Threads, key().str(room_id).str(root).as_ref())
}

/// Replaces a thread's row; without events it is gone.
pub fn put_thread(batch: &mut Batch, room_id: &RoomId, root: &EventId, old: Option<&Thread>, new: &Thread) {
    let row = key().str(room_id).str(root);
    if let Some(old) = old {
        batch.delete(Cf::ThreadOrder, key().str(room_id).i64(old.latest));
    }
    if new.count == 0 {
        batch.delete(Cf::Threads, row);
        return;
    }
    codec::put(batch, Cf::Threads, row, new);
    batch.put(Cf::ThreadOrder, key().str(room_id).i64(new.latest), root.as_str());
}

/// Threads whose last event stands at `from` or before, the one with the latest
/// first, at most `limit`: that place and the root.
pub fn threads(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    from: i64,
    limit: usize,
) -> Result<Vec<(i64, OwnedEventId)>, StorageError> {
    let from = key().str(room_id).i64(from).finish();
    let prefix = key().str(room_id);
    let rows = read.scan(Cf::ThreadOrder, prefix.as_ref(), Some(&from), Direction::Backward, limit)?;
    rows.iter()
        .map(|(row, root)| {
            let mut parts = KeyParts::new(Cf::ThreadOrder, row);
            parts.str()?;
            Ok((parts.i64()?, event_id_value(Cf::ThreadOrder, root)?))
        })
        .collect()
}

/// Notes that a user wrote in a thread.
pub fn put_participant(batch: &mut Batch, room_id: &RoomId, root: &EventId, user_id: &UserId) {
    batch.put(Cf::ThreadUsers, key().str(room_id).str(root).str(user_id), []);
}

/// Whether a local user ever wrote in a thread.
pub fn is_participant(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    root: &EventId,
    user_id: &UserId,
) -> Result<bool, StorageError> {
    Ok(read.get(Cf::ThreadUsers, key().str(room_id).str(root).str(user_id).as_ref())?.is_some())
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, room_id};

    use super::*;
    use crate::{Database, Options};

    #[test]
    fn threads_are_ordered_by_their_last_event_and_vanish_with_it() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = Database::open(folder.path(), &Options::default()).expect("open");
        let room = room_id!("!r:a.b");
        let put = |root: &EventId, old: Option<&Thread>, new: &Thread| {
            let mut batch = database.batch();
            put_thread(&mut batch, room, root, old, new);
            let _commit = database.commit_durable(batch).expect("commits");
        };
        let (early, late) = (Thread { latest: -3, count: 1 }, Thread { latest: 9, count: 2 });
        put(event_id!("$a"), None, &early);
        put(event_id!("$b"), None, &late);
        let listed = |from| threads(&database, room, from, 10).expect("reads");
        assert_eq!(listed(i64::MAX), [(9, event_id!("$b").to_owned()), (-3, event_id!("$a").to_owned())]);
        let moved = Thread { latest: 12, count: 2 };
        put(event_id!("$a"), Some(&early), &moved);
        assert_eq!(listed(i64::MAX)[0].1, "$a");
        assert_eq!(listed(11).len(), 1);
        put(event_id!("$b"), Some(&late), &Thread { count: 0, ..late.clone() });
        assert_eq!(listed(i64::MAX), [(12, event_id!("$a").to_owned())]);
        assert_eq!(thread(&database, room, event_id!("$b")).expect("reads"), None);
    }

    #[test]
    fn the_stored_bytes_are_these() {
        assert_eq!(codec::encode(&Thread { latest: -3, count: 2 }), b"\x01{\"latest\":-3,\"count\":2}");
    }
}
