//! Items: what the logs say now about each key. Derived, in the batch of the
//! change that altered it.
//!
//! Invariant: the siblings of an item are its effective changes that no
//! effective change names; the successor rows hold every naming, also of ids
//! that are not held yet, so that the order of arrival does not matter.

use std::collections::BTreeMap;

use causeway_shared_space::{ChangeId, Item};
use ruma::{OwnedEventId, RoomId};
use serde::{Deserialize, Serialize};

use super::{key_with_id, parts, trailing_id};
use crate::{Batch, Cf, Direction, Read, StorageError, codec};

/// What the logs say now about one key, and what only this server knows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemRow {
    /// Its live changes.
    pub item: Item,
    /// What only this server knows of them, by item id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub local: BTreeMap<ChangeId, LocalRow>,
    /// Changes that are live no more and that a device may have been given last, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past: Vec<PastRow>,
    /// Since when an id is missing (ms since the epoch).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_since: Option<u64>,
}

/// How a live change came to be here, and how it went to clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalRow {
    /// The device that wrote it, if it was written here: `user|device`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The room events that carried it, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faces: Vec<FaceRow>,
    /// How often it was put into room state again because something else stood there.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub projected_again: u32,
}

/// A change that was live, and how it had gone to clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastRow {
    /// Its item id.
    pub id: ChangeId,
    /// The device that wrote it, if that has not written the item since: `user|device`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The last room events that carried it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faces: Vec<FaceRow>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// A room event that carried a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaceRow {
    /// The event.
    pub event_id: OwnedEventId,
}

/// An item's row.
pub fn item(db: &impl Read, room: &RoomId, key: &str) -> Result<Option<ItemRow>, StorageError> {
    codec::get(db, Cf::SpaceItems, &item_key(room, key))
}

/// The key is not terminated, so that items lie in the order of their keys' bytes.
fn item_key(room: &RoomId, key: &str) -> Vec<u8> {
    let mut row = parts(&[room.as_str()]);
    row.extend_from_slice(key.as_bytes());
    row
}

/// Items whose key begins with `prefix` and is greater than `after`, in the order of their keys' bytes.
pub fn items(
    db: &impl Read,
    room: &RoomId,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, ItemRow)>, StorageError> {
    let room_prefix = parts(&[room.as_str()]).len();
    // One byte more is past `after` and before every other key that begins with it.
    let from = after.map(|after| {
        let mut from = item_key(room, after);
        from.push(0);
        from
    });
    let rows =
        db.scan(Cf::SpaceItems, &item_key(room, prefix), from.as_deref(), Direction::Forward, limit)?;
    rows.iter()
        .map(|(key, row)| {
            Ok((
                String::from_utf8_lossy(&key[room_prefix..]).into_owned(),
                codec::decode(Cf::SpaceItems, row)?,
            ))
        })
        .collect()
}

/// Writes an item's row.
pub fn put_item(batch: &mut Batch, room: &RoomId, key: &str, row: &ItemRow) {
    codec::put(batch, Cf::SpaceItems, item_key(room, key), row);
}

/// Notes that `successor` names `named`, held or not.
pub fn put_successor(batch: &mut Batch, room: &RoomId, key: &str, named: &ChangeId, successor: &ChangeId) {
    let mut row = key_with_id(&[room.as_str(), key], named);
    row.extend_from_slice(successor.as_bytes());
    batch.put(Cf::SpaceSuccessors, row, []);
}

/// Up to `limit` effective changes that name `named`.
pub fn successors(
    db: &impl Read,
    room: &RoomId,
    key: &str,
    named: &ChangeId,
    limit: usize,
) -> Result<Vec<ChangeId>, StorageError> {
    let prefix = key_with_id(&[room.as_str(), key], named);
    let rows = db.scan(Cf::SpaceSuccessors, &prefix, None, Direction::Forward, limit)?;
    Ok(rows.iter().filter_map(|(key, _)| trailing_id(key)).collect())
}

/// The entries that adopt an event, by the item id that they share.
pub fn adoptions(
    db: &impl Read,
    room: &RoomId,
    item_id: &ChangeId,
    limit: usize,
) -> Result<Vec<ChangeId>, StorageError> {
    let prefix = key_with_id(&[room.as_str()], item_id);
    let rows = db.scan(Cf::SpaceAdoptions, &prefix, None, Direction::Forward, limit)?;
    Ok(rows.iter().filter_map(|(key, _)| trailing_id(key)).collect())
}

/// Of what the adoption `id` names, what it ends; `None` for one that is not
/// known, or is of a time when all that it names counted.
pub fn adoption_ends(
    db: &impl Read,
    room: &RoomId,
    item_id: &ChangeId,
    id: &ChangeId,
) -> Result<Option<Vec<ChangeId>>, StorageError> {
    match db.get(Cf::SpaceAdoptions, &adoption_key(room, item_id, id))? {
        Some(row) if !row.is_empty() => codec::decode(Cf::SpaceAdoptions, &row).map(Some),
        _ => Ok(None),
    }
}

/// Notes that the entry `id` adopts an event, and what it ends.
pub fn put_adoption(batch: &mut Batch, room: &RoomId, item_id: &ChangeId, id: &ChangeId, ends: &[ChangeId]) {
    codec::put(batch, Cf::SpaceAdoptions, adoption_key(room, item_id, id), &ends);
}

fn adoption_key(room: &RoomId, item_id: &ChangeId, id: &ChangeId) -> Vec<u8> {
    let mut key = key_with_id(&[room.as_str()], item_id);
    key.extend_from_slice(id.as_bytes());
    key
}

/// Adds a change to its item's history; `at` is when it came (ms since the epoch).
pub fn put_history(batch: &mut Batch, room: &RoomId, key: &str, at: u64, id: &ChangeId) {
    batch.put(Cf::SpaceHistory, history_key(room, key, at, Some(id)), []);
}

/// Up to `limit` changes of an item, latest arrival first, before the one that came as `before`.
pub fn history(
    db: &impl Read,
    room: &RoomId,
    key: &str,
    before: Option<(u64, ChangeId)>,
    limit: usize,
) -> Result<Vec<(u64, ChangeId)>, StorageError> {
    let prefix = parts(&[room.as_str(), key]);
    let from = before.map(|(at, id)| history_key(room, key, at, Some(&id)));
    let rows =
        db.scan(Cf::SpaceHistory, &prefix, from.as_deref(), Direction::Backward, limit.saturating_add(1))?;
    Ok(rows
        .iter()
        .filter(|(key, _)| from.as_deref() != Some(key.as_slice()))
        .filter_map(|(key, _)| {
            let at = key.get(prefix.len()..prefix.len() + 8)?.try_into().ok().map(u64::from_be_bytes)?;
            Some((at, trailing_id(key)?))
        })
        .take(limit)
        .collect())
}

fn history_key(room: &RoomId, key: &str, at: u64, id: Option<&ChangeId>) -> Vec<u8> {
    let mut row = parts(&[room.as_str(), key]);
    row.extend_from_slice(&at.to_be_bytes());
    row.extend(id.into_iter().flat_map(ChangeId::as_bytes));
    row
}
