//! End-to-end encryption keys of local users: upload, query, claim,
//! cross-signing.
//!
//! This server reads no secret and judges no trust; it only refuses what its
//! clients would have to refuse. Invariants:
//! - no key and no signature is stored whose signature doesn't verify;
//! - a one-time key is given away once.
//!
//! Signatures are in [`signatures`], the keys of other servers' users in [`remote`].

mod checks;
pub mod remote;
mod signatures;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use causeway_storage::keys::CrossSigningKind;
use causeway_storage::{
    Batch, Database, device_lists, devices,
    keys::{self as rows, FallbackKey, ONE_TIME_KEYS_MAX},
};
use ruma::{DeviceId, OwnedUserId, ServerName, UserId};
use serde_json::{Map, Value, value::RawValue};

use self::checks::{
    bounded, check_cross_signing, check_device_keys, keep_signatures, object, only_key, split_id,
    unsigned_part, verify,
};
use crate::{
    appservices::{Appservices, news::Queued},
    clock::Clock,
    device_keys::is_cross_signing_key,
    device_lists::{Change, announce, shares_room},
    devices::Devices,
    error::MatrixError,
    notify::{Notifier, Topic},
    rooms::Rooms,
    session::Session,
};

/// One key, in bytes.
const KEY_BYTES_MAX: usize = 8 * 1024;

/// The signed keys of a device, with the signatures that were added, in bytes.
const SIGNED_BYTES_MAX: usize = 64 * 1024;

/// An algorithm and key id, in bytes.
const KEY_ID_BYTES_MAX: usize = 255;

/// Algorithms of which a device may have a fallback key.
const FALLBACK_KEYS_MAX: usize = 16;

type Object = Map<String, Value>;

/// See the module.
pub struct Keys {
    database: Database,
    rooms: Arc<Rooms>,
    devices: Arc<Devices>,
    notifier: Arc<Notifier>,
    clock: Clock,
    appservices: Arc<Appservices>,
    /// Held from reading keys until what follows from them is committed. Lock
    /// order: after that of [`Devices`], which keeps keys and devices together.
    writing: Mutex<()>,
}

/// What a device uploads.
#[derive(Debug, Default)]
pub struct Uploaded {
    /// Its identity.
    pub device_keys: Option<Object>,
    /// By `algorithm:id`.
    pub one_time_keys: Object,
    /// By `algorithm:id`.
    pub fallback_keys: Object,
}

impl Keys {
    /// Over `database`.
    pub fn new(
        database: Database,
        rooms: Arc<Rooms>,
        devices: Arc<Devices>,
        notifier: Arc<Notifier>,
        clock: Clock,
        appservices: Arc<Appservices>,
    ) -> Self {
        Self { database, rooms, devices, notifier, clock, appservices, writing: Mutex::default() }
    }

    /// Whether [`Self::upload`] would take the device's identity.
    ///
    /// # Errors
    /// As there.
    pub fn check(session: &Session, keys: &Uploaded) -> Result<(), MatrixError> {
        keys.device_keys.clone().map_or(Ok(()), |keys| check_device_keys(session, keys).map(drop))
    }

    /// Stores a device's keys; how many one-time keys of each algorithm it has then.
    ///
    /// # Errors
    /// 400 for another device's keys, a wrong signature, or another key under a known
    /// id; 401 if the device is gone meanwhile; 413 for too much.
    pub fn upload(&self, session: &Session, keys: Uploaded) -> Result<BTreeMap<String, u64>, MatrixError> {
        let (user_id, device_id) = (&*session.user_id, &*session.device_id);
        let came = keys.device_keys;
        let signed = came.clone().map(|keys| check_device_keys(session, keys)).transpose()?;
        let (devices, writing) = (self.devices.lock(), self.lock());
        if devices::device(&self.database, user_id, device_id)?.is_none() {
            // Logged out since the request came: nobody would delete these keys.
            return Err(MatrixError::new(401, "M_UNKNOWN_TOKEN", "The device is gone"));
        }
        if signed.is_some() && is_cross_signing_key(&self.database, user_id, device_id.as_str())? {
            return Err(MatrixError::invalid_param("The device id is that of a cross-signing key"));
        }
        let mut batch = self.database.batch();
        let mut topics = vec![Topic::Device(session.user_id.clone(), session.device_id.clone())];
        self.add_one_time_keys(&mut batch, session, &keys.one_time_keys)?;
        self.put_fallback_keys(&mut batch, session, &keys.fallback_keys)?;
        if let (Some(came), Some(mut signed)) = (came, signed) {
            self.take_self_signature(user_id, &came, &mut signed)?;
            let before = rows::device_keys(&self.database, user_id, device_id)?;
            let before = before.map(|stored| object(&stored)).transpose()?;
            if before.as_ref().map(unsigned_part) != Some(unsigned_part(&signed)) {
                let row = bounded(&Value::Object(signed), SIGNED_BYTES_MAX)?;
                rows::put_device_keys(&mut batch, user_id, device_id, &row);
                let change = [Change::Device(device_id, &row, None)];
                topics.extend(announce(&self.database, &mut batch, user_id, &change)?);
            }
        }
        let commit = self.database.commit(batch)?;
        drop((writing, devices));
        self.database.wait_durable(commit)?;
        self.notifier.notify(&topics);
        Ok(rows::one_time_key_counts(&self.database, user_id, device_id)?)
    }

    fn add_one_time_keys(
        &self,
        batch: &mut Batch,
        session: &Session,
        keys: &Object,
    ) -> Result<(), MatrixError> {
        let (user_id, device_id) = (&*session.user_id, &*session.device_id);
        let counts = rows::one_time_key_counts(&self.database, user_id, device_id)?;
        if counts.values().sum::<u64>() + keys.len() as u64 > ONE_TIME_KEYS_MAX as u64 {
            return Err(MatrixError::too_large("Too many one-time keys"));
        }
        let mut position = None;
        for (full_id, key) in keys {
            let (algorithm, id) = split_id(full_id)?;
            let key = bounded(key, KEY_BYTES_MAX)?;
            match rows::one_time_key(&self.database, user_id, device_id, algorithm, id)? {
                None => {
                    let position = *position.get_or_insert_with(|| batch.position());
                    rows::put_one_time_key(batch, (user_id, device_id), algorithm, id, position, &key);
                }
                Some(known) if known.get() == key.get() => {}
                Some(_) => {
                    let message = format!("One time key {full_id} already exists with another value");
                    return Err(MatrixError::new(400, "M_INVALID_PARAM", message));
                }
            }
        }
        Ok(())
    }

    fn put_fallback_keys(
        &self,
        batch: &mut Batch,
        session: &Session,
        keys: &Object,
    ) -> Result<(), MatrixError> {
        let (user_id, device_id) = (&*session.user_id, &*session.device_id);
        let held = rows::fallback_keys(&self.database, user_id, device_id)?;
        let mut algorithms: BTreeSet<&str> = held.keys().map(String::as_str).collect();
        for (id, key) in keys {
            let (algorithm, _) = split_id(id)?;
            let row = FallbackKey { key_id: id.clone(), key: bounded(key, KEY_BYTES_MAX)?, used: false };
            let held = held.get(algorithm);
            if held.is_some_and(|held| held.key_id == row.key_id && held.key.get() == row.key.get()) {
                // Uploaded again, perhaps for a lost answer: whether it was given away stays.
                continue;
            }
            algorithms.insert(algorithm);
            rows::put_fallback_key(batch, user_id, device_id, algorithm, &row);
        }
        if algorithms.len() > FALLBACK_KEYS_MAX {
            return Err(MatrixError::too_large("Too many algorithms of fallback keys"));
        }
        Ok(())
    }

    /// The keys of some of a user's devices, for another server; of all of them if
    /// none is named. What the devices are called is for servers that share a room
    /// with the user, who are told of it as well ([`crate::device_lists`]).
    ///
    /// # Errors
    /// Storage.
    pub fn devices_for_server(
        &self,
        server: &ServerName,
        user_id: &UserId,
        device_ids: &[impl AsRef<DeviceId>],
    ) -> Result<BTreeMap<String, Value>, MatrixError> {
        let mut found = self.devices(user_id, device_ids)?;
        if !shares_room(&self.database, user_id, server)? {
            for keys in found.values_mut().filter_map(Value::as_object_mut) {
                keys.remove("unsigned");
            }
        }
        Ok(found)
    }

    /// The keys of some of a user's devices; of all of them if none is named.
    /// Signed by the device itself and by what else signed it.
    pub fn devices(
        &self,
        user_id: &UserId,
        device_ids: &[impl AsRef<DeviceId>],
    ) -> Result<BTreeMap<String, Value>, MatrixError> {
        let wanted =
            |id: &DeviceId| device_ids.is_empty() || device_ids.iter().any(|wanted| wanted.as_ref() == id);
        let mut found = BTreeMap::new();
        for (device_id, device) in devices::devices(&self.database, user_id)? {
            if !wanted(&device_id) {
                continue;
            }
            if let Some(keys) = rows::device_keys(&self.database, user_id, &device_id)? {
                let mut keys = object(&keys)?;
                if let Some(name) = device.display_name {
                    keys.insert("unsigned".into(), serde_json::json!({ "device_display_name": name }));
                }
                found.insert(device_id.to_string(), Value::Object(keys));
            }
        }
        Ok(found)
    }

    /// The number of the last change of a local user's devices that other servers were told.
    ///
    /// # Errors
    /// Storage.
    pub fn list_number(&self, user_id: &UserId) -> Result<u64, MatrixError> {
        Ok(device_lists::number(&self.database, user_id)?)
    }

    /// A user's cross-signing key.
    pub fn cross_signing(
        &self,
        user_id: &UserId,
        kind: CrossSigningKind,
    ) -> Result<Option<Object>, MatrixError> {
        let row = rows::cross_signing_key(&self.database, user_id, kind)?;
        row.map(|row| object(&row)).transpose()
    }

    /// Gives away a one-time key of each device that has one, or its fallback key:
    /// `algorithm:id` and the key. All in one batch.
    ///
    /// # Errors
    /// Storage.
    pub fn claim_all(
        &self,
        wanted: &remote::Wanted,
    ) -> Result<BTreeMap<OwnedUserId, Map<String, Value>>, MatrixError> {
        let mut claimed: BTreeMap<OwnedUserId, Map<String, Value>> = BTreeMap::new();
        let mut topics = Vec::new();
        // Both locks: what is noted of a key that was given must not outlive its device.
        let (devices, writing) = (self.devices.lock(), self.lock());
        let mut batch = self.database.batch();
        // Each device is in it once, so no two look at the same key.
        for (user_id, of_user) in wanted {
            for (device_id, algorithm) in of_user {
                if let Some((id, key)) = self.claim(&mut batch, user_id, device_id, algorithm)? {
                    let by_device = claimed.entry(user_id.clone()).or_default();
                    by_device.insert(device_id.to_string(), serde_json::json!({ (id): key }));
                    topics.push(Topic::Device(user_id.clone(), device_id.clone()));
                    let queued = Queued::Keys { user_id: user_id.clone(), device_id: device_id.clone() };
                    let told = self.appservices.queue(&self.database, &mut batch, &queued, |service| {
                        service.follows_devices && service.owns_user(user_id)
                    });
                    topics.extend(told?);
                }
            }
        }
        if batch.is_empty() {
            return Ok(claimed);
        }
        let commit = self.database.commit(batch)?;
        drop((writing, devices));
        self.database.wait_durable(commit)?;
        self.notifier.notify(&topics);
        Ok(claimed)
    }

    fn claim(
        &self,
        batch: &mut Batch,
        user_id: &UserId,
        device_id: &DeviceId,
        algorithm: &str,
    ) -> Result<Option<(String, Box<RawValue>)>, MatrixError> {
        if let Some(first) = rows::first_one_time_key(&self.database, user_id, device_id, algorithm)? {
            rows::delete_one_time_key(batch, user_id, device_id, algorithm, &first);
            rows::put_claim(batch, user_id, device_id);
            return Ok(Some((format!("{algorithm}:{}", first.id), first.key)));
        }
        let fallback = rows::fallback_key(&self.database, user_id, device_id, algorithm)?;
        Ok(fallback.map(|mut fallback| {
            if !fallback.used {
                fallback.used = true;
                rows::put_fallback_key(batch, user_id, device_id, algorithm, &fallback);
                rows::put_claim(batch, user_id, device_id);
            }
            (fallback.key_id, fallback.key)
        }))
    }

    /// Whether a user who has cross-signing keys would get any other one by these.
    fn alters_cross_signing(
        &self,
        user_id: &UserId,
        keys: &[(CrossSigningKind, Object)],
    ) -> Result<bool, MatrixError> {
        if self.cross_signing(user_id, CrossSigningKind::Master)?.is_none() {
            return Ok(false);
        }
        for (kind, new) in keys {
            let held = self.cross_signing(user_id, *kind)?;
            if held.is_none_or(|held| held.get("keys") != new.get("keys")) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Stores cross-signing keys: a master key, and keys that it signed. Answers
    /// `false`, and stores nothing, if the user has to confirm it and has not.
    ///
    /// # Errors
    /// 400 for keys of somebody else, of the wrong kind, with a wrong signature, or
    /// named like a device.
    pub fn set_cross_signing(
        &self,
        user_id: &UserId,
        keys: Vec<(CrossSigningKind, Object)>,
        confirmed: bool,
    ) -> Result<bool, MatrixError> {
        let (devices, writing) = (self.devices.lock(), self.lock());
        if !confirmed && self.alters_cross_signing(user_id, &keys)? {
            return Ok(false);
        }
        let new_master =
            keys.iter().find(|(kind, _)| *kind == CrossSigningKind::Master).map(|(_, key)| key.clone());
        let master = match new_master {
            Some(master) => Some(master),
            None => self.cross_signing(user_id, CrossSigningKind::Master)?,
        };
        let master = master.ok_or_else(|| MatrixError::invalid_param("There is no master key"))?;
        let master_key = only_key(&master)?;
        let mut batch = self.database.batch();
        let mut new = Vec::with_capacity(keys.len());
        for (kind, mut key) in keys {
            check_cross_signing(user_id, kind, &key)?;
            if devices::device(&self.database, user_id, only_key(&key)?.1.as_str().into())?.is_some() {
                return Err(MatrixError::invalid_param("A device has the id of the cross-signing key"));
            }
            key.remove("unsigned");
            if kind == CrossSigningKind::Master {
                self.keep_devices_signatures(user_id, &mut key)?;
            } else {
                verify(user_id, &master_key.0, &master_key.1, &key)?;
                keep_signatures(&mut key, user_id, |id| id == master_key.0);
            }
            let row = bounded(&Value::Object(key), SIGNED_BYTES_MAX)?;
            rows::put_cross_signing_key(&mut batch, user_id, kind, &row);
            new.push((kind, row));
        }
        let topics = announce(&self.database, &mut batch, user_id, &[Change::CrossSigning(&new)])?;
        let commit = self.database.commit(batch)?;
        drop((writing, devices));
        self.database.wait_durable(commit)?;
        self.notifier.notify(&topics);
        Ok(true)
    }

    /// The lock guards no data, so a panic under it breaks nothing.
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
