//! The progress of devices in storage: taking note of what they acknowledge and
//! of what they are told, and saying what they were given.
//!
//! The rules are in [`super::progress`]; this is their shell.

use std::sync::{Mutex, PoisonError};

use causeway_storage::{Database, StorageError, sliding, sync_progress as rows};
use ruma::{DeviceId, RoomId, UserId};

use super::{
    progress::{self, Acknowledgement, Given, Told},
    token::SyncToken,
};
use crate::{
    clock::Clock,
    room_view::RoomView,
    rooms::{RoomError, Rooms},
};

/// Connections of sliding sync that one device may have.
pub const CONNECTIONS_MAX: usize = 8;

/// What the device was given of the room, as far as it acknowledged it, by
/// /sync and by each connection of sliding sync. Conservative: see [`super::progress`].
///
/// An item event was given if, in any of these, its position is above `after` and
/// not above `up_to`, or if it is the item's event in `state`.
///
/// /sync tells nothing of a room that the user has left, though its position goes
/// on: who was not in the room at that position was given no stretch of it.
///
/// # Errors
/// When storage fails.
pub fn given(
    rooms: &Rooms,
    user_id: &UserId,
    device_id: &DeviceId,
    room_id: &RoomId,
) -> Result<Vec<Given>, RoomError> {
    let view = RoomView::new(rooms);
    let snapshot = view.database().snapshot();
    let mut given = Vec::new();
    if let Some(progress) = rows::progress(&snapshot, user_id, device_id)? {
        let room = rows::given_room(&snapshot, user_id, device_id, room_id)?;
        let root = view.root_at(room_id, progress.acknowledged.0)?;
        let was_in = root.map_or(Ok(false), |root| view.is_joined_in(&root, user_id))?;
        given.extend(
            progress::given(&progress, room)
                .map(|given| if was_in { given } else { Given { up_to: given.after, ..given } }),
        );
    }
    for (conn_id, connection) in sliding::connections(&snapshot, user_id, device_id, CONNECTIONS_MAX)? {
        if let Some(sent) = sliding::sent_room(&snapshot, user_id, device_id, &conn_id, room_id)? {
            let (after, up_to) = (sent.from.0, sent.until.unwrap_or(connection.position).0);
            given.push(Given { after, up_to: up_to.max(after), state: sent.state });
        }
    }
    Ok(given)
}

/// Writes the progress of devices.
pub(super) struct Devices {
    database: Database,
    /// The last generation handed out. Starts at the wall clock's microseconds,
    /// so that no generation of an earlier run comes again.
    generation: Mutex<u64>,
}

impl Devices {
    pub(super) fn new(database: Database, clock: &Clock) -> Self {
        Self { database, generation: Mutex::new(clock.now_ms().saturating_mul(1_000)) }
    }

    /// The device presents `since`.
    pub(super) fn acknowledge(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        since: SyncToken,
    ) -> Result<(), StorageError> {
        // One lock for all devices: held for a point read and an unsynced write.
        let writing = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        let mut progress = rows::progress(&self.database, user_id, device_id)?.unwrap_or_default();
        let mut batch = self.database.batch();
        let acknowledgement = progress::acknowledge(&mut progress, since);
        let mut is_step_back = true;
        match acknowledgement {
            Acknowledgement::Same => return Ok(()),
            Acknowledgement::Onward(rooms) => {
                is_step_back = false;
                for (room_id, given) in rooms {
                    rows::put_given_room(&mut batch, user_id, device_id, &room_id, Some(&given));
                }
            }
            Acknowledgement::Back(generation) => {
                let unknown = progress::unknown_room(&progress);
                for (room_id, given) in rows::given_rooms(&self.database, user_id, device_id)? {
                    if given.generation > generation {
                        rows::put_given_room(&mut batch, user_id, device_id, &room_id, Some(&unknown));
                    }
                }
            }
            Acknowledgement::Unknown => rows::forget_device(&mut batch, user_id, device_id),
            Acknowledgement::Afresh(rooms) => {
                rows::forget_device(&mut batch, user_id, device_id);
                for (room_id, given) in rooms {
                    rows::put_given_room(&mut batch, user_id, device_id, &room_id, Some(&given));
                }
            }
        }
        rows::put_progress(&mut batch, user_id, device_id, &progress);
        // Losing a step onward in a crash costs a false conflict at worst; losing
        // a step back could cost a write.
        let commit = self.database.commit(batch)?;
        drop(writing);
        if is_step_back {
            self.database.wait_durable(commit)?;
        }
        Ok(())
    }

    /// An answer to `since` is about to be sent; says the generation for its token.
    pub(super) fn answer(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        since: Option<SyncToken>,
        told: Vec<Told>,
    ) -> Result<u64, StorageError> {
        let mut generation = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        let mut progress = rows::progress(&self.database, user_id, device_id)?.unwrap_or_default();
        let mut known = std::collections::HashMap::new();
        for told in &told {
            if let Some(row) = rows::given_room(&self.database, user_id, device_id, &told.room_id)? {
                known.insert(told.room_id.clone(), row);
            }
        }
        let fresh = *generation + 1;
        let used = progress::answer(
            &mut progress,
            since,
            told,
            |room_id: &RoomId| known.get(room_id).cloned(),
            fresh,
        );
        if used == fresh {
            *generation = fresh;
            let mut batch = self.database.batch();
            rows::put_progress(&mut batch, user_id, device_id, &progress);
            let _unsynced = self.database.commit(batch)?;
        }
        Ok(used)
    }
}
