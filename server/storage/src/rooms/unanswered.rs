//! Events from other servers that are tried again, because nobody answered for their past.
//! How many there are is the business of who keeps them.

use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::room_id_part;
use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
};

/// An event that is tried again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Unanswered {
    /// As it came, signatures checked.
    pub event: Box<RawValue>,
    /// How often it was tried again.
    pub tries: u32,
}

/// Keeps the event of a room that a server sent, in place of the one before.
pub fn put_unanswered(batch: &mut Batch, room_id: &RoomId, origin: &ServerName, event: &Unanswered) {
    codec::put(batch, Cf::UnansweredEvents, key().str(room_id).str(origin), event);
}

/// Keeps it no longer.
pub fn delete_unanswered(batch: &mut Batch, room_id: &RoomId, origin: &ServerName) {
    batch.delete(Cf::UnansweredEvents, key().str(room_id).str(origin));
}

/// The event that is kept of a room and a server.
pub fn unanswered(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    origin: &ServerName,
) -> Result<Option<Unanswered>, StorageError> {
    codec::get(read, Cf::UnansweredEvents, key().str(room_id).str(origin).as_ref())
}

/// All of them after one, with their rooms and who sent them; at most `limit`.
pub fn all_unanswered(
    read: &(impl Read + ?Sized),
    after: Option<(&RoomId, &ServerName)>,
    limit: usize,
) -> Result<Vec<(OwnedRoomId, OwnedServerName, Unanswered)>, StorageError> {
    let from = after.map(|(room_id, origin)| key().str(room_id).str(origin).bytes(&[0]).finish());
    let rows = read.scan(Cf::UnansweredEvents, b"", from.as_deref(), Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, value)| {
            let mut parts = KeyParts::new(Cf::UnansweredEvents, row);
            let room_id = room_id_part(Cf::UnansweredEvents, &mut parts)?;
            let broken = |_| StorageError::BrokenKey { cf: Cf::UnansweredEvents.name() };
            let origin = ServerName::parse(parts.str()?).map_err(broken)?;
            Ok((room_id, origin, codec::decode(Cf::UnansweredEvents, value)?))
        })
        .collect()
}
