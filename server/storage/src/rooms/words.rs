//! The index of words for searching: which events of a room hold a word.
//!
//! What a word is, which events have any and who may find them is not decided here.

use ruma::RoomId;

use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{KeyParts, key},
};

/// Notes that the event at `position` holds a word.
pub fn put_word(batch: &mut Batch, room_id: &RoomId, word: &str, position: i64) {
    batch.put(Cf::Words, key().str(room_id).str(word).i64(position), []);
}

/// Takes that back.
pub fn delete_word(batch: &mut Batch, room_id: &RoomId, word: &str, position: i64) {
    batch.delete(Cf::Words, key().str(room_id).str(word).i64(position));
}

/// Places of events with a word at `from` or before, the last first, at most `limit`.
pub fn word_positions(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    word: &str,
    from: i64,
    limit: usize,
) -> Result<Vec<i64>, StorageError> {
    let prefix = key().str(room_id).str(word);
    let from = prefix.clone().i64(from).finish();
    let rows = read.scan(Cf::Words, prefix.as_ref(), Some(&from), Direction::Backward, limit)?;
    rows.iter()
        .map(|(row, _)| {
            let mut parts = KeyParts::new(Cf::Words, row);
            parts.str()?;
            parts.str()?;
            parts.i64()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use ruma::room_id;

    use super::*;
    use crate::{Database, Options};

    #[test]
    fn a_word_is_found_in_its_room_only_and_the_last_event_first() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = Database::open(folder.path(), &Options::default()).expect("open");
        let (room, other) = (room_id!("!r:a.b"), room_id!("!s:a.b"));
        let mut batch = database.batch();
        for position in [-2, 3, 8] {
            put_word(&mut batch, room, "plan", position);
        }
        put_word(&mut batch, room, "plans", 5);
        put_word(&mut batch, other, "plan", 6);
        let _commit = database.commit_durable(batch).expect("commits");
        let found = |from, limit| word_positions(&database, room, "plan", from, limit).expect("reads");
        assert_eq!(found(i64::MAX, 10), [8, 3, -2]);
        assert_eq!(found(7, 1), [3]);
        let mut batch = database.batch();
        delete_word(&mut batch, room, "plan", 3);
        let _commit = database.commit_durable(batch).expect("commits");
        assert_eq!(found(i64::MAX, 10), [8, -2]);
    }
}
