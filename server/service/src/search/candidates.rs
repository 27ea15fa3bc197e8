//! Places of events that hold all words, in several rooms at once, the last first.
//!
//! Who may see them is not decided here.

use std::collections::{BTreeSet, BinaryHeap};

use causeway_storage::{Database, StorageError, rooms as rows};
use ruma::{OwnedRoomId, RoomId};

use super::Place;

/// Places in the index that are looked up for one search.
const LOOKUPS_MAX: usize = 20_000;

/// See the module.
pub(super) struct Candidates<'a> {
    database: &'a Database,
    words: Vec<&'a str>,
    /// The next place in each room that has one.
    next: BinaryHeap<(i64, &'a RoomId)>,
    lookups: usize,
}

impl<'a> Candidates<'a> {
    /// From a place on; places are ordered by position, then room.
    pub(super) fn new(
        database: &'a Database,
        rooms: &'a [OwnedRoomId],
        words: &'a BTreeSet<String>,
        from: Option<&Place>,
    ) -> Result<Self, StorageError> {
        let words = words.iter().map(String::as_str).collect();
        let mut all = Self { database, words, next: BinaryHeap::new(), lookups: 0 };
        for room_id in rooms {
            let from = match from {
                None => i64::MAX,
                Some(from) if *room_id < from.room_id => from.position,
                Some(from) => from.position.saturating_sub(1),
            };
            all.advance(room_id, from)?;
        }
        Ok(all)
    }

    pub(super) fn next(&mut self) -> Result<Option<(i64, &'a RoomId)>, StorageError> {
        let Some((position, room_id)) = self.next.pop() else { return Ok(None) };
        if let Some(before) = position.checked_sub(1) {
            self.advance(room_id, before)?;
        }
        Ok(Some((position, room_id)))
    }

    /// Finds the last place at `at` or before where all words are.
    fn advance(&mut self, room_id: &'a RoomId, mut at: i64) -> Result<(), StorageError> {
        let mut agreed = 0;
        for word in self.words.iter().cycle() {
            self.lookups += 1;
            if self.lookups > LOOKUPS_MAX {
                return Ok(());
            }
            let found = rows::word_positions(self.database, room_id, word, at, 1)?;
            let Some(position) = found.first() else { return Ok(()) };
            agreed = if *position == at { agreed + 1 } else { 1 };
            at = *position;
            if agreed >= self.words.len() {
                self.next.push((at, room_id));
                return Ok(());
            }
        }
        Ok(())
    }
}
