//! End-to-end encryption keys: upload, query, claim; signatures are checked
//! before a key is stored.

use causeway_storage::{Batch, Database, StorageError, keys as rows, to_device};
use ruma::{DeviceId, UserId};

use crate::notify::Topic;

/// Deletes what belongs to a device beside its row; whether it had keys.
pub(crate) fn delete_device(
    database: &Database,
    batch: &mut Batch,
    user_id: &UserId,
    device_id: &DeviceId,
) -> Result<bool, StorageError> {
    let had_keys = rows::device_keys(database, user_id, device_id)?.is_some();
    rows::delete_device_keys(batch, user_id, device_id);
    to_device::delete_all(batch, user_id, device_id);
    Ok(had_keys)
}

/// Notes in the batch that a user's keys changed; the topics to notify of after it.
pub(crate) fn mark_changed(batch: &mut Batch, user_id: &UserId) -> Vec<Topic> {
    let position = batch.position();
    rows::put_key_change(batch, position, user_id);
    vec![Topic::User(user_id.to_owned()), Topic::Stream]
}
