//! Rows of dehydrated devices (MSC3814): one for each user who has one.

use ruma::{OwnedDeviceId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Batch, Cf, Read, StorageError,
    codec::{self, key},
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

/// Replaces it.
pub fn put_dehydrated(batch: &mut Batch, user_id: &UserId, device: &Dehydrated) {
    codec::put(batch, Cf::DehydratedDevices, key().str(user_id), device);
}

/// Forgets it.
pub fn delete_dehydrated(batch: &mut Batch, user_id: &UserId) {
    batch.delete(Cf::DehydratedDevices, key().str(user_id));
}
