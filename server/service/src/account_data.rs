//! Account data, push rules, filters, pushers: what a user's clients keep here.
//!
//! Push rules are the account data `m.push_rules`; a user without any has the
//! specification's default set, without its being stored.

use std::sync::{Arc, Mutex, PoisonError};

use causeway_storage::{
    Database, account_data as rows,
    push_queue::{self, PusherKey},
};
use ruma::{DeviceId, RoomId, UserId, push::Ruleset};
use serde_json::{Value, json, value::RawValue};

use crate::{
    error::MatrixError,
    notify::{Notifier, Topic},
    push_rules::{PUSH_RULES, parse_rules},
    pushers::gateway,
    secrets,
};

/// The content of one piece, in bytes.
pub const CONTENT_BYTES_MAX: usize = 64 * 1024;

/// Pieces of one user, of all rooms and of none.
pub const PIECES_MAX: usize = 50_000;

/// The name of a type, in bytes.
const TYPE_BYTES_MAX: usize = 255;

/// A stored filter, in bytes.
const FILTER_BYTES_MAX: usize = 16 * 1024;

/// Characters of a filter's id: it is derived from the content's hash.
const FILTER_ID_CHARS: usize = 16;

/// An `app_id` and a `pushkey`, in bytes; the specification's numbers.
const APP_ID_BYTES_MAX: usize = 64;
const PUSH_KEY_BYTES_MAX: usize = 512;

/// A pusher, in bytes; and how many a user may have.
const PUSHER_BYTES_MAX: usize = 8 * 1024;
const PUSHERS_MAX: usize = 50;

/// Types that the server manages itself: clients may not set them directly.
const MANAGED: &[&str] = &[PUSH_RULES, "m.fully_read"];

/// See the module.
pub struct AccountData {
    pub(crate) database: Database,
    notifier: Arc<Notifier>,
    /// Held from reading a piece until what follows from it is committed.
    writing: Mutex<()>,
}

impl AccountData {
    /// Over `database`.
    pub fn new(database: Database, notifier: Arc<Notifier>) -> Self {
        Self { database, notifier, writing: Mutex::default() }
    }

    /// One piece; globally without a room.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND`.
    pub fn get(
        &self,
        user_id: &UserId,
        room_id: Option<&RoomId>,
        kind: &str,
    ) -> Result<Box<RawValue>, MatrixError> {
        if room_id.is_none() && kind == PUSH_RULES {
            return raw(&json!({ "global": self.push_rules(user_id)? }));
        }
        let stored = rows::get(&self.database, user_id, room_id, kind)?;
        stored.map(|(_, content)| content).ok_or_else(|| MatrixError::not_found("Account data not found"))
    }

    /// Forgets all of a user whose account is closed.
    pub fn erase(&self, user_id: &UserId) -> Result<(), MatrixError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = self.database.batch();
        rows::delete_all(&mut batch, user_id);
        Ok(self.database.commit_durable(batch).map(drop)?)
    }

    /// Sets one piece for a client.
    ///
    /// # Errors
    /// 405 for a type that the server manages, 413 for too much, 400 for what is no object.
    pub fn set(
        &self,
        user_id: &UserId,
        room_id: Option<&RoomId>,
        kind: &str,
        content: &RawValue,
    ) -> Result<(), MatrixError> {
        if MANAGED.contains(&kind) {
            return Err(MatrixError::new(405, "M_BAD_JSON", "The server manages this type itself"));
        }
        if kind.is_empty() || kind.len() > TYPE_BYTES_MAX {
            return Err(MatrixError::invalid_param("A type has 1 to 255 bytes"));
        }
        if content.get().len() > CONTENT_BYTES_MAX {
            return Err(MatrixError::too_large("Account data is too large"));
        }
        if !content.get().trim_start().starts_with('{') {
            return Err(MatrixError::bad_json("Account data is an object"));
        }
        self.change(user_id, room_id, kind, |_| Ok(((), content.to_owned())))
    }

    /// Changes one piece by a function of what it was; for types that the server manages, too.
    pub fn change<R>(
        &self,
        user_id: &UserId,
        room_id: Option<&RoomId>,
        kind: &str,
        change: impl FnOnce(Option<&RawValue>) -> Result<(R, Box<RawValue>), MatrixError>,
    ) -> Result<R, MatrixError> {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = rows::get(&self.database, user_id, room_id, kind)?;
        if before.is_none() && rows::is_full(&self.database, user_id, PIECES_MAX)? {
            return Err(MatrixError::too_large("There is too much account data"));
        }
        let (result, content) = change(before.as_ref().map(|(_, content)| &**content))?;
        let mut batch = self.database.batch();
        rows::put(&mut batch, user_id, room_id, kind, &content, before.map(|(position, _)| position));
        let commit = self.database.commit(batch)?;
        drop(writing);
        self.database.wait_durable(commit)?;
        self.notifier.notify([&Topic::User(user_id.to_owned())]);
        Ok(result)
    }

    /// A user's push rules.
    pub fn push_rules(&self, user_id: &UserId) -> Result<Ruleset, MatrixError> {
        let stored = rows::get(&self.database, user_id, None, PUSH_RULES)?;
        Ok(parse_rules(user_id, stored.as_ref().map(|(_, content)| &**content))?)
    }

    /// Changes a user's push rules.
    pub fn change_push_rules<R>(
        &self,
        user_id: &UserId,
        change: impl FnOnce(&mut Ruleset) -> Result<R, MatrixError>,
    ) -> Result<R, MatrixError> {
        self.change(user_id, None, PUSH_RULES, |before| {
            let mut rules = parse_rules(user_id, before)?;
            let result = change(&mut rules)?;
            let content = raw(&json!({ "global": rules }))?;
            if content.get().len() > CONTENT_BYTES_MAX {
                return Err(MatrixError::too_large("Too many push rules"));
            }
            Ok((result, content))
        })
    }

    /// Stores a filter; the same filter always gets the same id.
    pub fn create_filter(&self, user_id: &UserId, filter: &RawValue) -> Result<String, MatrixError> {
        if filter.get().len() > FILTER_BYTES_MAX {
            return Err(MatrixError::too_large("The filter is too large"));
        }
        let mut id = hex::encode(secrets::hash(filter.get()));
        id.truncate(FILTER_ID_CHARS);
        if rows::filter(&self.database, user_id, &id)?.is_none() {
            let mut batch = self.database.batch();
            rows::put_filter(&mut batch, user_id, &id, filter);
            self.database.commit_durable(batch)?;
        }
        Ok(id)
    }

    /// A stored filter.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND`.
    pub fn filter(&self, user_id: &UserId, filter_id: &str) -> Result<Box<RawValue>, MatrixError> {
        rows::filter(&self.database, user_id, filter_id)?
            .ok_or_else(|| MatrixError::not_found("Unknown filter"))
    }

    /// A user's pushers, as they were set.
    pub fn pushers(&self, user_id: &UserId) -> Result<Vec<Value>, MatrixError> {
        let mut pushers = Vec::new();
        for pusher in rows::pushers(&self.database, user_id, PUSHERS_MAX)? {
            let mut pusher: Value =
                serde_json::from_str(pusher.get()).map_err(|error| MatrixError::internal(&error))?;
            if let Some(pusher) = pusher.as_object_mut() {
                pusher.remove(push_queue::DEVICE);
            }
            pushers.push(pusher);
        }
        Ok(pushers)
    }

    /// Sets a pusher of a device, or deletes it when its `kind` is null. Unless
    /// it is appended it takes the place of other users' on the same phone.
    ///
    /// # Errors
    /// 400 for what is missing, too long, or no gateway.
    pub fn set_pusher(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        pusher: &Value,
    ) -> Result<(), MatrixError> {
        let text = |field: &str, max: usize| {
            let text = pusher[field].as_str();
            let text =
                text.ok_or_else(|| MatrixError::new(400, "M_MISSING_PARAM", format!("Missing {field}")))?;
            let is_fit = !text.is_empty() && text.len() <= max;
            is_fit.then_some(text).ok_or_else(|| MatrixError::invalid_param(format!("Not a {field}")))
        };
        let (app_id, push_key) = (text("app_id", APP_ID_BYTES_MAX)?, text("pushkey", PUSH_KEY_BYTES_MAX)?);
        let key = PusherKey { user_id: user_id.to_owned(), app_id: app_id.into(), push_key: push_key.into() };
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = self.database.batch();
        if pusher["kind"].is_null() {
            push_queue::delete_pusher(&mut batch, &key);
        } else {
            for field in ["app_display_name", "device_display_name", "lang"] {
                text(field, PUSHER_BYTES_MAX)?;
            }
            if gateway(pusher).is_none() {
                return Err(MatrixError::invalid_param("Only HTTPS push gateways can be told"));
            }
            let held = push_queue::pushers_of(&self.database, user_id, PUSHERS_MAX)?;
            if held.len() >= PUSHERS_MAX && !held.iter().any(|(held, _)| *held == key) {
                return Err(MatrixError::too_large("Too many pushers"));
            }
            let mut stored = pusher.clone();
            stored[push_queue::DEVICE] = device_id.as_str().into();
            let content = raw(&stored)?;
            if content.get().len() > PUSHER_BYTES_MAX {
                return Err(MatrixError::too_large("The pusher is too large"));
            }
            if pusher["append"] != true {
                push_queue::delete_others(&self.database, &mut batch, &key)?;
            }
            rows::put_pusher(&mut batch, user_id, app_id, push_key, Some(&content));
        }
        let commit = self.database.commit(batch)?;
        drop(writing);
        self.database.wait_durable(commit)?;
        Ok(())
    }
}

fn raw(value: &Value) -> Result<Box<RawValue>, MatrixError> {
    serde_json::value::to_raw_value(value).map_err(|error| MatrixError::internal(&error))
}

#[cfg(test)]
mod tests {
    use causeway_storage::Options;
    use ruma::user_id;

    use super::*;

    #[test]
    fn a_user_has_only_so_many_pieces() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(folder.path(), &Options::default()).expect("opens");
        let alice = user_id!("@alice:a.example");
        let content = raw(&json!({})).expect("JSON");
        let mut batch = database.batch();
        for n in 1..PIECES_MAX {
            rows::put(&mut batch, alice, None, &format!("org.t{n}"), &content, None);
        }
        database.commit_durable(batch).expect("commits");
        let data = AccountData::new(database, Arc::new(Notifier::default()));
        data.set(alice, None, "org.last", &content).expect("has room");
        let refused = data.set(alice, None, "org.more", &content).expect_err("is too much");
        assert_eq!(refused.status, 413);
        data.set(alice, None, "org.last", &content).expect("is there already");
        data.set(user_id!("@bob:a.example"), None, "org.more", &content).expect("is another's");
    }
}
