//! What a user has set for a room goes over to the room that replaced it, when he comes into
//! that (client-server API, "Room upgrades"): tags, direct chats and push rules.
//!
//! Not here: the replacing itself (`upgrade`). Only a room that its predecessor names as its
//! successor gets anything, and what the user has set for it already stays.

use causeway_storage::account_data as rows;
use ruma::{
    RoomId, UserId,
    push::{NewPushRule, NewSimplePushRule, RuleKind},
};
use serde_json::{Map, Value, value::to_raw_value};

use crate::{account_data::AccountData, error::MatrixError, rooms::Rooms};

const TAGS: &str = "m.tag";
const DIRECT: &str = "m.direct";

/// Carries a user's settings from the room that `room_id` replaces, if it replaces one. What
/// can't be carried is left: the user is in the room in any case.
pub fn carry_settings(rooms: &Rooms, data: &AccountData, user_id: &UserId, room_id: &RoomId) {
    if let Err(error) = carry(rooms, data, user_id, room_id) {
        tracing::warn!(%room_id, %error, "settings could not be carried into a room's successor");
    }
}

fn carry(rooms: &Rooms, data: &AccountData, user_id: &UserId, new: &RoomId) -> Result<(), MatrixError> {
    let text = |room_id: &RoomId, kind: &str, path: [&str; 2]| -> Result<Option<String>, MatrixError> {
        let Some(event) = rooms.state_event(room_id, kind, "")? else { return Ok(None) };
        let content = Value::Object(event.content_object());
        Ok(content.pointer(&path.concat()).and_then(Value::as_str).map(str::to_owned))
    };
    let Some(old) = text(new, "m.room.create", ["/predecessor", "/room_id"])? else { return Ok(()) };
    let Ok(old) = RoomId::parse(&old) else { return Ok(()) };
    if text(&old, "m.room.tombstone", ["/replacement_room", ""])?.as_deref() != Some(new.as_str()) {
        return Ok(());
    }
    if let Some((_, tags)) = rows::get(&data.database, user_id, Some(&old), TAGS)?
        && rows::get(&data.database, user_id, Some(new), TAGS)?.is_none()
    {
        data.change(user_id, Some(new), TAGS, |_| Ok(((), tags)))?;
    }
    carry_direct(data, user_id, &old, new)?;
    carry_rule(data, user_id, &old, new)
}

/// Each person with whom the old room was a direct chat has the new one, too.
fn carry_direct(data: &AccountData, user_id: &UserId, old: &RoomId, new: &RoomId) -> Result<(), MatrixError> {
    let with_new = |content: &str| {
        let mut direct: Map<String, Value> = serde_json::from_str(content).ok()?;
        let mut is_changed = false;
        for rooms in direct.values_mut().filter_map(Value::as_array_mut) {
            let has = |room: &RoomId| rooms.iter().any(|named| named.as_str() == Some(room.as_str()));
            if has(old) && !has(new) {
                rooms.push(new.as_str().into());
                is_changed = true;
            }
        }
        is_changed.then_some(direct)
    };
    let Some((_, held)) = rows::get(&data.database, user_id, None, DIRECT)? else { return Ok(()) };
    if with_new(held.get()).is_none() {
        return Ok(());
    }
    data.change(user_id, None, DIRECT, |before| {
        let before = before.unwrap_or(&held);
        let changed = with_new(before.get()).map(|direct| to_raw_value(&direct)).transpose();
        let changed = changed.map_err(|error| MatrixError::internal(&error))?;
        Ok(((), changed.unwrap_or_else(|| before.to_owned())))
    })
}

/// The rule of the old room, for the new one.
fn carry_rule(data: &AccountData, user_id: &UserId, old: &RoomId, new: &RoomId) -> Result<(), MatrixError> {
    let rules = data.push_rules(user_id)?;
    let Some(rule) = rules.get(RuleKind::Room, old) else { return Ok(()) };
    if rules.get(RuleKind::Room, new).is_some() {
        return Ok(());
    }
    let (actions, is_enabled) = (rule.actions().to_vec(), rule.enabled());
    data.change_push_rules(user_id, |rules| {
        let copy = NewPushRule::Room(NewSimplePushRule::new(new.to_owned(), actions));
        let refused = |error: &dyn std::error::Error| MatrixError::invalid_param(error.to_string());
        rules.insert(copy, None, None).map_err(|error| refused(&error))?;
        rules.set_enabled(RuleKind::Room, new, is_enabled).map_err(|error| refused(&error))
    })
}
