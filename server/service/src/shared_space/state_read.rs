//! What a device read of room state by asking for it, and so supersedes.
//!
//! A row for each device and room, small and bounded; what is forgotten counts
//! as not read. Nobody acknowledges an answer to such a question, so it counts
//! as read when it was asked for: who asks waits for the answer before he writes.

use causeway_storage::sync_progress::{self as rows, StateRead};
use ruma::{DeviceId, EventId, OwnedEventId, RoomId, UserId};

use super::{SharedSpace, error::SpaceError, read};

/// Items that are remembered of one device and room, those read last.
const ITEMS_MAX: usize = 64;

impl SharedSpace {
    /// A device was answered with an item's state event.
    ///
    /// # Errors
    /// Storage failed.
    pub fn note_item_read(
        &self,
        user: &UserId,
        device: &DeviceId,
        room: &RoomId,
        key: &str,
        event_id: &EventId,
    ) -> Result<(), SpaceError> {
        self.note_read(user, device, room, |row| {
            row.items.retain(|(known, _)| known != key);
            row.items.push((key.to_owned(), event_id.to_owned()));
            let surplus = row.items.len().saturating_sub(ITEMS_MAX);
            row.items.drain(..surplus);
        })
    }

    /// A device was answered with all of the room's state, at least as it was at `root`.
    ///
    /// # Errors
    /// Storage failed.
    pub fn note_state_read(
        &self,
        user: &UserId,
        device: &DeviceId,
        room: &RoomId,
        root: &causeway_room::Root,
    ) -> Result<(), SpaceError> {
        if !read::has_changes(&self.db, room)? || !self.rooms.is_joined(room, user)? {
            return Ok(());
        }
        self.note_read(user, device, room, |row| {
            *row = StateRead { root: Some(hex::encode(root.0)), items: Vec::new() };
        })
    }

    fn note_read(
        &self,
        user: &UserId,
        device: &DeviceId,
        room: &RoomId,
        change: impl FnOnce(&mut StateRead),
    ) -> Result<(), SpaceError> {
        let before = rows::state_read(&self.db, user, device, room)?.unwrap_or_default();
        let mut row = before.clone();
        change(&mut row);
        if row != before {
            let mut batch = self.db.batch();
            rows::put_state_read(&mut batch, user, device, room, &row);
            // Losing it in a crash costs a false conflict.
            let _unsynced = self.db.commit(batch)?;
        }
        Ok(())
    }

    /// The events of an item that a device read.
    pub(super) fn read_by_device(
        &self,
        room: &RoomId,
        key: &str,
        user: &UserId,
        device: &DeviceId,
    ) -> Result<Vec<OwnedEventId>, SpaceError> {
        let Some(row) = rows::state_read(&self.db, user, device, room)? else { return Ok(Vec::new()) };
        let mut events: Vec<OwnedEventId> =
            row.items.into_iter().filter(|(read, _)| read == key).map(|(_, event)| event).collect();
        if let Some(root) = row.root.as_deref() {
            events.extend(self.rooms.item_at(root, key)?);
        }
        Ok(events)
    }
}
