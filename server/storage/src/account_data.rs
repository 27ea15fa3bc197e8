//! Rows of account data: what a user's clients keep on the server, globally or
//! for a room; and the order in which it changed, for /sync.

use ruma::{OwnedRoomId, RoomId, UserId};
use serde_json::value::RawValue;

use crate::{
    Batch, Cf, Direction, Full, Read, StorageError, StreamPosition,
    codec::{KeyParts, key},
};

/// A piece that changed.
#[derive(Clone, Debug)]
pub struct Change {
    /// When.
    pub position: StreamPosition,
    /// Where; `None` for global.
    pub room_id: Option<OwnedRoomId>,
    /// The event type.
    pub kind: String,
}

fn row(user_id: &UserId, room_id: Option<&RoomId>, kind: &str) -> Vec<u8> {
    key().str(user_id).str(room_id.map_or("", RoomId::as_str)).str(kind).finish()
}

fn split(value: &[u8]) -> Result<(StreamPosition, Box<RawValue>), StorageError> {
    let (position, json) =
        value.split_first_chunk::<8>().ok_or(StorageError::BrokenKey { cf: Cf::AccountData.name() })?;
    let content = serde_json::from_slice(json)
        .map_err(|source| StorageError::BrokenValue { cf: Cf::AccountData.name(), source })?;
    Ok((StreamPosition(u64::from_be_bytes(*position)), content))
}

/// The content of one piece, and when it was set.
pub fn get(
    read: &impl Read,
    user_id: &UserId,
    room_id: Option<&RoomId>,
    kind: &str,
) -> Result<Option<(StreamPosition, Box<RawValue>)>, StorageError> {
    read.get(Cf::AccountData, &row(user_id, room_id, kind))?.map(|value| split(&value)).transpose()
}

/// Sets one piece. `previous` is when it was set before, as [`get`] said under
/// the writer's lock.
pub fn put(
    batch: &mut Batch,
    user_id: &UserId,
    room_id: Option<&RoomId>,
    kind: &str,
    content: &RawValue,
    previous: Option<StreamPosition>,
) -> StreamPosition {
    let room = room_id.map_or("", RoomId::as_str);
    let change = |position: StreamPosition| key().str(user_id).u64(position.0).str(room);
    if let Some(previous) = previous {
        batch.delete(Cf::AccountDataChanges, change(previous));
    }
    let position = batch.position();
    let mut value = position.0.to_be_bytes().to_vec();
    value.extend_from_slice(content.get().as_bytes());
    batch.put(Cf::AccountData, row(user_id, room_id, kind), value);
    batch.put(Cf::AccountDataChanges, change(position), kind);
    position
}

/// Whether a user has so many pieces, of all rooms and of none.
pub fn is_full(read: &impl Read, user_id: &UserId, pieces: usize) -> Result<bool, StorageError> {
    let full = Full { rows: pieces, bytes: usize::MAX };
    read.is_full(Cf::AccountDataChanges, key().str(user_id).as_ref(), full)
}

/// Forgets all of a user.
pub fn delete_all(batch: &mut Batch, user_id: &UserId) {
    batch.delete_prefix(Cf::AccountData, key().str(user_id));
    batch.delete_prefix(Cf::AccountDataChanges, key().str(user_id));
}

/// All pieces of one place, in order of type; at most `limit`.
pub fn all(
    read: &impl Read,
    user_id: &UserId,
    room_id: Option<&RoomId>,
    limit: usize,
) -> Result<Vec<(String, Box<RawValue>)>, StorageError> {
    let prefix = key().str(user_id).str(room_id.map_or("", RoomId::as_str));
    let rows = read.scan(Cf::AccountData, prefix.as_ref(), None, Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, value)| {
            let mut parts = KeyParts::new(Cf::AccountData, row);
            parts.str()?;
            parts.str()?;
            Ok((parts.str()?.to_owned(), split(value)?.1))
        })
        .collect()
}

/// What changed after `since` and up to `until`, in order; at most `limit`. A
/// piece is listed once, at its last change.
pub fn changes(
    read: &impl Read,
    user_id: &UserId,
    since: StreamPosition,
    until: StreamPosition,
    limit: usize,
) -> Result<Vec<Change>, StorageError> {
    let prefix = key().str(user_id);
    let from = prefix.clone().u64(since.0.saturating_add(1));
    let rows =
        read.scan(Cf::AccountDataChanges, prefix.as_ref(), Some(from.as_ref()), Direction::Forward, limit)?;
    let broken = || StorageError::BrokenKey { cf: Cf::AccountDataChanges.name() };
    let mut changes = Vec::with_capacity(rows.len());
    for (row, value) in rows {
        let mut parts = KeyParts::new(Cf::AccountDataChanges, &row);
        parts.str()?;
        let position = StreamPosition(parts.u64()?);
        if position > until {
            break;
        }
        let room_id = match parts.str()? {
            "" => None,
            room_id => Some(OwnedRoomId::try_from(room_id).map_err(|_| broken())?),
        };
        let kind = String::from_utf8(value).map_err(|_| broken())?;
        changes.push(Change { position, room_id, kind });
    }
    Ok(changes)
}

/// A filter that a client stored.
pub fn filter(
    read: &impl Read,
    user_id: &UserId,
    filter_id: &str,
) -> Result<Option<Box<RawValue>>, StorageError> {
    let stored = read.get(Cf::Filters, key().str(user_id).str(filter_id).as_ref())?;
    stored
        .map(|json| {
            serde_json::from_slice(&json)
                .map_err(|source| StorageError::BrokenValue { cf: Cf::Filters.name(), source })
        })
        .transpose()
}

/// Stores a filter.
pub fn put_filter(batch: &mut Batch, user_id: &UserId, filter_id: &str, filter: &RawValue) {
    batch.put(Cf::Filters, key().str(user_id).str(filter_id), filter.get());
}

/// A user's pushers as the client set them; at most `limit`.
pub fn pushers(read: &impl Read, user_id: &UserId, limit: usize) -> Result<Vec<Box<RawValue>>, StorageError> {
    let rows = read.scan(Cf::Pushers, key().str(user_id).as_ref(), None, Direction::Forward, limit)?;
    let parse = |(_, json): &(Vec<u8>, Vec<u8>)| {
        serde_json::from_slice(json)
            .map_err(|source| StorageError::BrokenValue { cf: Cf::Pushers.name(), source })
    };
    rows.iter().map(parse).collect()
}

/// Sets or, without `pusher`, deletes a pusher.
pub fn put_pusher(
    batch: &mut Batch,
    user_id: &UserId,
    app_id: &str,
    push_key: &str,
    pusher: Option<&RawValue>,
) {
    let row = key().str(user_id).str(app_id).str(push_key);
    match pusher {
        Some(pusher) => batch.put(Cf::Pushers, row, pusher.get()),
        None => batch.delete(Cf::Pushers, row),
    }
}
