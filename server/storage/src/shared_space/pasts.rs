//! What other servers told of the room state before an adopted event, where
//! this server was not in the room yet.

use ruma::{EventId, OwnedEventId, RoomId};
use serde::{Deserialize, Serialize};

use super::parts;
use crate::{Batch, Cf, Read, StorageError, codec};

/// What was told of the item that an event is about, as of before the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PastRow {
    /// The item's event then.
    Shown(OwnedEventId),
    /// The room had no such item.
    Nothing,
    /// Nobody who was asked, again and again, could say.
    Untold,
    /// Nobody could say yet.
    Asked(Patience),
}

/// How long others have been asked in vain; times in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    /// How often, as far as it counts.
    pub vain: u32,
    /// Since when.
    pub since_ms: u64,
    /// When the next time counts.
    pub next_ms: u64,
}

/// What was told, if anything.
pub fn past(db: &impl Read, room: &RoomId, event: &EventId) -> Result<Option<PastRow>, StorageError> {
    codec::get(db, Cf::SpacePasts, &parts(&[room.as_str(), event.as_str()]))
}

/// Notes what was told.
pub fn put_past(batch: &mut Batch, room: &RoomId, event: &EventId, row: &PastRow) {
    codec::put(batch, Cf::SpacePasts, parts(&[room.as_str(), event.as_str()]), row);
}
