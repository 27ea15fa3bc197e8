//! Keys of users of other servers: what a question needs of them, and the lists
//! that are held so that not every question goes there.
//!
//! A list is held while a room is shared with its user, and only as long as it
//! is complete: each change that its server tells of names the one before, and
//! where one is missing the list is stale until it was fetched anew. What
//! another server says of its users is not verified beyond whose it is: that
//! server could say anything, and clients check signatures.
//!
//! Not here: asking. The federation door does, and brings the answers.

mod changes;
mod fetching;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::BTreeMap;

use causeway_storage::device_lists::{self as lists, RemoteList};
use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId, UserId};
use serde_json::{Map, Value, json, value::RawValue};

pub use causeway_storage::device_lists::Stale;

pub use self::{
    changes::{CrossSigningUpdate, DeviceUpdate},
    fetching::Due,
    turns::Turns,
};
use super::{
    CrossSigningKind, KEY_BYTES_MAX, Keys, Object, SIGNED_BYTES_MAX,
    checks::{check_cross_signing, object, only_key, verify},
};
use crate::error::MatrixError;

/// Devices of one user of another server that are looked at.
const DEVICES_MAX: usize = 1_000;

/// One list that is held, in bytes.
const LIST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The name of a device of another server's user, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Users, and which of their devices are meant; all if none is named.
pub type Asked = BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>;

/// Devices, and of which algorithm a key of each is wanted.
pub type Wanted = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, String>>;

/// The public keys of one user.
#[derive(Clone, Debug, Default)]
pub struct UserKeys {
    /// By device id.
    pub devices: BTreeMap<String, Value>,
    /// The master key.
    pub master: Option<Object>,
    /// The self-signing key.
    pub self_signing: Option<Object>,
    /// The user-signing key: for its owner only.
    pub user_signing: Option<Object>,
}

/// What is known here, and who else is to be asked.
#[derive(Debug, Default)]
pub struct Query {
    /// Answered.
    pub found: BTreeMap<OwnedUserId, UserKeys>,
    /// To be asked.
    pub elsewhere: BTreeMap<OwnedServerName, Asked>,
}

impl Keys {
    /// The keys of users as far as they are known here.
    ///
    /// # Errors
    /// Storage.
    pub fn query(&self, asker: &UserId, asked: Asked) -> Result<Query, MatrixError> {
        let mut query = Query::default();
        for (user_id, devices) in asked {
            if user_id.server_name() == self.rooms.server_name() {
                let keys = self.local(asker, &user_id, &devices)?;
                query.found.insert(user_id, keys);
            } else if let Some(list) = self.complete_list(&user_id)? {
                let keys = self.shown(asker, &user_id, &devices, &list)?;
                query.found.insert(user_id, keys);
            } else {
                let server = user_id.server_name().to_owned();
                query.elsewhere.entry(server).or_default().insert(user_id, devices);
            }
        }
        Ok(query)
    }

    /// What another server's answer to `user/keys/query` says of those who were
    /// asked for; where it gave none, what is held, though it may be outdated.
    /// Lists of users with whom a room is shared are then fetched.
    ///
    /// # Errors
    /// Storage.
    pub fn take_answer(
        &self,
        asker: &UserId,
        asked: Asked,
        answer: Option<&Value>,
    ) -> Result<BTreeMap<OwnedUserId, UserKeys>, MatrixError> {
        let mut found = BTreeMap::new();
        let mut shared = Vec::new();
        for (user_id, devices) in asked {
            let list = match answer {
                Some(answer) => answered(&user_id, answer),
                None => lists::remote(&self.database, &user_id)?,
            };
            if let Some(list) = list {
                found.insert(user_id.clone(), self.shown(asker, &user_id, &devices, &list)?);
            }
            if self.rooms.shares_a_room(&user_id)? {
                shared.push(user_id);
            }
        }
        self.mark_stale(&shared)?;
        Ok(found)
    }

    /// What of an answer to `user/keys/claim` was asked for: one key for each device.
    pub fn claimed_elsewhere(wanted: &Wanted, answer: &Value) -> BTreeMap<OwnedUserId, Map<String, Value>> {
        let mut claimed: BTreeMap<OwnedUserId, Map<String, Value>> = BTreeMap::new();
        for (user_id, devices) in wanted {
            for (device_id, algorithm) in devices {
                let keys = answer["one_time_keys"][user_id.as_str()][device_id.as_str()].as_object();
                let is_wanted = |id: &str| id.split_once(':').is_some_and(|(kind, _)| kind == algorithm);
                let key = keys
                    .into_iter()
                    .flatten()
                    .find(|(id, key)| is_wanted(id) && id.len() + key.to_string().len() <= KEY_BYTES_MAX);
                if let Some((id, key)) = key {
                    let by_device = claimed.entry(user_id.clone()).or_default();
                    by_device.insert(device_id.to_string(), json!({ (id.as_str()): key }));
                }
            }
        }
        claimed
    }

    /// A user's master key, of whichever server the user is.
    pub(super) fn master_key(&self, user_id: &UserId) -> Result<Option<Object>, MatrixError> {
        if user_id.server_name() == self.rooms.server_name() {
            return self.cross_signing(user_id, CrossSigningKind::Master);
        }
        let list = lists::remote(&self.database, user_id)?;
        list.and_then(|list| list.master).map(|master| object(&master)).transpose()
    }

    fn local(
        &self,
        asker: &UserId,
        user_id: &UserId,
        devices: &[OwnedDeviceId],
    ) -> Result<UserKeys, MatrixError> {
        let mut master = self.cross_signing(user_id, CrossSigningKind::Master)?;
        // With which key a user signs others is nobody else's business.
        let user_signing = if user_id == asker {
            self.cross_signing(user_id, CrossSigningKind::UserSigning)?
        } else {
            if let Some(master) = &mut master {
                self.add_own_signature(asker, user_id, master)?;
            }
            None
        };
        Ok(UserKeys {
            devices: self.devices(user_id, devices)?,
            master,
            self_signing: self.cross_signing(user_id, CrossSigningKind::SelfSigning)?,
            user_signing,
        })
    }

    /// The list that is held of a user, if it may be used.
    fn complete_list(&self, user_id: &UserId) -> Result<Option<RemoteList>, MatrixError> {
        let Some(list) = lists::remote(&self.database, user_id)? else { return Ok(None) };
        if lists::stale(&self.database, user_id)?.is_some() || !self.rooms.shares_a_room(user_id)? {
            return Ok(None);
        }
        Ok(Some(list))
    }

    fn shown(
        &self,
        asker: &UserId,
        user_id: &UserId,
        devices: &[OwnedDeviceId],
        list: &RemoteList,
    ) -> Result<UserKeys, MatrixError> {
        let mut keys = UserKeys::default();
        for (device_id, raw) in &list.devices {
            if devices.is_empty() || devices.iter().any(|wanted| wanted == device_id.as_str()) {
                keys.devices.insert(device_id.clone(), Value::Object(object(raw)?));
            }
        }
        keys.master = list.master.as_deref().map(object).transpose()?;
        keys.self_signing = list.self_signing.as_deref().map(object).transpose()?;
        if let Some(master) = &mut keys.master {
            self.add_own_signature(asker, user_id, master)?;
        }
        Ok(keys)
    }
}

/// One user's part of an answer to `user/keys/query`; `None` if there is none.
fn answered(user_id: &UserId, answer: &Value) -> Option<RemoteList> {
    let devices = answer["device_keys"][user_id.as_str()].as_object()?;
    let mut list = RemoteList::default();
    for (device_id, keys) in devices.iter().take(DEVICES_MAX) {
        let name = keys["unsigned"]["device_display_name"].as_str();
        if let Some(keys) = device(user_id, device_id, keys, name) {
            list.devices.insert(device_id.clone(), keys);
        }
    }
    let key = |field: &str| answer[field].get(user_id.as_str());
    set_cross_signing(user_id, &mut list, key("master_keys"), key("self_signing_keys"));
    Some(list)
}

/// Device keys as they are held: those of this device, with nothing unsigned
/// but the device's name.
fn device(user_id: &UserId, device_id: &str, keys: &Value, name: Option<&str>) -> Option<Box<RawValue>> {
    let mut keys = keys.as_object()?.clone();
    let is = |field: &str, value: &str| keys.get(field).and_then(Value::as_str) == Some(value);
    if !is("user_id", user_id.as_str()) || !is("device_id", device_id) {
        return None;
    }
    keys.remove("unsigned");
    if let Some(name) = name.filter(|name| name.len() <= NAME_BYTES_MAX) {
        keys.insert("unsigned".to_owned(), json!({ "device_display_name": name }));
    }
    raw(&Value::Object(keys))
}

/// Takes cross-signing keys that are whole: of the user, of their kind, and the
/// second signed by the first.
fn set_cross_signing(
    user_id: &UserId,
    list: &mut RemoteList,
    master: Option<&Value>,
    self_signing: Option<&Value>,
) {
    let checked = |key: Option<&Value>, kind| {
        let key =
            key.and_then(Value::as_object).filter(|key| check_cross_signing(user_id, kind, key).is_ok())?;
        Some(key.clone())
    };
    if let Some(master) = checked(master, CrossSigningKind::Master) {
        list.master = raw(&Value::Object(master));
    }
    let held = list.master.as_deref().and_then(|master| only_key(&object(master).ok()?).ok());
    let Some((id, public)) = held else { return };
    let is_signed = |key: &Object| verify(user_id, &id, &public, key).is_ok();
    if let Some(key) = checked(self_signing, CrossSigningKind::SelfSigning).filter(is_signed) {
        list.self_signing = raw(&Value::Object(key));
    }
    // A key that the present master key did not sign is of no use to anybody.
    let held = list.self_signing.as_deref().and_then(|key| object(key).ok());
    if held.is_none_or(|held| !is_signed(&held)) {
        list.self_signing = None;
    }
    drop_ambiguous(list);
}

/// Leaves out devices that are called like a cross-signing key: a signature by
/// `ed25519:…` would be of either (client-server API, "Cross-signing").
fn drop_ambiguous(list: &mut RemoteList) {
    let public = |key: &RawValue| only_key(&object(key).ok()?).ok().map(|(_, public)| public);
    for key in [&list.master, &list.self_signing] {
        if let Some(public) = key.as_deref().and_then(public) {
            list.devices.remove(&public);
        }
    }
}

fn raw(value: &Value) -> Option<Box<RawValue>> {
    let text = value.to_string();
    if text.len() > SIGNED_BYTES_MAX { None } else { RawValue::from_string(text).ok() }
}

/// The keys of a list, without its number.
fn text(list: &RemoteList) -> (Vec<(&str, &str)>, Option<&str>, Option<&str>) {
    let devices = list.devices.iter().map(|(device_id, keys)| (device_id.as_str(), keys.get())).collect();
    (devices, list.master.as_deref().map(RawValue::get), list.self_signing.as_deref().map(RawValue::get))
}

fn is_small(list: &RemoteList) -> bool {
    let keys = list.devices.values().chain(&list.master).chain(&list.self_signing);
    list.devices.len() <= DEVICES_MAX && keys.map(|key| key.get().len()).sum::<usize>() <= LIST_BYTES_MAX
}
