//! Conflicts that were told, the messages that told them, and which room events
//! became changes.

use causeway_shared_space::ChangeId;
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId};
use serde::{Deserialize, Serialize};

use super::{last_text, parts};
use crate::{Batch, Cf, Direction, Read, StorageError, codec};

/// What is known of the conflict that an item is in, or was in last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictRow {
    /// Hash of the sorted sibling ids.
    pub id: String,
    /// Those ids, in display order.
    pub siblings: Vec<ChangeId>,
    /// When it was seen here (ms since the epoch).
    pub since: u64,
    /// The notice that stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<OwnedEventId>,
}

/// A message in the room that tells of a conflict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeRow {
    /// The conflict's id.
    pub conflict: String,
    /// The item; [`unresolved_key`] while none of the siblings is held and the
    /// message does not say.
    pub key: String,
    /// The siblings in the order of their numbers; never renumbered.
    pub siblings: Vec<ChangeId>,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// In a message that tells several conflicts: the authors in the order of
    /// their numbers. Empty in a notice of one conflict.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authors: Vec<OwnedUserId>,
    /// What it has been edited to say, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// The open or last conflict of an item.
pub fn conflict(db: &impl Read, room: &RoomId, key: &str) -> Result<Option<ConflictRow>, StorageError> {
    codec::get(db, Cf::SpaceConflicts, &parts(&[room.as_str(), key]))
}

/// Up to `limit` open conflicts of a room after the item `after`.
pub fn conflicts(
    db: &impl Read,
    room: &RoomId,
    limit: usize,
) -> Result<Vec<(String, ConflictRow)>, StorageError> {
    let rows = db.scan(Cf::SpaceConflicts, &parts(&[room.as_str()]), None, Direction::Forward, limit)?;
    rows.iter()
        .map(|(key, row)| Ok((last_text(Cf::SpaceConflicts, key)?, codec::decode(Cf::SpaceConflicts, row)?)))
        .collect()
}

/// Keeps what is known of an item's conflict.
pub fn put_conflict(batch: &mut Batch, room: &RoomId, key: &str, row: &ConflictRow) {
    codec::put(batch, Cf::SpaceConflicts, parts(&[room.as_str(), key]), row);
}

/// The item is in conflict no more.
pub fn delete_conflict(batch: &mut Batch, room: &RoomId, key: &str) {
    batch.delete(Cf::SpaceConflicts, parts(&[room.as_str(), key]));
}

/// What stands for the item's key in a notice of which only the conflict is
/// known. No item's key begins with `@`.
pub fn unresolved_key(conflict: &str) -> String {
    format!("@{conflict}")
}

/// Up to `limit` conflicts that this event tells: one row for a notice, one for
/// each conflict of a message that tells several.
pub fn notices_at(
    db: &impl Read,
    room: &RoomId,
    event: &EventId,
    limit: usize,
) -> Result<Vec<NoticeRow>, StorageError> {
    let prefix = parts(&[room.as_str(), event.as_str()]);
    let rows = db.scan(Cf::SpaceNotices, &prefix, None, Direction::Forward, limit)?;
    rows.iter().map(|(_, row)| codec::decode(Cf::SpaceNotices, row)).collect()
}

/// Keeps a notice.
pub fn put_notice(batch: &mut Batch, room: &RoomId, event: &EventId, row: &NoticeRow) {
    let suffix = if row.authors.is_empty() { "" } else { &row.conflict };
    codec::put(batch, Cf::SpaceNotices, notice_key(room, event, suffix), row);
    batch.put(Cf::SpaceItemNotices, parts(&[room.as_str(), &row.key, event.as_str()]), suffix.as_bytes());
}

/// Forgets a notice: choices that point to it mean nothing from then on.
pub fn delete_notice(batch: &mut Batch, room: &RoomId, event: &EventId, row: &NoticeRow) {
    let suffix = if row.authors.is_empty() { "" } else { &row.conflict };
    batch.delete(Cf::SpaceNotices, notice_key(room, event, suffix));
    batch.delete(Cf::SpaceItemNotices, parts(&[room.as_str(), &row.key, event.as_str()]));
}

/// `suffix` is the conflict's id in a message that tells several, else empty.
fn notice_key(room: &RoomId, event: &EventId, suffix: &str) -> Vec<u8> {
    match suffix {
        "" => parts(&[room.as_str(), event.as_str()]),
        conflict => parts(&[room.as_str(), event.as_str(), conflict]),
    }
}

/// Up to `limit` notices about an item.
pub fn notices_of(
    db: &impl Read,
    room: &RoomId,
    key: &str,
    limit: usize,
) -> Result<Vec<(OwnedEventId, NoticeRow)>, StorageError> {
    let rows =
        db.scan(Cf::SpaceItemNotices, &parts(&[room.as_str(), key]), None, Direction::Forward, limit)?;
    let mut notices = Vec::with_capacity(rows.len());
    for (row, suffix) in rows {
        let Ok(event) = OwnedEventId::try_from(last_text(Cf::SpaceItemNotices, &row)?) else { continue };
        let key = notice_key(room, &event, &String::from_utf8_lossy(&suffix));
        if let Some(row) = codec::get(db, Cf::SpaceNotices, &key)? {
            notices.push((event, row));
        }
    }
    Ok(notices)
}

/// The change that a room event became or carried.
pub fn change_of_event(
    db: &impl Read,
    room: &RoomId,
    event: &EventId,
) -> Result<Option<ChangeId>, StorageError> {
    Ok(db
        .get(Cf::SpaceEvents, &parts(&[room.as_str(), event.as_str()]))?
        .and_then(|row| row.as_slice().try_into().ok())
        .map(ChangeId::from_bytes))
}

/// Notes which change a room event became or carried.
pub fn put_change_of_event(batch: &mut Batch, room: &RoomId, event: &EventId, id: &ChangeId) {
    batch.put(Cf::SpaceEvents, parts(&[room.as_str(), event.as_str()]), id.as_bytes());
}
