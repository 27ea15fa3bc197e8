//! What is looked at before a key or a signature is stored: whose it is, and
//! whether it is signed as it must be.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, UserId,
    canonical_json::try_from_json_map,
    serde::Base64,
    signatures::{PublicKeyMap, PublicKeySet, verify_json},
};
use serde_json::{Value, value::RawValue};

use super::{CrossSigningKind, KEY_ID_BYTES_MAX, Object};
use crate::{error::MatrixError, session::Session};

/// The device's own keys, signed by itself.
pub(super) fn check_device_keys(session: &Session, mut keys: Object) -> Result<Object, MatrixError> {
    let is = |field: &str, value: &str| keys.get(field).and_then(Value::as_str) == Some(value);
    if !is("user_id", session.user_id.as_str()) || !is("device_id", session.device_id.as_str()) {
        return Err(MatrixError::invalid_param("These are not the keys of this device"));
    }
    let key_id = format!("ed25519:{}", session.device_id);
    let public = keys.get("keys").and_then(|all| all.get(&key_id)).and_then(Value::as_str);
    let public = public.ok_or_else(|| MatrixError::invalid_param("There is no ed25519 key"))?.to_owned();
    verify(&session.user_id, &key_id, &public, &keys)?;
    keys.remove("unsigned");
    keep_signatures(&mut keys, &session.user_id, |id| id == key_id);
    Ok(keys)
}

/// Takes out of an object all signatures but those of the user's that are wanted:
/// what was not verified is told to nobody.
pub(super) fn keep_signatures(object: &mut Object, user_id: &UserId, wanted: impl Fn(&str) -> bool) {
    let Some(Value::Object(mut all)) = object.remove("signatures") else { return };
    let Some(Value::Object(mut own)) = all.remove(user_id.as_str()) else { return };
    own.retain(|key_id, _| wanted(key_id));
    if !own.is_empty() {
        object.insert("signatures".to_owned(), serde_json::json!({ (user_id.as_str()): own }));
    }
}

pub(super) fn check_cross_signing(
    user_id: &UserId,
    kind: CrossSigningKind,
    key: &Object,
) -> Result<(), MatrixError> {
    let owner = key.get("user_id").and_then(Value::as_str) == Some(user_id.as_str());
    let usages = key.get("usage").and_then(Value::as_array);
    let usage = usages.is_some_and(|usages| usages.iter().any(|usage| usage == kind.as_str()));
    if !owner || !usage {
        return Err(MatrixError::invalid_param("A cross-signing key has the wrong user or usage"));
    }
    only_key(key).map(drop)
}

/// The id and the public half of a cross-signing key.
pub(super) fn only_key(key: &Object) -> Result<(String, String), MatrixError> {
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
pub(super) fn verify(
    user_id: &UserId,
    key_id: &str,
    public: &str,
    object: &Object,
) -> Result<(), MatrixError> {
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
pub(super) fn unsigned_part(object: &Object) -> Object {
    let mut part = object.clone();
    part.remove("signatures");
    part.remove("unsigned");
    part
}

pub(super) fn split_id(id: &str) -> Result<(&str, &str), MatrixError> {
    let parts = id.split_once(':').filter(|(algorithm, key)| !algorithm.is_empty() && !key.is_empty());
    parts
        .filter(|_| id.len() <= KEY_ID_BYTES_MAX)
        .ok_or_else(|| MatrixError::invalid_param("A key id is an algorithm, a colon and a name"))
}

pub(super) fn bounded(value: &Value, bytes_max: usize) -> Result<Box<RawValue>, MatrixError> {
    let raw = serde_json::value::to_raw_value(value).map_err(|error| MatrixError::internal(&error))?;
    if raw.get().len() <= bytes_max { Ok(raw) } else { Err(MatrixError::too_large("A key is too large")) }
}

pub(super) fn object(raw: &RawValue) -> Result<Object, MatrixError> {
    serde_json::from_str(raw.get()).map_err(|error| MatrixError::internal(&error))
}
