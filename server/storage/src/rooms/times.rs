//! The events of a room by the time that they claim.
//!
//! Times are the senders' servers' word: they may lie, and order nothing else.

use ruma::{OwnedEventId, RoomId};

use super::event_id_value;
use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{KeyParts, key},
};

/// A place in the order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimePlace {
    /// `origin_server_ts`.
    pub ts: u64,
    /// Where the event stands in the timeline.
    pub position: i64,
}

/// Notes when an event was sent.
pub fn put_time(batch: &mut Batch, room_id: &RoomId, at: TimePlace, event_id: &ruma::EventId) {
    batch.put(Cf::EventTimes, key().str(room_id).u64(at.ts).i64(at.position), event_id.as_str());
}

/// Takes that back.
pub(super) fn delete_time(batch: &mut Batch, room_id: &RoomId, at: TimePlace) {
    batch.delete(Cf::EventTimes, key().str(room_id).u64(at.ts).i64(at.position));
}

/// Events from a place on (inclusive), at most `limit`.
pub fn by_time(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    from: TimePlace,
    direction: Direction,
    limit: usize,
) -> Result<Vec<(TimePlace, OwnedEventId)>, StorageError> {
    let prefix = key().str(room_id);
    let from = prefix.clone().u64(from.ts).i64(from.position).finish();
    let rows = read.scan(Cf::EventTimes, prefix.as_ref(), Some(&from), direction, limit)?;
    rows.iter()
        .map(|(row, event_id)| {
            let mut parts = KeyParts::new(Cf::EventTimes, row);
            parts.str()?;
            let at = TimePlace { ts: parts.u64()?, position: parts.i64()? };
            Ok((at, event_id_value(Cf::EventTimes, event_id)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, room_id};

    use super::*;
    use crate::{Database, Options};

    #[test]
    fn events_are_found_on_both_sides_of_a_time() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = Database::open(folder.path(), &Options::default()).expect("open");
        let room = room_id!("!r:a.b");
        let mut batch = database.batch();
        for (ts, position, event_id) in
            [(5, 1, event_id!("$a")), (9, -1, event_id!("$b")), (9, 2, event_id!("$c"))]
        {
            put_time(&mut batch, room, TimePlace { ts, position }, event_id);
        }
        put_time(&mut batch, room_id!("!s:a.b"), TimePlace { ts: 6, position: 3 }, event_id!("$d"));
        let _commit = database.commit_durable(batch).expect("commits");
        let found = |ts, position, direction| {
            let from = TimePlace { ts, position };
            let rows = by_time(&database, room, from, direction, 10).expect("reads");
            rows.into_iter().map(|(_, event_id)| event_id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found(6, i64::MIN, Direction::Forward), ["$b", "$c"]);
        assert_eq!(found(9, i64::MAX, Direction::Backward), ["$c", "$b", "$a"]);
        assert_eq!(found(8, i64::MAX, Direction::Backward), ["$a"]);
    }
}
