//! Rows of dehydrated devices (MSC3814): one for each user who has one.

use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
};

/// A device that only its owner can open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dehydrated {
    /// Which one.
    pub device_id: OwnedDeviceId,
    /// Its closed form, as uploaded.
    pub data: Box<RawValue>,
}

/// A user's dehydrated device.
pub fn dehydrated(read: &impl Read, user_id: &UserId) -> Result<Option<Dehydrated>, StorageError> {
    codec::get(read, Cf::DehydratedDevices, key().str(user_id).as_ref())
}

/// Users after `after`, in order, who have one; at most `limit`.
pub fn owners(
    read: &impl Read,
    after: Option<&UserId>,
    limit: usize,
) -> Result<Vec<OwnedUserId>, StorageError> {
    let from = after.map(|user_id| key().str(user_id).bytes(&[0]).finish());
    let rows = read.scan(Cf::DehydratedDevices, b"", from.as_deref(), Direction::Forward, limit)?;
    let broken = |_| StorageError::BrokenKey { cf: Cf::DehydratedDevices.name() };
    let owner =
        |row: &[u8]| OwnedUserId::try_from(KeyParts::new(Cf::DehydratedDevices, row).str()?).map_err(broken);
    rows.iter().map(|(row, _)| owner(row)).collect()
}

/// Replaces it.
pub fn put_dehydrated(batch: &mut Batch, user_id: &UserId, device: &Dehydrated) {
    codec::put(batch, Cf::DehydratedDevices, key().str(user_id), device);
}

/// Forgets it.
pub fn delete_dehydrated(batch: &mut Batch, user_id: &UserId) {
    batch.delete(Cf::DehydratedDevices, key().str(user_id));
}
