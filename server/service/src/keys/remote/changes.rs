//! What other servers tell of changes of their users' keys.

use causeway_storage::{Batch, device_lists as lists, keys as rows};
use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::Value;

use super::{device, is_small, set_cross_signing};
use crate::{error::MatrixError, keys::Keys, notify::Topic};

/// Changes before one that are looked at.
const PREVIOUS_MAX: usize = 100;

/// The content of `m.device_list_update`.
#[derive(Debug, Deserialize)]
pub struct DeviceUpdate {
    /// Whose device.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// Its name.
    #[serde(default)]
    pub device_display_name: Option<String>,
    /// The number of the change.
    pub stream_id: u64,
    /// The numbers of those before it.
    #[serde(default)]
    pub prev_id: Vec<u64>,
    /// Whether the device is gone.
    #[serde(default)]
    pub deleted: bool,
    /// Its keys.
    #[serde(default)]
    pub keys: Option<Value>,
}

/// The content of `m.signing_key_update`.
#[derive(Debug, Deserialize)]
pub struct CrossSigningUpdate {
    /// Whose keys.
    pub user_id: OwnedUserId,
    /// The master key.
    #[serde(default)]
    pub master_key: Option<Value>,
    /// The self-signing key.
    #[serde(default)]
    pub self_signing_key: Option<Value>,
}

impl Keys {
    /// A device of a user of another server changed, as that server says.
    ///
    /// # Errors
    /// 403 for a user with whom no room is shared.
    pub fn device_changed(&self, update: &DeviceUpdate) -> Result<(), MatrixError> {
        let user_id = &update.user_id;
        self.changed(user_id, |batch| {
            if self.is_marked_again(batch, user_id)? {
                return Ok(true);
            }
            let Some(mut list) = lists::remote(&self.database, user_id)? else { return Ok(false) };
            if update.stream_id == list.stream_id {
                return Ok(false);
            }
            let previous = &update.prev_id[..update.prev_id.len().min(PREVIOUS_MAX)];
            let follows = !previous.is_empty() && previous.iter().all(|previous| *previous == list.stream_id);
            if !follows {
                lists::mark(&self.database, batch, user_id)?;
                return Ok(true);
            }
            list.stream_id = update.stream_id;
            let (device_id, name) = (update.device_id.as_str(), update.device_display_name.as_deref());
            let keys = update.keys.as_ref().filter(|_| !update.deleted);
            match keys.and_then(|keys| device(user_id, device_id, keys, name)) {
                Some(keys) => drop(list.devices.insert(device_id.to_owned(), keys)),
                None => drop(list.devices.remove(device_id)),
            }
            if is_small(&list) {
                lists::put_remote(batch, user_id, &list);
            } else {
                lists::delete_remote(batch, user_id);
            }
            Ok(false)
        })
    }

    /// Cross-signing keys of a user of another server changed, as that server says.
    ///
    /// # Errors
    /// 403 for a user with whom no room is shared.
    pub fn cross_signing_changed(&self, update: &CrossSigningUpdate) -> Result<(), MatrixError> {
        let user_id = &update.user_id;
        self.changed(user_id, |batch| {
            let is_stale = self.is_marked_again(batch, user_id)?;
            let Some(mut list) = lists::remote(&self.database, user_id)? else { return Ok(is_stale) };
            let (master, own) = (update.master_key.as_ref(), update.self_signing_key.as_ref());
            set_cross_signing(user_id, &mut list, master, own);
            lists::put_remote(batch, user_id, &list);
            Ok(is_stale)
        })
    }

    /// Notes that keys of a user of another server changed, with what `work`
    /// makes of it; `work` answers whether the list is to be fetched.
    fn changed(
        &self,
        user_id: &UserId,
        work: impl FnOnce(&mut Batch) -> Result<bool, MatrixError>,
    ) -> Result<(), MatrixError> {
        let writing = self.lock();
        let sharing = self.rooms.lock_sharing();
        let mut batch = self.database.batch();
        let rooms = self.rooms.shared_rooms(user_id)?;
        if rooms.is_empty() {
            lists::delete_remote(&mut batch, user_id);
            let _unsynced = self.database.commit(batch)?;
            return Err(MatrixError::forbidden("No room is shared with that user"));
        }
        let is_stale = work(&mut batch)?;
        let position = batch.position();
        rows::put_key_change(&mut batch, position, user_id, None);
        let commit = self.database.commit(batch)?;
        drop(sharing);
        drop(writing);
        self.database.wait_durable(commit)?;
        let mut topics: Vec<Topic> = rooms.into_iter().map(Topic::Room).collect();
        topics.extend([Topic::Stream].into_iter().chain(is_stale.then_some(Topic::DeviceLists)));
        self.notifier.notify(&topics);
        Ok(())
    }

    /// Whether a user's list is to be fetched, and if so marks it again: what is
    /// being fetched now, perhaps for the first time, may not have the change.
    fn is_marked_again(&self, batch: &mut Batch, user_id: &UserId) -> Result<bool, MatrixError> {
        let is_stale = lists::stale(&self.database, user_id)?.is_some();
        if is_stale {
            lists::mark(&self.database, batch, user_id)?;
        }
        Ok(is_stale)
    }
}
