//! Rooms whose join is being taken in piece by piece. What is there of one that has no
//! row of its own is nobody's: it is deleted when the join failed, or at the next start.
//!
//! Invariants: the mark is committed before the first piece, and goes with the batch that
//! makes the room; no reader takes what is there of a room without a row for a room.

use ruma::{OwnedEventId, OwnedRoomId, RoomId};

use super::{event_meta, members, purge::delete_where, put_remote_membership, room, room_id_part};
use crate::{
    Batch, Cf, Database, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
    rooms::EventMeta,
};

/// First part of the key of a mark in `Meta`.
const MARK: &str = "joining";
/// Rows that are deleted at once.
const PAGE: usize = 1_000;

/// Marks a room whose join is being taken in.
pub fn put_joining(batch: &mut Batch, room_id: &RoomId) {
    batch.put(Cf::Meta, key().str(MARK).str(room_id), []);
}

/// Takes the mark away.
pub fn delete_joining(batch: &mut Batch, room_id: &RoomId) {
    batch.delete(Cf::Meta, key().str(MARK).str(room_id));
}

/// Whether the room is marked.
pub fn is_joining(read: &(impl Read + ?Sized), room_id: &RoomId) -> Result<bool, StorageError> {
    Ok(read.get(Cf::Meta, key().str(MARK).str(room_id).as_ref())?.is_some())
}

/// Marked rooms, at most `limit`.
pub fn joining(read: &(impl Read + ?Sized), limit: usize) -> Result<Vec<OwnedRoomId>, StorageError> {
    let rows = read.scan(Cf::Meta, key().str(MARK).as_ref(), None, Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, _)| {
            let mut parts = KeyParts::new(Cf::Meta, row);
            parts.str()?;
            room_id_part(Cf::Meta, &mut parts)
        })
        .collect()
}

/// Deletes what is there of a room without a row, and its mark. Among `events` are its events
/// where that is known; else all events of the server are looked at.
///
/// Nodes of states stay: they are shared.
///
/// # Errors
/// The database failed; some of it may be gone, and the mark is not.
pub fn clear_joining(
    database: &Database,
    room_id: &RoomId,
    events: Option<&[OwnedEventId]>,
) -> Result<(), StorageError> {
    if room(database, room_id)?.is_none() {
        clear_members(database, room_id)?;
        let mut batch = database.batch();
        batch.delete_prefix(Cf::CurrentState, key().str(room_id));
        batch.delete_prefix(Cf::JoinedServers, key().str(room_id));
        let _synced_by_the_last = database.commit(batch)?;
        if let Some(events) = events {
            clear_events(database, room_id, events)?;
        } else {
            let is_of_room = |_: &[u8], value: &[u8]| {
                Ok(codec::decode::<EventMeta>(Cf::EventMeta, value)?.room_id == room_id)
            };
            delete_where(database, Cf::EventMeta, is_of_room, |batch, row| batch.delete(Cf::Pdus, row))?;
        }
    }
    let mut batch = database.batch();
    delete_joining(&mut batch, room_id);
    database.commit_durable(batch)?;
    Ok(())
}

fn clear_members(database: &Database, room_id: &RoomId) -> Result<(), StorageError> {
    let mut after = None;
    loop {
        let page = members(database, room_id, after.as_deref(), PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        let mut batch = database.batch();
        for (user_id, _) in &page {
            batch.delete(Cf::RoomMembers, key().str(room_id).str(user_id));
            put_remote_membership(&mut batch, user_id, room_id, false);
        }
        let _synced_by_the_last = database.commit(batch)?;
    }
}

fn clear_events(database: &Database, room_id: &RoomId, events: &[OwnedEventId]) -> Result<(), StorageError> {
    for some in events.chunks(PAGE) {
        let mut batch = database.batch();
        for event_id in some {
            // Another server said that they are of this room.
            if event_meta(database, event_id)?.is_some_and(|meta| meta.room_id == *room_id) {
                batch.delete(Cf::EventMeta, key().str(event_id));
                batch.delete(Cf::Pdus, key().str(event_id));
            }
        }
        let _synced_by_the_last = database.commit(batch)?;
    }
    Ok(())
}
