//! Events that destinations could not take, the last of each room: by destination and room,
//! and by when they are to be sent again.
//!
//! Invariant: each row has its row by time, and no other; both are written together.

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};
use serde::{Deserialize, Serialize};

use super::next_server;
use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
    rooms::room_id_part,
};

/// An event that is to be sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// Its id.
    pub event_id: OwnedEventId,
    /// How often the room's last events were not taken, one after the other.
    pub tries: u32,
    /// Not before this time, milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// What is to be sent again to `destination` of a room.
pub fn again(
    read: &impl Read,
    destination: &ServerName,
    room_id: &RoomId,
) -> Result<Option<Again>, StorageError> {
    codec::get(read, Cf::OutboxAgain, key().str(destination).str(room_id).as_ref())
}

/// Writes what is to be sent again to `destination` of a room in place of what was, or that
/// nothing is.
pub fn put(
    batch: &mut Batch,
    destination: &ServerName,
    room_id: &RoomId,
    before: Option<&Again>,
    again: Option<&Again>,
) {
    if let Some(before) = before {
        delete_due(batch, destination, before.at_ms, room_id);
    }
    let row = key().str(destination).str(room_id);
    match again {
        Some(again) => {
            codec::put(batch, Cf::OutboxAgain, row, again);
            batch.put(Cf::OutboxAgainDue, key().str(destination).u64(again.at_ms).str(room_id), []);
        }
        None => batch.delete(Cf::OutboxAgain, row),
    }
}

/// Deletes a row by time that has no other.
pub fn delete_due(batch: &mut Batch, destination: &ServerName, at_ms: u64, room_id: &RoomId) {
    batch.delete(Cf::OutboxAgainDue, key().str(destination).u64(at_ms).str(room_id));
}

/// The rooms of which something is to be sent again to `destination` at `until_ms` or before,
/// each with when that is, the first first; at most `limit`.
pub fn due(
    read: &impl Read,
    destination: &ServerName,
    until_ms: u64,
    limit: usize,
) -> Result<Vec<(u64, OwnedRoomId)>, StorageError> {
    let prefix = key().str(destination).finish();
    let rows = read.scan(Cf::OutboxAgainDue, &prefix, None, Direction::Forward, limit)?;
    let mut found = Vec::with_capacity(rows.len());
    for (row, _) in &rows {
        let mut parts = KeyParts::new(Cf::OutboxAgainDue, row);
        parts.str()?;
        let at_ms = parts.u64()?;
        if at_ms > until_ms {
            break;
        }
        found.push((at_ms, room_id_part(Cf::OutboxAgainDue, &mut parts)?));
    }
    Ok(found)
}

/// What is to be sent again to `destination` of rooms after one, in their order; at most `limit`.
pub fn page(
    read: &impl Read,
    destination: &ServerName,
    after: Option<&RoomId>,
    limit: usize,
) -> Result<Vec<(OwnedRoomId, Again)>, StorageError> {
    let from = after.map(|room_id| key().str(destination).str(room_id).bytes(&[0]).finish());
    let prefix = key().str(destination).finish();
    let rows = read.scan(Cf::OutboxAgain, &prefix, from.as_deref(), Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, value)| {
            let mut parts = KeyParts::new(Cf::OutboxAgain, row);
            parts.str()?;
            Ok((room_id_part(Cf::OutboxAgain, &mut parts)?, codec::decode(Cf::OutboxAgain, value)?))
        })
        .collect()
}

/// Of how many rooms something is to be sent again to `destination`, counted up to `limit`.
pub fn count(read: &impl Read, destination: &ServerName, limit: usize) -> Result<usize, StorageError> {
    let prefix = key().str(destination).finish();
    read.count(Cf::OutboxAgain, &prefix, &prefix, limit)
}

/// The first destination after `after` (in the order of names) that something is to be sent to again.
pub fn next_destination(
    read: &impl Read,
    after: Option<&ServerName>,
) -> Result<Option<OwnedServerName>, StorageError> {
    next_server(read, Cf::OutboxAgain, after)
}
