//! End-to-end encryption keys of local users: upload, query, claim,
//! cross-signing.
//!
//! This server reads no secret and judges no trust; it only refuses what its
//! clients would have to refuse. Invariants:
//! - no key and no signature is stored whose signature doesn't verify;
//! - a one-time key is given away once.
//!
//! Keys of users of other servers are not asked for yet, and signatures of one
//! user's master key by another user are refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use causeway_storage::{
    Batch, Database, Read, StorageError, devices,
    keys::{self as rows, FallbackKey, ONE_TIME_KEYS_MAX},
    rooms::memberships,
    to_device,
};
pub use causeway_storage::{StreamPosition, keys::CrossSigningKind};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, DeviceId, OwnedUserId, UserId,
    canonical_json::try_from_json_map,
    events::room::member::MembershipState,
    serde::Base64,
    signatures::{PublicKeyMap, PublicKeySet, verify_json},
};
use serde_json::{Map, Value, value::RawValue};

use crate::{
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

/// Rooms whose members are woken by a change of keys.
const ROOMS_MAX: usize = 10_000;

/// Changes looked at for one question of what changed.
const CHANGES_MAX: usize = 10_000;

type Object = Map<String, Value>;

/// See the module.
pub struct Keys {
    database: Database,
    rooms: Arc<Rooms>,
    notifier: Arc<Notifier>,
    /// Held from reading keys until what follows from them is committed.
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
    pub fn new(database: Database, rooms: Arc<Rooms>, notifier: Arc<Notifier>) -> Self {
        Self { database, rooms, notifier, writing: Mutex::default() }
    }

    /// Stores a device's keys; how many one-time keys of each algorithm it has then.
    ///
    /// # Errors
    /// 400 for another device's keys, a wrong signature, or another key under a known id.
    pub fn upload(&self, session: &Session, keys: Uploaded) -> Result<BTreeMap<String, u64>, MatrixError> {
        let (user_id, device_id) = (&*session.user_id, &*session.device_id);
        let signed = keys.device_keys.map(|keys| check_device_keys(session, keys)).transpose()?;
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = self.database.batch();
        let mut topics = vec![Topic::Device(session.user_id.clone(), session.device_id.clone())];
        self.add_one_time_keys(&mut batch, session, &keys.one_time_keys)?;
        for (id, key) in &keys.fallback_keys {
            let (algorithm, _) = split_id(id)?;
            let row = FallbackKey { key_id: id.clone(), key: bounded(key, KEY_BYTES_MAX)?, used: false };
            rows::put_fallback_key(&mut batch, user_id, device_id, algorithm, &row);
        }
        if let Some(signed) = signed {
            let before = rows::device_keys(&self.database, user_id, device_id)?;
            let before = before.map(|stored| object(&stored)).transpose()?;
            if before.as_ref().map(unsigned_part) != Some(unsigned_part(&signed)) {
                let row = bounded(&Value::Object(signed), SIGNED_BYTES_MAX)?;
                rows::put_device_keys(&mut batch, user_id, device_id, &row);
                topics.extend(mark_changed(&self.database, &mut batch, user_id)?);
            }
        }
        let commit = self.database.commit(batch)?;
        drop(writing);
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
        for (full_id, key) in keys {
            let (algorithm, id) = split_id(full_id)?;
            let key = bounded(key, KEY_BYTES_MAX)?;
            match rows::one_time_key(&self.database, user_id, device_id, algorithm, id)? {
                None => rows::put_one_time_key(batch, user_id, device_id, algorithm, id, &key),
                Some(known) if known.get() == key.get() => {}
                Some(_) => {
                    let message = format!("One time key {full_id} already exists with another value");
                    return Err(MatrixError::new(400, "M_INVALID_PARAM", message));
                }
            }
        }
        Ok(())
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

    /// A user's cross-signing key.
    pub fn cross_signing(
        &self,
        user_id: &UserId,
        kind: CrossSigningKind,
    ) -> Result<Option<Object>, MatrixError> {
        let row = rows::cross_signing_key(&self.database, user_id, kind)?;
        row.map(|row| object(&row)).transpose()
    }

    /// Gives away a one-time key of a device, or its fallback key: `algorithm:id` and the key.
    pub fn claim(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        algorithm: &str,
    ) -> Result<Option<(String, Box<RawValue>)>, MatrixError> {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = self.database.batch();
        let claimed = match rows::first_one_time_key(&self.database, user_id, device_id, algorithm)? {
            Some((id, key)) => {
                rows::delete_one_time_key(&mut batch, user_id, device_id, algorithm, &id);
                (format!("{algorithm}:{id}"), key)
            }
            None => match rows::fallback_key(&self.database, user_id, device_id, algorithm)? {
                None => return Ok(None),
                Some(mut fallback) => {
                    fallback.used = true;
                    rows::put_fallback_key(&mut batch, user_id, device_id, algorithm, &fallback);
                    (fallback.key_id, fallback.key)
                }
            },
        };
        let commit = self.database.commit(batch)?;
        drop(writing);
        self.database.wait_durable(commit)?;
        self.notifier.notify([&Topic::Device(user_id.to_owned(), device_id.to_owned())]);
        Ok(Some(claimed))
    }

    /// Whether uploading these cross-signing keys replaces others, so that the
    /// user has to confirm it.
    pub fn replaces_cross_signing(
        &self,
        user_id: &UserId,
        master: Option<&Object>,
    ) -> Result<bool, MatrixError> {
        let held = self.cross_signing(user_id, CrossSigningKind::Master)?;
        Ok(held.is_some_and(|held| master.is_none_or(|new| new.get("keys") != held.get("keys"))))
    }

    /// Stores cross-signing keys: a master key, and keys that it signed.
    ///
    /// # Errors
    /// 400 for keys of somebody else, of the wrong kind, or with a wrong signature.
    pub fn set_cross_signing(
        &self,
        user_id: &UserId,
        keys: Vec<(CrossSigningKind, Object)>,
    ) -> Result<(), MatrixError> {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let new_master =
            keys.iter().find(|(kind, _)| *kind == CrossSigningKind::Master).map(|(_, key)| key.clone());
        let master = match new_master {
            Some(master) => Some(master),
            None => self.cross_signing(user_id, CrossSigningKind::Master)?,
        };
        let master = master.ok_or_else(|| MatrixError::invalid_param("There is no master key"))?;
        let master_key = only_key(&master)?;
        let mut batch = self.database.batch();
        for (kind, key) in keys {
            check_cross_signing(user_id, kind, &key)?;
            if kind != CrossSigningKind::Master {
                verify(user_id, &master_key.0, &master_key.1, &key)?;
            }
            rows::put_cross_signing_key(
                &mut batch,
                user_id,
                kind,
                &bounded(&Value::Object(key), SIGNED_BYTES_MAX)?,
            );
        }
        let topics = mark_changed(&self.database, &mut batch, user_id)?;
        let commit = self.database.commit(batch)?;
        drop(writing);
        self.database.wait_durable(commit)?;
        self.notifier.notify(&topics);
        Ok(())
    }

    /// Adds signatures that a user made to its own device or master key.
    /// `signed` is the object with the new signatures.
    ///
    /// # Errors
    /// 400 for a signature that doesn't verify or is not the user's own.
    pub fn add_signatures(&self, user_id: &UserId, target: &str, signed: &Object) -> Result<(), MatrixError> {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let device_id: &DeviceId = target.into();
        let master = self.cross_signing(user_id, CrossSigningKind::Master)?;
        let device = rows::device_keys(&self.database, user_id, device_id)?;
        let (mut stored, is_device) = match (device, master) {
            (Some(device), _) => (object(&device)?, true),
            (None, Some(master)) if only_key(&master)?.1 == target => (master, false),
            _ => return Err(MatrixError::not_found("Unknown device or key")),
        };
        if unsigned_part(&stored) != unsigned_part(signed) {
            return Err(MatrixError::invalid_param("The signed object is not the one that is stored"));
        }
        let new =
            signed.get("signatures").and_then(|all| all.get(user_id.as_str())).and_then(Value::as_object);
        for (key_id, signature) in new.into_iter().flatten() {
            let public = self.signing_key(user_id, key_id, is_device)?;
            let mut claim = unsigned_part(&stored);
            claim.insert(
                "signatures".into(),
                serde_json::json!({ (user_id.as_str()): { (key_id): signature } }),
            );
            verify(user_id, key_id, &public, &claim)?;
            // An object that was uploaded without signatures has no place for them.
            let all = stored.entry("signatures").or_insert_with(|| serde_json::json!({}));
            let Some(all) = all.as_object_mut() else {
                return Err(MatrixError::invalid_param("The stored object's signatures are no object"));
            };
            let own = all.entry(user_id.as_str()).or_insert_with(|| serde_json::json!({}));
            if let Some(own) = own.as_object_mut() {
                own.insert(key_id.clone(), signature.clone());
            }
        }
        let row = bounded(&Value::Object(stored), SIGNED_BYTES_MAX)?;
        let mut batch = self.database.batch();
        if is_device {
            rows::put_device_keys(&mut batch, user_id, device_id, &row);
        } else {
            rows::put_cross_signing_key(&mut batch, user_id, CrossSigningKind::Master, &row);
        }
        let topics = mark_changed(&self.database, &mut batch, user_id)?;
        let commit = self.database.commit(batch)?;
        drop(writing);
        self.database.wait_durable(commit)?;
        self.notifier.notify(&topics);
        Ok(())
    }

    /// Who changed keys after `from` and up to `to`, of those whom `asker` shares a room with.
    pub fn changed_between(
        &self,
        asker: &UserId,
        from: StreamPosition,
        to: StreamPosition,
    ) -> Result<BTreeSet<OwnedUserId>, MatrixError> {
        let mut changed = BTreeSet::new();
        for (_, user_id) in rows::key_changes(&self.database, from, to, CHANGES_MAX)? {
            if !changed.contains(&user_id)
                && (user_id == asker || self.rooms.share_a_room(asker, &user_id)?)
            {
                changed.insert(user_id);
            }
        }
        Ok(changed)
    }

    /// The public half of `ed25519:…`: of the user's self-signing key (which
    /// signs devices) or of one of its devices.
    fn signing_key(&self, user_id: &UserId, key_id: &str, for_device: bool) -> Result<String, MatrixError> {
        if for_device && let Some(key) = self.cross_signing(user_id, CrossSigningKind::SelfSigning)? {
            let (id, public) = only_key(&key)?;
            if id == key_id {
                return Ok(public);
            }
        }
        let device_id: &DeviceId = key_id.strip_prefix("ed25519:").unwrap_or(key_id).into();
        let device =
            rows::device_keys(&self.database, user_id, device_id)?.map(|keys| object(&keys)).transpose()?;
        let public = device.as_ref().and_then(|keys| keys.get("keys")?.get(key_id)?.as_str());
        public.map(ToOwned::to_owned).ok_or_else(|| MatrixError::invalid_param("Signed by an unknown key"))
    }
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

/// Notes in the batch that a user's keys changed. The topics to notify of after
/// it: all who share a room with the user are told.
pub(crate) fn mark_changed(
    read: &impl Read,
    batch: &mut Batch,
    user_id: &UserId,
) -> Result<Vec<Topic>, StorageError> {
    let rooms = memberships(read, user_id, None, ROOMS_MAX)?;
    let joined = rooms.into_iter().filter(|(_, member)| member.membership == MembershipState::Join);
    let mut topics: Vec<Topic> = joined.map(|(room_id, _)| Topic::Room(room_id)).collect();
    topics.extend([Topic::User(user_id.to_owned()), Topic::Stream]);
    let position = batch.position();
    rows::put_key_change(batch, position, user_id);
    Ok(topics)
}

/// The device's own keys, signed by itself.
fn check_device_keys(session: &Session, mut keys: Object) -> Result<Object, MatrixError> {
    let is = |field: &str, value: &str| keys.get(field).and_then(Value::as_str) == Some(value);
    if !is("user_id", session.user_id.as_str()) || !is("device_id", session.device_id.as_str()) {
        return Err(MatrixError::invalid_param("These are not the keys of this device"));
    }
    let key_id = format!("ed25519:{}", session.device_id);
    let public = keys.get("keys").and_then(|all| all.get(&key_id)).and_then(Value::as_str);
    let public = public.ok_or_else(|| MatrixError::invalid_param("There is no ed25519 key"))?.to_owned();
    verify(&session.user_id, &key_id, &public, &keys)?;
    keys.remove("unsigned");
    Ok(keys)
}

fn check_cross_signing(user_id: &UserId, kind: CrossSigningKind, key: &Object) -> Result<(), MatrixError> {
    let owner = key.get("user_id").and_then(Value::as_str) == Some(user_id.as_str());
    let usages = key.get("usage").and_then(Value::as_array);
    let usage = usages.is_some_and(|usages| usages.iter().any(|usage| usage == kind.as_str()));
    if !owner || !usage {
        return Err(MatrixError::invalid_param("A cross-signing key has the wrong user or usage"));
    }
    only_key(key).map(drop)
}

/// The id and the public half of a cross-signing key.
fn only_key(key: &Object) -> Result<(String, String), MatrixError> {
    let wrong = || MatrixError::invalid_param("A cross-signing key holds exactly one key");
    let keys = key.get("keys").and_then(Value::as_object).filter(|keys| keys.len() == 1).ok_or_else(wrong)?;
    let (id, public) = keys.iter().next().ok_or_else(wrong)?;
    let public = public.as_str().ok_or_else(wrong)?;
    if id.strip_prefix("ed25519:") != Some(public) {
        return Err(MatrixError::invalid_param("A cross-signing key is named by itself"));
    }
    Ok((id.clone(), public.to_owned()))
}

/// Whether `object` is signed by `user_id` with the key of this id.
fn verify(user_id: &UserId, key_id: &str, public: &str, object: &Object) -> Result<(), MatrixError> {
    let wrong = || MatrixError::new(400, "M_INVALID_SIGNATURE", "The signature is wrong");
    let signature = object.get("signatures").and_then(|all| all.get(user_id.as_str())?.get(key_id));
    let signature = signature.and_then(Value::as_str).ok_or_else(wrong)?;
    let mut object: CanonicalJsonObject = try_from_json_map(object.clone()).map_err(|_| wrong())?;
    // Only the signature in question: others are by keys that are unknown here.
    let entity =
        CanonicalJsonObject::from([(key_id.to_owned(), CanonicalJsonValue::String(signature.to_owned()))]);
    let all = CanonicalJsonObject::from([(user_id.to_string(), CanonicalJsonValue::Object(entity))]);
    object.insert("signatures".to_owned(), CanonicalJsonValue::Object(all));
    let public = Base64::parse(public).map_err(|_| wrong())?;
    let keys = PublicKeyMap::from([(user_id.to_string(), PublicKeySet::from([(key_id.to_owned(), public)]))]);
    verify_json(&keys, &object).map_err(|_| wrong())
}

/// What of an object is signed.
fn unsigned_part(object: &Object) -> Object {
    let mut part = object.clone();
    part.remove("signatures");
    part.remove("unsigned");
    part
}

fn split_id(id: &str) -> Result<(&str, &str), MatrixError> {
    let parts = id.split_once(':').filter(|(algorithm, key)| !algorithm.is_empty() && !key.is_empty());
    parts
        .filter(|_| id.len() <= KEY_ID_BYTES_MAX)
        .ok_or_else(|| MatrixError::invalid_param("A key id is an algorithm, a colon and a name"))
}

fn bounded(value: &Value, bytes_max: usize) -> Result<Box<RawValue>, MatrixError> {
    let raw = serde_json::value::to_raw_value(value).map_err(|error| MatrixError::internal(&error))?;
    if raw.get().len() <= bytes_max { Ok(raw) } else { Err(MatrixError::too_large("A key is too large")) }
}

fn object(raw: &RawValue) -> Result<Object, MatrixError> {
    serde_json::from_str(raw.get()).map_err(|error| MatrixError::internal(&error))
}
