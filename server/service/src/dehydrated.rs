//! Dehydrated devices (MSC3814): a device that nobody is logged in to, kept by
//! the server in a form that only its owner can open, to which others send
//! their keys while the owner has no device.
//!
//! It is a device like others (its keys are told of, messages wait for it),
//! without tokens. Invariants: a user has at most one; it never takes the place
//! of a device that somebody is logged in to; one that is forgotten by its owner
//! ends.

use std::sync::{Arc, Mutex, PoisonError};

pub use causeway_storage::dehydrated::Dehydrated;
use causeway_storage::{Database, StreamPosition, dehydrated as rows, devices, to_device};
use ruma::{DeviceId, OwnedDeviceId, UserId};
use serde_json::value::RawValue;

use crate::{
    clock::Clock,
    devices::Devices,
    error::MatrixError,
    keys::{Keys, Uploaded},
    session::Session,
};

/// The closed form of a device, in bytes.
const DATA_BYTES_MAX: usize = 64 * 1024;

/// Messages in one answer.
const EVENTS_MAX: usize = 100;

/// How long one is kept that its owner neither replaces nor asks for, in
/// milliseconds. Nothing that others send to it ever leaves its queue, and what
/// comes after the queue is full is lost to it: then others do better to know that
/// it is gone.
const LIFETIME_MS: u64 = 180 * 24 * 60 * 60 * 1_000;

/// Owners that are looked at in one step.
const OWNERS_PAGE: usize = 100;

/// See the module.
pub struct DehydratedDevices {
    database: Database,
    clock: Clock,
    devices: Arc<Devices>,
    keys: Arc<Keys>,
    /// Held from reading a user's row until what follows from it is committed.
    writing: Mutex<()>,
}

/// Messages that wait for a dehydrated device.
#[derive(Debug)]
pub struct Waiting {
    /// In order.
    pub events: Vec<Box<RawValue>>,
    /// Where to go on.
    pub next_batch: String,
    /// Whether there is nothing after these.
    pub is_end: bool,
}

impl DehydratedDevices {
    /// Over these services.
    pub fn new(database: Database, clock: Clock, devices: Arc<Devices>, keys: Arc<Keys>) -> Self {
        Self { database, clock, devices, keys, writing: Mutex::default() }
    }

    /// Keeps a dehydrated device in place of the one before.
    ///
    /// # Errors
    /// 400 for keys that are not its own or for the id of another device, 413 for too much.
    pub fn put(
        &self,
        user_id: &UserId,
        device: &Dehydrated,
        name: Option<String>,
        keys: Uploaded,
    ) -> Result<OwnedDeviceId, MatrixError> {
        if device.data.get().len() > DATA_BYTES_MAX {
            return Err(MatrixError::too_large("The device is too large"));
        }
        if keys.device_keys.is_none() {
            return Err(MatrixError::new(400, "M_MISSING_PARAM", "There are no device keys"));
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let device_id = device.device_id.clone();
        let session = Session::of(user_id.to_owned(), device_id.clone());
        Keys::check(&session, &keys)?;
        let before = rows::dehydrated(&self.database, user_id)?.map(|before| before.device_id);
        if before.as_ref() != Some(&device_id) && self.devices.device(user_id, &device_id).is_ok() {
            return Err(MatrixError::invalid_param("There is a device of this id"));
        }
        if let Some(before) = before {
            self.devices.delete(user_id, &[before])?;
        }
        self.devices.add_without_session(user_id, &device_id, name)?;
        if let Err(error) = self.keys.upload(&session, keys) {
            self.devices.delete(user_id, &[device_id])?;
            return Err(error);
        }
        let mut batch = self.database.batch();
        rows::put_dehydrated(&mut batch, user_id, device);
        self.database.commit_durable(batch)?;
        Ok(device_id)
    }

    /// The user's dehydrated device, for its owner: that keeps it for longer.
    ///
    /// # Errors
    /// 404 when there is none.
    pub fn asked(&self, user_id: &UserId) -> Result<Dehydrated, MatrixError> {
        let held = self.held(user_id)?;
        let session = Session::of(user_id.to_owned(), held.device_id.clone());
        self.devices.seen(&session, None)?;
        Ok(held)
    }

    /// Deletes those that nobody has asked for in a long time; how many.
    ///
    /// # Errors
    /// Storage.
    pub(crate) fn forget_old(&self) -> Result<usize, MatrixError> {
        let (mut forgotten, mut after) = (0, None);
        loop {
            let page = rows::owners(&self.database, after.as_deref(), OWNERS_PAGE)?;
            for user_id in &page {
                forgotten += usize::from(self.forget_if_old(user_id)?);
            }
            if page.len() < OWNERS_PAGE {
                return Ok(forgotten);
            }
            after = page.into_iter().last();
        }
    }

    fn forget_if_old(&self, user_id: &UserId) -> Result<bool, MatrixError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(held) = rows::dehydrated(&self.database, user_id)? else { return Ok(false) };
        if let Some(device) = devices::device(&self.database, user_id, &held.device_id)? {
            if device.last_seen_ts.saturating_add(LIFETIME_MS) > self.clock.now_ms() {
                return Ok(false);
            }
            self.devices.delete(user_id, &[held.device_id])?;
        }
        let mut batch = self.database.batch();
        rows::delete_dehydrated(&mut batch, user_id);
        self.database.commit_durable(batch)?;
        Ok(true)
    }

    /// The user's dehydrated device.
    ///
    /// # Errors
    /// 404 when there is none.
    fn held(&self, user_id: &UserId) -> Result<Dehydrated, MatrixError> {
        let none = || MatrixError::not_found("There is no dehydrated device");
        let held = rows::dehydrated(&self.database, user_id)?.ok_or_else(none)?;
        // It may have been deleted as any device may.
        self.devices.device(user_id, &held.device_id).map_err(|_| none())?;
        Ok(held)
    }

    /// Deletes it; which one it was.
    ///
    /// # Errors
    /// 404 when there is none.
    pub fn delete(&self, user_id: &UserId) -> Result<OwnedDeviceId, MatrixError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.held(user_id)?;
        self.devices.delete(user_id, std::slice::from_ref(&held.device_id))?;
        let mut batch = self.database.batch();
        rows::delete_dehydrated(&mut batch, user_id);
        self.database.commit_durable(batch)?;
        Ok(held.device_id)
    }

    /// Messages for it after `since`, an earlier answer's `next_batch`. They stay
    /// until the device goes: whoever reads them may fail halfway.
    ///
    /// # Errors
    /// 403 for another device, 404 when there is none, 400 for another `since`.
    pub fn events(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        since: Option<&str>,
    ) -> Result<Waiting, MatrixError> {
        let held = self.asked(user_id)?;
        if held.device_id != device_id {
            return Err(MatrixError::forbidden("That is not the dehydrated device"));
        }
        let since = since.map_or(Ok(0), str::parse);
        let since = since.map_err(|_| MatrixError::invalid_param("Invalid `next_batch`"))?;
        let (from, until) = (StreamPosition(since), self.database.visible());
        let mut events = to_device::events(&self.database, user_id, device_id, from, until, EVENTS_MAX + 1)?;
        let is_end = events.len() <= EVENTS_MAX;
        events.truncate(EVENTS_MAX);
        let next_batch = events.last().map_or(since, |(position, _)| position.0).to_string();
        let events = events.into_iter().map(|(_, event)| event).collect();
        Ok(Waiting { events, next_batch, is_end })
    }
}
