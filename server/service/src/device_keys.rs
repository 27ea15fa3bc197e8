//! What devices and their keys are to each other, where both are decided on: the
//! rows of one change with those of the other.
//!
//! Not the devices ([`crate::devices`]) and not the keys ([`crate::keys`]): both
//! stand on this.

use causeway_storage::{
    Batch, Read, StorageError,
    keys::{self as rows, CrossSigningKind},
    to_device,
};
use ruma::{DeviceId, UserId};
use serde_json::Value;

/// Whether this is the public half of a cross-signing key of the user. Device
/// keys and cross-signing keys are named in one namespace (client-server API,
/// "Cross-signing").
pub(crate) fn is_cross_signing_key(
    read: &impl Read,
    user_id: &UserId,
    public: &str,
) -> Result<bool, StorageError> {
    use CrossSigningKind::{Master, SelfSigning, UserSigning};
    for kind in [Master, SelfSigning, UserSigning] {
        let Some(key) = rows::cross_signing_key(read, user_id, kind)? else { continue };
        let key: Value = serde_json::from_str(key.get()).unwrap_or_default();
        if key["keys"].as_object().is_some_and(|keys| keys.values().any(|key| key == public)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Deletes what belongs to a device beside its row; whether it had keys.
pub(crate) fn delete_device(
    read: &impl Read,
    batch: &mut Batch,
    user_id: &UserId,
    device_id: &DeviceId,
) -> Result<bool, StorageError> {
    let had_keys = rows::device_keys(read, user_id, device_id)?.is_some();
    rows::delete_device_keys(batch, user_id, device_id);
    to_device::delete_all(batch, user_id, device_id);
    Ok(had_keys)
}
