//! What each device was given by /sync, as far as it acknowledged it.
//!
//! Not stored for each item: one row for the device, and for each room only
//! what was left out of it. The rules are in the service.

use ruma::{DeviceId, OwnedRoomId, RoomId, UserId};
use serde::{Deserialize, Serialize};

use crate::{Batch, Cf, Read, StorageError, codec};

use super::parts;

/// What a device was given of the whole stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRow {
    /// Stretches (after, up to] that it acknowledged, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given: Vec<(u64, u64)>,
    /// Answers that were sent and not acknowledged yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<Answer>,
}

/// One answer of /sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The position of its `since`; for an initial sync that of its `next_batch`.
    pub after: u64,
    /// The position of its `next_batch`.
    pub up_to: u64,
    /// What it left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<(OwnedRoomId, LeftOut)>,
}

/// A stretch (after, up to] of a room that a device was not given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Events after this position …
    pub after: u64,
    /// … up to this one.
    pub up_to: u64,
    /// The room state that it was given in their place: a root of the state tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// What a device was given of the stream.
pub fn device(db: &impl Read, user: &UserId, device: &DeviceId) -> Result<DeviceRow, StorageError> {
    let row = codec::get(db, Cf::SpaceDevices, &parts(&[user.as_str(), device.as_str()]))?;
    Ok(row.unwrap_or_default())
}

/// What was left out of a room for a device, oldest first.
pub fn left_out(
    db: &impl Read,
    user: &UserId,
    device: &DeviceId,
    room: &RoomId,
) -> Result<Vec<LeftOut>, StorageError> {
    let row = codec::get(db, Cf::SpaceDevices, &parts(&[user.as_str(), device.as_str(), room.as_str()]))?;
    Ok(row.unwrap_or_default())
}

/// Writes what a device was given of the stream.
pub fn put_device(batch: &mut Batch, user: &UserId, device: &DeviceId, row: &DeviceRow) {
    codec::put(batch, Cf::SpaceDevices, parts(&[user.as_str(), device.as_str()]), row);
}

/// Writes what was left out of a room for a device.
pub fn put_left_out(batch: &mut Batch, user: &UserId, device: &DeviceId, room: &RoomId, rows: &[LeftOut]) {
    codec::put(batch, Cf::SpaceDevices, parts(&[user.as_str(), device.as_str(), room.as_str()]), rows);
}

/// Forgets a device.
pub fn delete_device(batch: &mut Batch, user: &UserId, device: &DeviceId) {
    batch.delete_prefix(Cf::SpaceDevices, parts(&[user.as_str(), device.as_str()]));
}
