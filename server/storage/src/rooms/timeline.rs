//! The order in which a room's events are shown, and the order in which
//! everything happened on this server.
//!
//! A room's timeline is ordered by signed position: what came live has the
//! stream position it came at, history fetched later has negative ones.

use causeway_room::state_tree::{NodeId, Root};
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId};

use super::{event_id_value, room_id_part};
use crate::{
    Batch, Cf, Direction, Read, StorageError, StreamPosition,
    codec::{KeyParts, key},
};

/// An event in its room's timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineRow {
    /// Where it stands.
    pub position: i64,
    /// The event.
    pub event_id: OwnedEventId,
    /// The room's *current* state just after this was committed; history keeps
    /// the state that was current when it came, and says nothing of then.
    pub current: Root,
}

/// An event in the server's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where it stands.
    pub position: StreamPosition,
    /// Its room.
    pub room_id: OwnedRoomId,
    /// The event.
    pub event_id: OwnedEventId,
}

const ROOT_BYTES: usize = 32;

/// Puts an event into its room's timeline.
pub fn put_timeline(batch: &mut Batch, room_id: &RoomId, row: &TimelineRow) {
    let mut value = Vec::with_capacity(ROOT_BYTES + 48);
    value.extend(row.current.0);
    value.extend(row.event_id.as_bytes());
    batch.put(Cf::Timeline, key().str(room_id).i64(row.position), value);
}

/// Events of a room from `from` (inclusive; `None` is the end one begins at), at most `limit`.
pub fn timeline(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    from: Option<i64>,
    direction: Direction,
    limit: usize,
) -> Result<Vec<TimelineRow>, StorageError> {
    let prefix = key().str(room_id).finish();
    let from = from.map(|position| key().str(room_id).i64(position).finish());
    let rows = read.scan(Cf::Timeline, &prefix, from.as_deref(), direction, limit)?;
    rows.iter()
        .map(|(row, value)| {
            let mut parts = KeyParts::new(Cf::Timeline, row);
            parts.str()?;
            let position = parts.i64()?;
            let (root, event_id) = value
                .split_first_chunk::<ROOT_BYTES>()
                .ok_or(StorageError::BrokenKey { cf: Cf::Timeline.name() })?;
            let event_id = event_id_value(Cf::Timeline, event_id)?;
            Ok(TimelineRow { position, event_id, current: NodeId(*root) })
        })
        .collect()
}

/// The last event at or before a position.
pub fn position_before(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    position: i64,
) -> Result<Option<TimelineRow>, StorageError> {
    Ok(timeline(read, room_id, Some(position), Direction::Backward, 1)?.pop())
}

/// The event at a position, if the room has one there, and the one before it.
pub fn position_and_before(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    position: i64,
) -> Result<Option<(TimelineRow, TimelineRow)>, StorageError> {
    let rows = timeline(read, room_id, Some(position), Direction::Backward, 2)?;
    let rows: Option<[TimelineRow; 2]> = rows.try_into().ok();
    Ok(rows.map(|[at, before]| (at, before)).filter(|(at, _)| at.position == position))
}

/// Puts an event into the server's stream.
pub fn put_stream(batch: &mut Batch, position: StreamPosition, room_id: &RoomId, event_id: &EventId) {
    batch.put(Cf::EventStream, key().u64(position.0).str(room_id), event_id.as_str());
}

/// Events of all rooms after a position and not after another, in order, at most `limit`.
pub fn stream(
    read: &(impl Read + ?Sized),
    after: StreamPosition,
    up_to: StreamPosition,
    limit: usize,
) -> Result<Vec<Place>, StorageError> {
    if after >= up_to {
        return Ok(Vec::new());
    }
    let from = key().u64(after.0.saturating_add(1)).finish();
    let rows = read.scan(Cf::EventStream, &[], Some(&from), Direction::Forward, limit)?;
    let mut places = Vec::with_capacity(rows.len());
    for (row, value) in &rows {
        let mut parts = KeyParts::new(Cf::EventStream, row);
        let position = StreamPosition(parts.u64()?);
        if position > up_to {
            break;
        }
        let room_id = room_id_part(Cf::EventStream, &mut parts)?;
        places.push(Place { position, room_id, event_id: event_id_value(Cf::EventStream, value)? });
    }
    Ok(places)
}
