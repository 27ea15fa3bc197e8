//! The account data in an answer: what changed, grouped by room.

use std::collections::BTreeMap;

use causeway_storage::{
    Cf, Direction, Read, StorageError,
    codec::{KeyParts, key},
};
use ruma::UserId;
use serde_json::{json, value::RawValue};

use super::response::{RawEvent, raw_event};

/// Pieces of account data in one answer; of more, the earliest.
const PIECES_MAX: usize = 10_000;

/// A piece of account data.
#[derive(Debug)]
pub struct Piece {
    /// Its type.
    pub kind: String,
    /// When it changed.
    pub position: u64,
    /// As an event.
    pub event: RawEvent,
}

/// Account data by room id; the empty id is for what belongs to no room.
pub type ByRoom = BTreeMap<String, Vec<Piece>>;

/// What changed in `(since, until]`.
pub fn changed(read: &impl Read, user_id: &UserId, since: u64, until: u64) -> Result<ByRoom, StorageError> {
    let prefix = key().str(user_id);
    let from = prefix.clone().u64(since.saturating_add(1));
    let rows = read.scan(
        Cf::AccountDataChanges,
        prefix.as_ref(),
        Some(from.as_ref()),
        Direction::Forward,
        PIECES_MAX,
    )?;
    let mut by_room = ByRoom::new();
    for (row, kind) in rows {
        let mut parts = KeyParts::new(Cf::AccountDataChanges, &row);
        parts.str()?;
        let position = parts.u64()?;
        if position > until {
            break;
        }
        let room_id = parts.str()?;
        let broken = |_| StorageError::BrokenKey { cf: Cf::AccountDataChanges.name() };
        let kind = std::str::from_utf8(&kind).map_err(broken)?;
        if let Some(content) = content(read, user_id, room_id, kind)? {
            let event = raw_event(&json!({ "type": kind, "content": content }));
            by_room.entry(room_id.to_owned()).or_default().push(Piece {
                kind: kind.to_owned(),
                position,
                event,
            });
        }
    }
    Ok(by_room)
}

/// One piece, without a room when `room_id` is empty.
pub fn content(
    read: &impl Read,
    user_id: &UserId,
    room_id: &str,
    kind: &str,
) -> Result<Option<Box<RawValue>>, StorageError> {
    let row = read.get(Cf::AccountData, key().str(user_id).str(room_id).str(kind).as_ref())?;
    let Some((_, json)) = row.as_deref().and_then(|row| row.split_first_chunk::<8>()) else {
        return Ok(None);
    };
    let broken = |source| StorageError::BrokenValue { cf: Cf::AccountData.name(), source };
    serde_json::from_slice(json).map(Some).map_err(broken)
}
