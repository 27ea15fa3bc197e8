//! Rows of end-to-end encryption keys. Keys are kept as the raw JSON that the
//! client signed: re-serialising would break signatures.

use std::collections::BTreeMap;

use ruma::{DeviceId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Batch, Cf, Direction, Read, StorageError, StreamPosition,
    codec::{self, KeyParts, key},
};

/// One-time keys that a device may have waiting.
pub const ONE_TIME_KEYS_MAX: usize = 1_000;

/// The fallback key of an algorithm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FallbackKey {
    /// `algorithm:id`.
    pub key_id: String,
    /// The key as uploaded.
    pub key: Box<RawValue>,
    /// Whether it was ever given to anybody.
    pub used: bool,
}

/// The three kinds of cross-signing keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossSigningKind {
    /// Signs the other two.
    Master,
    /// Signs the user's devices.
    SelfSigning,
    /// Signs other users' master keys.
    UserSigning,
}

impl CrossSigningKind {
    /// As the specification writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::SelfSigning => "self_signing",
            Self::UserSigning => "user_signing",
        }
    }
}

fn raw(cf: Cf, bytes: &[u8]) -> Result<Box<RawValue>, StorageError> {
    serde_json::from_slice(bytes).map_err(|source| StorageError::BrokenValue { cf: cf.name(), source })
}

/// A device's signed keys.
pub fn device_keys(
    read: &impl Read,
    user_id: &UserId,
    device_id: &DeviceId,
) -> Result<Option<Box<RawValue>>, StorageError> {
    let row = read.get(Cf::DeviceKeys, key().str(user_id).str(device_id).as_ref())?;
    row.map(|bytes| raw(Cf::DeviceKeys, &bytes)).transpose()
}

/// Replaces a device's signed keys.
pub fn put_device_keys(batch: &mut Batch, user_id: &UserId, device_id: &DeviceId, keys: &RawValue) {
    batch.put(Cf::DeviceKeys, key().str(user_id).str(device_id), keys.get());
}

/// Deletes all keys of a device.
pub fn delete_device_keys(batch: &mut Batch, user_id: &UserId, device_id: &DeviceId) {
    let prefix = key().str(user_id).str(device_id);
    batch.delete(Cf::DeviceKeys, &prefix);
    batch.delete(Cf::KeyClaims, &prefix);
    batch.delete_prefix(Cf::OneTimeKeys, &prefix);
    batch.delete_prefix(Cf::OneTimeKeyOrder, &prefix);
    batch.delete_prefix(Cf::FallbackKeys, &prefix);
}

/// A one-time key as uploaded.
pub fn one_time_key(
    read: &impl Read,
    user_id: &UserId,
    device_id: &DeviceId,
    algorithm: &str,
    id: &str,
) -> Result<Option<Box<RawValue>>, StorageError> {
    let row = read.get(Cf::OneTimeKeys, key().str(user_id).str(device_id).str(algorithm).str(id).as_ref())?;
    row.map(|bytes| raw(Cf::OneTimeKeys, &bytes)).transpose()
}

/// Adds a one-time key that came at `position`.
pub fn put_one_time_key(
    batch: &mut Batch,
    (user_id, device_id): (&UserId, &DeviceId),
    algorithm: &str,
    id: &str,
    position: StreamPosition,
    value: &RawValue,
) {
    let prefix = key().str(user_id).str(device_id).str(algorithm);
    batch.put(Cf::OneTimeKeyOrder, prefix.clone().u64(position.0).str(id), []);
    batch.put(Cf::OneTimeKeys, prefix.str(id), value.get());
}

/// A one-time key that waits.
#[derive(Clone, Debug)]
pub struct OneTimeKey {
    /// Its name, without the algorithm.
    pub id: String,
    /// As uploaded.
    pub key: Box<RawValue>,
    /// When it came; `None` for one from before that was noted.
    position: Option<u64>,
}

/// The one-time key of an algorithm that came first. Those from before their
/// order was noted come last.
pub fn first_one_time_key(
    read: &impl Read,
    user_id: &UserId,
    device_id: &DeviceId,
    algorithm: &str,
) -> Result<Option<OneTimeKey>, StorageError> {
    let prefix = key().str(user_id).str(device_id).str(algorithm);
    let first = |cf| read.scan(cf, prefix.as_ref(), None, Direction::Forward, 1);
    if let Some((row, _)) = first(Cf::OneTimeKeyOrder)?.first() {
        let mut parts = KeyParts::new(Cf::OneTimeKeyOrder, row);
        for _ in 0..3 {
            parts.str()?;
        }
        let (position, id) = (parts.u64()?, parts.str()?.to_owned());
        let found = one_time_key(read, user_id, device_id, algorithm, &id)?;
        let key = found.ok_or(StorageError::BrokenKey { cf: Cf::OneTimeKeyOrder.name() })?;
        return Ok(Some(OneTimeKey { id, key, position: Some(position) }));
    }
    let rows = first(Cf::OneTimeKeys)?;
    let Some((row, value)) = rows.first() else { return Ok(None) };
    let mut parts = KeyParts::new(Cf::OneTimeKeys, row);
    for _ in 0..3 {
        parts.str()?;
    }
    let id = parts.str()?.to_owned();
    Ok(Some(OneTimeKey { id, key: raw(Cf::OneTimeKeys, value)?, position: None }))
}

/// Removes a one-time key: it is given away once.
pub fn delete_one_time_key(
    batch: &mut Batch,
    user_id: &UserId,
    device_id: &DeviceId,
    algorithm: &str,
    one: &OneTimeKey,
) {
    let prefix = key().str(user_id).str(device_id).str(algorithm);
    batch.delete(Cf::OneTimeKeys, prefix.clone().str(&one.id));
    if let Some(position) = one.position {
        batch.delete(Cf::OneTimeKeyOrder, prefix.u64(position).str(&one.id));
    }
}

/// When a one-time key of a device was given away last, or its fallback key for the first time.
pub fn last_claim(
    read: &impl Read,
    user_id: &UserId,
    device_id: &DeviceId,
) -> Result<Option<StreamPosition>, StorageError> {
    codec::get(read, Cf::KeyClaims, key().str(user_id).str(device_id).as_ref())
}

/// Notes that it is now.
pub fn put_claim(batch: &mut Batch, user_id: &UserId, device_id: &DeviceId) {
    let position = batch.position();
    codec::put(batch, Cf::KeyClaims, key().str(user_id).str(device_id), &position);
}

/// How many one-time keys of each algorithm a device has waiting.
pub fn one_time_key_counts(
    read: &impl Read,
    user_id: &UserId,
    device_id: &DeviceId,
) -> Result<BTreeMap<String, u64>, StorageError> {
    let prefix = key().str(user_id).str(device_id);
    let rows = read.scan(Cf::OneTimeKeys, prefix.as_ref(), None, Direction::Forward, ONE_TIME_KEYS_MAX)?;
    let mut counts = BTreeMap::new();
    for (row, _) in rows {
        let mut parts = KeyParts::new(Cf::OneTimeKeys, &row);
        parts.str()?;
        parts.str()?;
        *counts.entry(parts.str()?.to_owned()).or_insert(0) += 1;
    }
    Ok(counts)
}

/// A device's fallback key of an algorithm.
pub fn fallback_key(
    read: &impl Read,
    user_id: &UserId,
    device_id: &DeviceId,
    algorithm: &str,
) -> Result<Option<FallbackKey>, StorageError> {
    codec::get(read, Cf::FallbackKeys, key().str(user_id).str(device_id).str(algorithm).as_ref())
}

/// Replaces it.
pub fn put_fallback_key(
    batch: &mut Batch,
    user_id: &UserId,
    device_id: &DeviceId,
    algorithm: &str,
    value: &FallbackKey,
) {
    codec::put(batch, Cf::FallbackKeys, key().str(user_id).str(device_id).str(algorithm), value);
}

/// A device's fallback keys by algorithm.
pub fn fallback_keys(
    read: &impl Read,
    user_id: &UserId,
    device_id: &DeviceId,
) -> Result<BTreeMap<String, FallbackKey>, StorageError> {
    let prefix = key().str(user_id).str(device_id);
    let rows = read.scan(Cf::FallbackKeys, prefix.as_ref(), None, Direction::Forward, ONE_TIME_KEYS_MAX)?;
    let decoded = rows.iter().map(|(row, value)| {
        let mut parts = KeyParts::new(Cf::FallbackKeys, row);
        parts.str()?;
        parts.str()?;
        Ok((parts.str()?.to_owned(), codec::decode(Cf::FallbackKeys, value)?))
    });
    decoded.collect()
}

/// Algorithms of which a device has a fallback key that nobody was given.
pub fn unused_fallback_algorithms(
    read: &impl Read,
    user_id: &UserId,
    device_id: &DeviceId,
) -> Result<Vec<String>, StorageError> {
    let all = fallback_keys(read, user_id, device_id)?;
    Ok(all.into_iter().filter(|(_, key)| !key.used).map(|(algorithm, _)| algorithm).collect())
}

/// A user's cross-signing key.
pub fn cross_signing_key(
    read: &impl Read,
    user_id: &UserId,
    kind: CrossSigningKind,
) -> Result<Option<Box<RawValue>>, StorageError> {
    let row = read.get(Cf::CrossSigningKeys, key().str(user_id).str(kind.as_str()).as_ref())?;
    row.map(|bytes| raw(Cf::CrossSigningKeys, &bytes)).transpose()
}

/// Replaces it.
pub fn put_cross_signing_key(batch: &mut Batch, user_id: &UserId, kind: CrossSigningKind, value: &RawValue) {
    batch.put(Cf::CrossSigningKeys, key().str(user_id).str(kind.as_str()), value.get());
}

/// A signature that a user made of another user's master key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSignature {
    /// The public half of the signed key.
    pub master: String,
    /// The signing key, `ed25519:…`.
    pub key_id: String,
    /// The signature.
    pub signature: String,
}

/// The signature that `signer` made of the master key of `user_id`.
pub fn user_signature(
    read: &impl Read,
    signer: &UserId,
    user_id: &UserId,
) -> Result<Option<UserSignature>, StorageError> {
    codec::get(read, Cf::UserSignatures, key().str(signer).str(user_id).as_ref())
}

/// How many users' master keys `signer` signed, counted up to `limit`.
pub fn user_signatures(read: &impl Read, signer: &UserId, limit: usize) -> Result<usize, StorageError> {
    let prefix = key().str(signer);
    Ok(read.scan(Cf::UserSignatures, prefix.as_ref(), None, Direction::Forward, limit)?.len())
}

/// Replaces it.
pub fn put_user_signature(batch: &mut Batch, signer: &UserId, user_id: &UserId, value: &UserSignature) {
    codec::put(batch, Cf::UserSignatures, key().str(signer).str(user_id), value);
}
