//! Rooms: events, what this server made of them, and what is derived for reading.
//!
//! Typed rows only. Which rows belong together in one batch, and what may be
//! read by whom, is `causeway_service::rooms`' business.
//!
//! The truth is [`put_event`]'s two rows, the [`Room`] row and the state nodes;
//! current state, members, memberships, servers, relations and the timeline are
//! indexes over them, written in the same batch.

mod asked_joins;
mod joining;
mod members;
pub mod purge;
mod relations;
mod state;
mod threads;
mod timeline;
mod times;
mod unanswered;
mod words;

pub use asked_joins::{AskedJoin, asked_joins, delete_asked_join, put_asked_join};
use causeway_room::state_tree::Root;
pub use joining::{clear_joining, delete_joining, is_joining, joining, put_joining};
pub use members::{
    Member, delete_membership, invite_state, joined_servers, member, members, membership, memberships,
    put_invite_state, put_member, put_membership, put_remote_membership, put_server_count, remote_rooms,
    server_count,
};
pub use relations::{
    Related, pending_redactions, put_pending_redaction, put_redaction, put_relation, redaction_of, relations,
};
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, RoomVersionId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
pub use state::{current, current_of, node, put_current, put_node};
pub use threads::{Thread, is_participant, put_participant, put_thread, thread, threads};
pub use timeline::{
    Place, TimelineRow, position_and_before, position_before, put_stream, put_timeline, stream, timeline,
};
pub use times::{TimePlace, by_time, put_time};
pub use unanswered::{Unanswered, all_unanswered, delete_unanswered, put_unanswered, unanswered};
pub use words::{delete_word, put_word, word_positions};

use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
};

/// Row of `Meta`: the version of the indexes for reading.
const INDEXES: &[u8] = b"indexes";

/// A room that this server is or was in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Decides all rules.
    pub version: RoomVersionId,
    /// Its `m.room.create` event.
    pub create: OwnedEventId,
    /// Events that no accepted event follows yet.
    pub heads: Vec<Head>,
    /// The current state: the heads' states, resolved.
    pub state: Root,
    /// The lowest timeline position given to history so far; zero or less.
    pub history_floor: i64,
}

/// An event that no accepted event follows yet (a forward extremity).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The event.
    pub event_id: OwnedEventId,
    /// Its depth.
    pub depth: u64,
    /// The state after it.
    pub state: Root,
}

/// What this server made of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventMeta {
    /// Its room.
    pub room_id: OwnedRoomId,
    /// Where it stands in the timeline; negative for history fetched later,
    /// `None` when it has no place there (rejected, soft-failed, outlier).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<i64>,
    /// Of history: the place of an event at the live end that came after it, as
    /// far as its followers prove one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<i64>,
    /// Why the authorisation rules refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
    /// Whether it was allowed by its past but not by the current state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub soft_failed: bool,
    /// Whether only its authorisation is known, and not its place in the room.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outlier: bool,
    /// When its content was deleted here, so that nobody is shown it (ms since the epoch).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged_ts: Option<u64>,
    /// Whether this server lacked an event before it when it came.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gap_before: bool,
    /// The room's state before it, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_before: Option<Root>,
    /// The same after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_after: Option<Root>,
}

impl EventMeta {
    /// Whether its content was deleted here.
    pub fn is_purged(&self) -> bool {
        self.purged_ts.is_some()
    }

    /// Whether it was given as history and takes part in no state.
    pub fn is_unplaced_history(&self) -> bool {
        self.position.is_some_and(|position| position < 0) && self.state_after.is_none()
    }

    /// A place at the live end that the event is not after; the end of all
    /// places when that is not known.
    pub fn not_after(&self) -> i64 {
        self.position.filter(|position| *position >= 0).or(self.edge).unwrap_or(i64::MAX)
    }
}

/// The room's row.
pub fn room(read: &(impl Read + ?Sized), room_id: &RoomId) -> Result<Option<Room>, StorageError> {
    codec::get(read, Cf::Rooms, key().str(room_id).as_ref())
}

/// Writes the room's row.
pub fn put_room(batch: &mut Batch, room_id: &RoomId, room: &Room) {
    codec::put(batch, Cf::Rooms, key().str(room_id), room);
}

/// The ids of rooms after `after`, in order, at most `limit`.
pub fn room_ids(
    read: &(impl Read + ?Sized),
    after: Option<&RoomId>,
    limit: usize,
) -> Result<Vec<OwnedRoomId>, StorageError> {
    // 0xFF ends the room's own row, and no other key begins with it and a byte more.
    let from = after.map(|room_id| key().str(room_id).bytes(&[0]).finish());
    let rows = read.scan(Cf::Rooms, &[], from.as_deref(), Direction::Forward, limit)?;
    rows.iter().map(|(row, _)| room_id_part(Cf::Rooms, &mut KeyParts::new(Cf::Rooms, row))).collect()
}

/// The event's canonical JSON, as it goes to other servers.
pub fn pdu_raw(
    read: &(impl Read + ?Sized),
    event_id: &EventId,
) -> Result<Option<Box<RawValue>>, StorageError> {
    let Some(bytes) = read.get(Cf::Pdus, key().str(event_id).as_ref())? else {
        return Ok(None);
    };
    let broken = |source| StorageError::BrokenValue { cf: Cf::Pdus.name(), source };
    serde_json::from_slice(&bytes).map(Some).map_err(broken)
}

/// What this server made of the event.
pub fn event_meta(
    read: &(impl Read + ?Sized),
    event_id: &EventId,
) -> Result<Option<EventMeta>, StorageError> {
    codec::get(read, Cf::EventMeta, key().str(event_id).as_ref())
}

/// Writes an event and what this server made of it.
pub fn put_event(batch: &mut Batch, event_id: &EventId, raw: &RawValue, meta: &EventMeta) {
    batch.put(Cf::Pdus, key().str(event_id), raw.get());
    codec::put(batch, Cf::EventMeta, key().str(event_id), meta);
}

/// Takes an event out of what is for reading but the timeline: the order of time, and what
/// relates to `target`; and forgets which request of a client sent it.
pub fn forget_reading(
    batch: &mut Batch,
    room_id: &RoomId,
    event_id: &EventId,
    at: TimePlace,
    target: Option<&EventId>,
) {
    times::delete_time(batch, room_id, at);
    if let Some(target) = target {
        relations::delete_relation(batch, target, at.position);
    }
    batch.delete(Cf::EventOrigins, key().str(event_id));
}

/// Events that accepted events of the room follow and that are not held, at most `limit`.
pub fn missing_events(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    limit: usize,
) -> Result<Vec<OwnedEventId>, StorageError> {
    let rows = read.scan(Cf::MissingEvents, key().str(room_id).as_ref(), None, Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, _)| {
            let mut parts = KeyParts::new(Cf::MissingEvents, row);
            parts.str()?;
            event_id_part(Cf::MissingEvents, &mut parts)
        })
        .collect()
}

/// Whether an accepted event follows this one, which was not held then.
pub fn is_missing(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    event_id: &EventId,
) -> Result<bool, StorageError> {
    Ok(read.get(Cf::MissingEvents, key().str(room_id).str(event_id).as_ref())?.is_some())
}

/// The lowest place at the live end of an event that came after a missing one;
/// `None` when none is known.
pub fn missing_edge(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    event_id: &EventId,
) -> Result<Option<i64>, StorageError> {
    let value = read.get(Cf::MissingEvents, key().str(room_id).str(event_id).as_ref())?;
    let edge = value.as_deref().and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    Ok(edge.map(i64::from_be_bytes))
}

/// Notes that an event is missing which came before the one at `edge`.
pub fn put_missing(batch: &mut Batch, room_id: &RoomId, event_id: &EventId, edge: Option<i64>) {
    let value = edge.map(i64::to_be_bytes);
    let value: &[u8] = value.as_ref().map_or(&[], |bytes| bytes);
    batch.put(Cf::MissingEvents, key().str(room_id).str(event_id), value);
}

/// Notes that an event is missing no more.
pub fn delete_missing(batch: &mut Batch, room_id: &RoomId, event_id: &EventId) {
    batch.delete(Cf::MissingEvents, key().str(room_id).str(event_id));
}

/// Which version of the indexes for reading (threads, words, times) is complete; 0 is none.
pub fn indexes_version(read: &(impl Read + ?Sized)) -> Result<u64, StorageError> {
    let value = read.get(Cf::Meta, INDEXES)?;
    value.map_or(Ok(0), |value| codec::decode_u64(Cf::Meta, &value))
}

/// Notes that a version of the indexes for reading is complete.
pub fn put_indexes_version(batch: &mut Batch, version: u64) {
    batch.put(Cf::Meta, INDEXES, version.to_be_bytes());
}

pub(crate) fn room_id_part(cf: Cf, parts: &mut KeyParts<'_>) -> Result<OwnedRoomId, StorageError> {
    RoomId::parse(parts.str()?).map_err(|_| StorageError::BrokenKey { cf: cf.name() })
}

fn event_id_part(cf: Cf, parts: &mut KeyParts<'_>) -> Result<OwnedEventId, StorageError> {
    EventId::parse(parts.str()?).map_err(|_| StorageError::BrokenKey { cf: cf.name() })
}

/// An event id that is a whole value.
fn event_id_value(cf: Cf, value: &[u8]) -> Result<OwnedEventId, StorageError> {
    let broken = || StorageError::BrokenKey { cf: cf.name() };
    let text = std::str::from_utf8(value).map_err(|_| broken())?;
    EventId::parse(text).map_err(|_| broken())
}

#[cfg(test)]
mod tests {
    use causeway_room::state_tree::NodeId;
    use ruma::{owned_event_id, owned_room_id};

    use super::*;

    #[test]
    fn the_stored_bytes_are_these() {
        let root = NodeId([0xAB; 32]);
        let hex = "ab".repeat(32);
        let room = Room {
            version: RoomVersionId::V12,
            create: owned_event_id!("$create"),
            heads: vec![Head { event_id: owned_event_id!("$head"), depth: 7, state: root }],
            state: root,
            history_floor: -3,
        };
        let expected = format!(
            "\u{1}{{\"version\":\"12\",\"create\":\"$create\",\"heads\":[{{\"event_id\":\"$head\",\"depth\":7,\
             \"state\":\"{hex}\"}}],\"state\":\"{hex}\",\"history_floor\":-3}}"
        );
        assert_eq!(codec::encode(&room), expected.as_bytes());
        let meta = EventMeta {
            room_id: owned_room_id!("!room"),
            position: Some(9),
            edge: None,
            rejected: None,
            soft_failed: false,
            outlier: false,
            purged_ts: None,
            gap_before: false,
            state_before: Some(root),
            state_after: None,
        };
        let expected = format!("\u{1}{{\"room_id\":\"!room\",\"position\":9,\"state_before\":\"{hex}\"}}");
        assert_eq!(codec::encode(&meta), expected.as_bytes());
        assert_eq!(codec::decode::<EventMeta>(Cf::EventMeta, expected.as_bytes()).expect("reads"), meta);
    }
}
