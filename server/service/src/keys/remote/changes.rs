//! What other servers tell of changes of their users' keys.

use causeway_storage::{Batch, device_lists as lists, key_changes};
use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{device, drop_ambiguous, is_small, set_cross_signing, text};
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

/// What follows from a change.
#[derive(Clone, Copy, Default)]
struct Outcome {
    /// The users here are to look at the keys again.
    tell: bool,
    /// The list is to be fetched.
    fetch: bool,
}

impl Keys {
    /// A device of a user of another server changed, as that server says.
    ///
    /// # Errors
    /// 403 for a user with whom no room is shared.
    pub fn device_changed(&self, update: &DeviceUpdate) -> Result<(), MatrixError> {
        let user_id = &update.user_id;
        self.changed(user_id, |batch| {
            if lists::stale(&self.database, user_id)?.is_some() {
                return self.to_fetch(batch, user_id);
            }
            let Some(mut list) = lists::remote(&self.database, user_id)? else {
                return Ok(Outcome { tell: true, fetch: false });
            };
            if update.stream_id == list.stream_id {
                return Ok(Outcome::default());
            }
            let previous = &update.prev_id[..update.prev_id.len().min(PREVIOUS_MAX)];
            let follows = !previous.is_empty() && previous.iter().all(|previous| *previous == list.stream_id);
            if !follows {
                return self.to_fetch(batch, user_id);
            }
            list.stream_id = update.stream_id;
            let (device_id, name) = (update.device_id.as_str(), update.device_display_name.as_deref());
            let keys = update.keys.as_ref().filter(|_| !update.deleted);
            let before = list.devices.remove(device_id);
            if let Some(keys) = keys.and_then(|keys| device(user_id, device_id, keys, name)) {
                list.devices.insert(device_id.to_owned(), keys);
            }
            drop_ambiguous(&mut list);
            if is_small(&list) {
                lists::put_remote(batch, user_id, &list);
            } else {
                lists::delete_remote(batch, user_id);
            }
            let after = list.devices.get(device_id);
            let tell = before.as_deref().map(RawValue::get) != after.map(|keys| keys.get());
            Ok(Outcome { tell, fetch: false })
        })
    }

    /// Cross-signing keys of a user of another server changed, as that server says.
    ///
    /// # Errors
    /// 403 for a user with whom no room is shared.
    pub fn cross_signing_changed(&self, update: &CrossSigningUpdate) -> Result<(), MatrixError> {
        let user_id = &update.user_id;
        self.changed(user_id, |batch| {
            let mut outcome = Outcome::default();
            if lists::stale(&self.database, user_id)?.is_some() {
                outcome = self.to_fetch(batch, user_id)?;
            }
            let Some(list) = lists::remote(&self.database, user_id)? else {
                outcome.tell |= !outcome.fetch;
                return Ok(outcome);
            };
            let (master, own) = (update.master_key.as_ref(), update.self_signing_key.as_ref());
            let mut after = list.clone();
            set_cross_signing(user_id, &mut after, master, own);
            if text(&list) == text(&after) {
                return Ok(outcome);
            }
            lists::put_remote(batch, user_id, &after);
            outcome.tell |= !outcome.fetch;
            Ok(outcome)
        })
    }

    /// Notes that keys of a user of another server changed, with what `work`
    /// makes of it. What changes nothing writes nothing and wakes nobody.
    fn changed(
        &self,
        user_id: &UserId,
        work: impl FnOnce(&mut Batch) -> Result<Outcome, MatrixError>,
    ) -> Result<(), MatrixError> {
        let writing = self.lock();
        let sharing = self.rooms.lock_sharing();
        let mut batch = self.database.batch();
        let rooms = self.rooms.shared_rooms(user_id)?;
        if rooms.is_empty() {
            if lists::is_known(&self.database, user_id)? {
                lists::delete_remote(&mut batch, user_id);
                let _unsynced = self.database.commit(batch)?;
            }
            return Err(MatrixError::forbidden("No room is shared with that user"));
        }
        let outcome = work(&mut batch)?;
        if outcome.tell {
            key_changes::put(&self.database, &mut batch, user_id, None)?;
        }
        if batch.is_empty() {
            return Ok(());
        }
        let commit = self.database.commit(batch)?;
        drop(sharing);
        drop(writing);
        self.database.wait_durable(commit)?;
        let mut topics = Vec::new();
        if outcome.tell {
            topics.extend(rooms.into_iter().map(Topic::Room).chain([Topic::Stream]));
        }
        topics.extend(outcome.fetch.then_some(Topic::DeviceLists));
        self.notifier.notify(&topics);
        Ok(())
    }

    /// Has a list fetched, once more if it is being fetched, perhaps for the first
    /// time: that may not have the change.
    fn to_fetch(&self, batch: &mut Batch, user_id: &UserId) -> Result<Outcome, MatrixError> {
        let tell = lists::mark_changed(&self.database, batch, user_id)?;
        Ok(Outcome { tell, fetch: true })
    }
}
