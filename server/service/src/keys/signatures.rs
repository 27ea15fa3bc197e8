//! Signatures that users add to keys: to their own devices and master key, which
//! everybody sees, and to other users' master keys, which only the signer sees.

use causeway_storage::{
    key_changes,
    keys::{self as rows, UserSignature},
};
use ruma::{DeviceId, OwnedUserId, UserId};
use serde_json::{Value, json};

use super::{
    CrossSigningKind, Keys, Object, SIGNED_BYTES_MAX,
    checks::{bounded, keep_signatures, object, only_key, unsigned_part, verify},
};
use crate::{
    device_lists::{Change, announce},
    error::MatrixError,
    notify::Topic,
};

/// Users whose master keys one user may sign.
const SIGNED_USERS_MAX: usize = 10_000;

impl Keys {
    /// Adds signatures that a user made to its own device or master key.
    /// `signed` is the object with the new signatures.
    ///
    /// # Errors
    /// 400 for a signature that doesn't verify or is not the user's own.
    pub fn add_signatures(&self, user_id: &UserId, target: &str, signed: &Object) -> Result<(), MatrixError> {
        let (devices, writing) = (self.devices.lock(), self.lock());
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
        let topics = if is_device {
            rows::put_device_keys(&mut batch, user_id, device_id, &row);
            announce(&self.database, &mut batch, user_id, &[Change::Device(device_id, &row, None)])?
        } else {
            rows::put_cross_signing_key(&mut batch, user_id, CrossSigningKind::Master, &row);
            let new = [(CrossSigningKind::Master, row)];
            announce(&self.database, &mut batch, user_id, &[Change::CrossSigning(&new)])?
        };
        let commit = self.database.commit(batch)?;
        drop((writing, devices));
        self.database.wait_durable(commit)?;
        self.notifier.notify(&topics);
        Ok(())
    }

    /// Adds to the keys of a device the signature of its user's self-signing key, if it came with
    /// them: of a dehydrated device nobody is there to add it later.
    ///
    /// # Errors
    /// 400 for a signature that doesn't verify.
    pub(super) fn take_self_signature(
        &self,
        user_id: &UserId,
        came: &Object,
        kept: &mut Object,
    ) -> Result<(), MatrixError> {
        let Some(key) = self.cross_signing(user_id, CrossSigningKind::SelfSigning)? else { return Ok(()) };
        let (key_id, public) = only_key(&key)?;
        let of_user = |keys: &Object| keys.get("signatures")?.get(user_id.as_str())?.get(&key_id).cloned();
        let Some(signature) = of_user(came) else { return Ok(()) };
        verify(user_id, &key_id, &public, came)?;
        let own = kept.get_mut("signatures").and_then(|all| all.get_mut(user_id.as_str()));
        if let Some(own) = own.and_then(Value::as_object_mut) {
            own.insert(key_id, signature);
        }
        Ok(())
    }

    /// Keeps a user's signature of another user's master key. `signed` is that
    /// key with the signature.
    ///
    /// # Errors
    /// 400 for another key or a signature that is not by the user-signing key;
    /// 413 for too many.
    pub fn sign_user(
        &self,
        signer: &UserId,
        user_id: &OwnedUserId,
        target: &str,
        signed: &Object,
    ) -> Result<(), MatrixError> {
        let writing = self.lock();
        let (master_id, master) = only_key(signed)?;
        let is_theirs = signed.get("user_id").and_then(Value::as_str) == Some(user_id.as_str());
        if master != target || !is_theirs {
            return Err(MatrixError::invalid_param("That is not the user's master key"));
        }
        // Of a user of another server perhaps no list is held yet. A signature of
        // what is not that user's key shows nowhere.
        let is_known = match self.master_key(user_id)? {
            Some(held) => only_key(&held)? == (master_id, master.clone()),
            None => user_id.server_name() != self.rooms.server_name(),
        };
        if !is_known {
            return Err(MatrixError::not_found("The user has no such master key"));
        }
        let own = self.cross_signing(signer, CrossSigningKind::UserSigning)?;
        let own = own.ok_or_else(|| MatrixError::invalid_param("There is no user-signing key"))?;
        let (key_id, public) = only_key(&own)?;
        verify(signer, &key_id, &public, signed)?;
        let signature = signed["signatures"][signer.as_str()][&key_id].as_str().unwrap_or_default();
        let row = UserSignature { master, key_id, signature: signature.to_owned() };
        let before = rows::user_signature(&self.database, signer, user_id)?;
        if before.is_none()
            && rows::user_signatures(&self.database, signer, SIGNED_USERS_MAX)? >= SIGNED_USERS_MAX
        {
            return Err(MatrixError::too_large("Too many users are signed"));
        }
        let mut batch = self.database.batch();
        rows::put_user_signature(&mut batch, signer, user_id, &row);
        key_changes::put(&self.database, &mut batch, user_id, Some(signer))?;
        let commit = self.database.commit(batch)?;
        drop(writing);
        self.database.wait_durable(commit)?;
        self.notifier.notify([&Topic::User(signer.to_owned())]);
        Ok(())
    }

    /// Leaves of the signatures of a new master key those of the user's own devices.
    ///
    /// # Errors
    /// 400 for one that doesn't verify.
    pub(super) fn keep_devices_signatures(
        &self,
        user_id: &UserId,
        master: &mut Object,
    ) -> Result<(), MatrixError> {
        let made = master.get("signatures").and_then(|all| all.get(user_id.as_str()));
        let mut verified = Vec::new();
        for key_id in made.and_then(Value::as_object).into_iter().flatten().map(|(key_id, _)| key_id) {
            if let Ok(public) = self.signing_key(user_id, key_id, false) {
                verify(user_id, key_id, &public, master)?;
                verified.push(key_id.clone());
            }
        }
        keep_signatures(master, user_id, |key_id| verified.iter().any(|verified| verified == key_id));
        Ok(())
    }

    /// Adds to another user's master key what `asker` signed of it.
    pub(super) fn add_own_signature(
        &self,
        asker: &UserId,
        user_id: &UserId,
        master: &mut Object,
    ) -> Result<(), MatrixError> {
        let Some(made) = rows::user_signature(&self.database, asker, user_id)? else { return Ok(()) };
        if only_key(master).ok().is_none_or(|(_, public)| public != made.master) {
            return Ok(());
        }
        let all = master.entry("signatures").or_insert_with(|| json!({}));
        if let Some(all) = all.as_object_mut() {
            all.insert(asker.to_string(), json!({ (made.key_id): made.signature }));
        }
        Ok(())
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
