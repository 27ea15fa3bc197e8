//! How far each device has come with /sync, what it was given of a room, and
//! what it read of a room's state besides.
//!
//! Only rows; the rules of what counts as given are in
//! `causeway_service::sync::progress`. A room gets a row only when something
//! happens that a position alone can't tell: the room is new to the device, a
//! gap, a filter.

use ruma::{DeviceId, OwnedEventId, OwnedRoomId, RoomId, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Cf, Direction, Read, StorageError, StreamPosition,
    codec::{self, KeyParts, key},
};

/// What a device was given of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenRoom {
    /// The generation of the device's tokens in which this came to hold.
    pub generation: u64,
    /// Hexadecimal root of a state whose item events the device was given, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Every item event of the timeline above this position was given too, up
    /// to the position that the device acknowledged.
    pub from: StreamPosition,
}

/// What an answer that is not acknowledged yet would make true.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingAnswer {
    /// The generation of its token.
    pub generation: u64,
    /// Set if nothing given before this position counts any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<StreamPosition>,
    /// The rooms of which it says something new.
    pub rooms: Vec<(OwnedRoomId, GivenRoom)>,
}

/// The progress of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The position of the last `since` that it presented.
    pub acknowledged: StreamPosition,
    /// The generation of the same.
    pub generation: u64,
    /// Generations that it acknowledged, oldest first, the present one last.
    pub lineage: Vec<u64>,
    /// For rooms without a row: everything above this position was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<StreamPosition>,
    /// Answers of new generations that it has not acknowledged, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<PendingAnswer>,
}

/// What a device read of a room's state by asking for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRead {
    /// Hexadecimal root of the state that it read whole last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// State keys of items, each with the event that was read last, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<(String, OwnedEventId)>,
}

/// The progress of a device; `None` before its first /sync.
pub fn progress(
    read: &(impl Read + ?Sized),
    user_id: &UserId,
    device_id: &DeviceId,
) -> Result<Option<Progress>, StorageError> {
    codec::get(read, Cf::SyncProgress, device(user_id, device_id).as_ref())
}

/// Writes it.
pub fn put_progress(batch: &mut Batch, user_id: &UserId, device_id: &DeviceId, progress: &Progress) {
    codec::put(batch, Cf::SyncProgress, device(user_id, device_id), progress);
}

/// What the device was given of the room, as acknowledged.
pub fn given_room(
    read: &(impl Read + ?Sized),
    user_id: &UserId,
    device_id: &DeviceId,
    room_id: &RoomId,
) -> Result<Option<GivenRoom>, StorageError> {
    codec::get(read, Cf::SyncGiven, device(user_id, device_id).str(room_id).as_ref())
}

/// The same for every room that has a row.
pub fn given_rooms(
    read: &(impl Read + ?Sized),
    user_id: &UserId,
    device_id: &DeviceId,
) -> Result<Vec<(OwnedRoomId, GivenRoom)>, StorageError> {
    let rows =
        read.scan(Cf::SyncGiven, device(user_id, device_id).as_ref(), None, Direction::Forward, usize::MAX)?;
    rows.iter()
        .map(|(row, value)| {
            let mut parts = KeyParts::new(Cf::SyncGiven, row);
            parts.str()?;
            parts.str()?;
            let room_id = RoomId::parse(parts.str()?);
            let room_id = room_id.map_err(|_| StorageError::BrokenKey { cf: Cf::SyncGiven.name() })?;
            Ok((room_id, codec::decode(Cf::SyncGiven, value)?))
        })
        .collect()
}

/// Writes what the device was given of a room; `None` forgets it.
pub fn put_given_room(
    batch: &mut Batch,
    user_id: &UserId,
    device_id: &DeviceId,
    room_id: &RoomId,
    given: Option<&GivenRoom>,
) {
    let row = device(user_id, device_id).str(room_id);
    match given {
        Some(given) => codec::put(batch, Cf::SyncGiven, row, given),
        None => batch.delete(Cf::SyncGiven, row),
    }
}

/// What the device read of a room's state.
pub fn state_read(
    read: &(impl Read + ?Sized),
    user_id: &UserId,
    device_id: &DeviceId,
    room_id: &RoomId,
) -> Result<Option<StateRead>, StorageError> {
    codec::get(read, Cf::SyncRead, device(user_id, device_id).str(room_id).as_ref())
}

/// Writes what the device read of a room's state.
pub fn put_state_read(
    batch: &mut Batch,
    user_id: &UserId,
    device_id: &DeviceId,
    room_id: &RoomId,
    row: &StateRead,
) {
    codec::put(batch, Cf::SyncRead, device(user_id, device_id).str(room_id), row);
}

/// Forgets a device, or all that it was given.
pub fn forget_device(batch: &mut Batch, user_id: &UserId, device_id: &DeviceId) {
    batch.delete(Cf::SyncProgress, device(user_id, device_id));
    batch.delete_prefix(Cf::SyncGiven, device(user_id, device_id));
    batch.delete_prefix(Cf::SyncRead, device(user_id, device_id));
}

fn device(user_id: &UserId, device_id: &DeviceId) -> codec::Key {
    key().str(user_id).str(device_id)
}
