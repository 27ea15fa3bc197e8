//! Account data, push rules, filters, pushers: what a user's clients keep here.
//!
//! Push rules are the account data `m.push_rules`; a user without any has the
//! specification's default set, without its being stored.

use std::sync::{Arc, Mutex, PoisonError};

use causeway_storage::{Database, account_data as rows};
use ruma::{RoomId, UserId, push::Ruleset};
use serde_json::{Value, json, value::RawValue};

use crate::{
    error::MatrixError,
    notify::{Notifier, Topic},
    push_rules::{PUSH_RULES, parse_rules},
    secrets,
};

/// The content of one piece, in bytes.
pub const CONTENT_BYTES_MAX: usize = 64 * 1024;

/// The name of a type, in bytes.
const TYPE_BYTES_MAX: usize = 255;

/// A stored filter, in bytes.
const FILTER_BYTES_MAX: usize = 16 * 1024;

/// Characters of a filter's id: it is derived from the content's hash.
const FILTER_ID_CHARS: usize = 16;

/// A pusher, in bytes; and how many a user may have.
const PUSHER_BYTES_MAX: usize = 8 * 1024;
const PUSHERS_MAX: usize = 50;

/// Types that the server manages itself: clients may not set them directly.
const MANAGED: &[&str] = &[PUSH_RULES, "m.fully_read"];

/// See the module.
pub struct AccountData {
    database: Database,
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

    /// A user's pushers.
    pub fn pushers(&self, user_id: &UserId) -> Result<Vec<Box<RawValue>>, MatrixError> {
        Ok(rows::pushers(&self.database, user_id, PUSHERS_MAX)?)
    }

    /// Sets a pusher, or deletes it when its `kind` is null.
    pub fn set_pusher(&self, user_id: &UserId, pusher: &Value) -> Result<(), MatrixError> {
        let text = |field: &str| {
            pusher[field].as_str().ok_or_else(|| MatrixError::bad_json(format!("Missing {field}")))
        };
        let (app_id, push_key) = (text("app_id")?, text("pushkey")?);
        let content = raw(pusher)?;
        if content.get().len() > PUSHER_BYTES_MAX {
            return Err(MatrixError::too_large("The pusher is too large"));
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let delete = pusher["kind"].is_null();
        if !delete && rows::pushers(&self.database, user_id, PUSHERS_MAX)?.len() >= PUSHERS_MAX {
            return Err(MatrixError::too_large("Too many pushers"));
        }
        let mut batch = self.database.batch();
        rows::put_pusher(&mut batch, user_id, app_id, push_key, (!delete).then_some(&*content));
        self.database.commit_durable(batch)?;
        Ok(())
    }
}

fn raw(value: &Value) -> Result<Box<RawValue>, MatrixError> {
    serde_json::value::to_raw_value(value).map_err(|error| MatrixError::internal(&error))
}
