//! Moving on to a new room: what a server does in several rooms for one request.
//!
//! Each room is changed on its own: there is no batch over rooms. What fails
//! half-way is safe to ask for again.

use std::sync::Arc;

use causeway_room::NewEvent;
use causeway_storage::{Database, directory};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId};
use serde_json::{Map, Value, json};

use crate::{
    clock::Clock,
    error::MatrixError,
    profiles::Profile,
    rooms::{CreateRoom, InitialState, RoomError, Rooms, VersionRules},
    shared_space::copying,
};

/// What it takes to speak in a room that was replaced, at least.
const SILENT_LEVEL: i64 = 50;

/// State that goes over to the new room (client-server API, "Room upgrades"),
/// and that of the shared space.
const CARRIED: [&str; 10] = [
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "org.causeway.shared_space",
];

/// Aliases that are moved.
const ALIASES_MAX: usize = 1_000;

/// Users that may be named as further creators.
const CREATORS_MAX: usize = 100;

/// See the module.
pub struct Upgrades {
    database: Database,
    rooms: Arc<Rooms>,
    clock: Clock,
}

impl Upgrades {
    /// Over these rooms.
    pub fn new(database: Database, rooms: Arc<Rooms>, clock: Clock) -> Self {
        Self { database, rooms, clock }
    }

    /// Makes the room's successor and closes the room.
    ///
    /// # Errors
    /// 403 without the power to send a tombstone; 400 for a version that is not supported.
    pub fn upgrade(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        version: &RoomVersionId,
        creators: &[OwnedUserId],
        profile: Profile,
    ) -> Result<OwnedRoomId, MatrixError> {
        let rules = VersionRules::of(version)?;
        if creators.len() > CREATORS_MAX {
            return Err(MatrixError::invalid_param("Too many creators"));
        }
        if !self.rooms.may_send_state(room_id, user_id, "m.room.tombstone")? {
            return Err(MatrixError::forbidden("You may not upgrade this room"));
        }
        let privileged = rules.rules.authorization.explicitly_privilege_room_creators;
        let mut creation_content = self.creation_content(room_id)?;
        creation_content.insert("predecessor".to_owned(), json!({ "room_id": room_id }));
        if privileged && !creators.is_empty() {
            creation_content.insert("additional_creators".to_owned(), json!(creators));
        }
        let request = CreateRoom {
            version: Some(version.clone()),
            creation_content,
            initial_state: self.carried(room_id)?,
            power_level_content_override: self.power_levels(room_id, user_id, creators, privileged)?,
            published: directory::is_published(&self.database, room_id)?,
            creator_profile: profile,
            ..CreateRoom::default()
        };
        let replacement = self.rooms.create(user_id, &request)?.room_id;
        let mut batch = self.database.batch();
        copying::plan(&mut batch, user_id, room_id, &replacement, self.clock.now_ms());
        self.database.commit_durable(batch)?;
        let tombstone = json!({ "body": "This room has been replaced", "replacement_room": replacement });
        self.send(room_id, user_id, "m.room.tombstone", tombstone)?;
        self.move_aliases(room_id, &replacement)?;
        if let Err(error) = self.silence(room_id, user_id) {
            tracing::warn!(%room_id, %error, "a room that was replaced could not be silenced");
        }
        Ok(replacement)
    }

    /// Raises what it takes to speak and to invite in a room that was replaced, as far as
    /// its upgrader may.
    fn silence(&self, room_id: &RoomId, user_id: &UserId) -> Result<(), MatrixError> {
        const LEVELS: &str = "m.room.power_levels";
        let held = self.rooms.state_event(room_id, LEVELS, "")?;
        let mut levels = held.map(|held| held.content_object()).unwrap_or_default();
        let level = |levels: &Map<String, Value>, field: &str| {
            levels.get(field).and_then(Value::as_i64).unwrap_or_default()
        };
        let silent = level(&levels, "users_default").saturating_add(1).max(SILENT_LEVEL);
        let mut is_changed = false;
        for field in ["events_default", "invite"] {
            if level(&levels, field) < silent {
                levels.insert(field.to_owned(), silent.into());
                is_changed = true;
            }
        }
        if !is_changed || !self.rooms.may_send_state(room_id, user_id, LEVELS)? {
            return Ok(());
        }
        self.send(room_id, user_id, LEVELS, Value::Object(levels))
    }

    fn creation_content(&self, room_id: &RoomId) -> Result<Map<String, Value>, MatrixError> {
        let create = self.rooms.state_event(room_id, "m.room.create", "")?;
        let mut content = create.map(|create| create.content_object()).unwrap_or_default();
        content.retain(|field, _| matches!(field.as_str(), "type" | "m.federate"));
        Ok(content)
    }

    fn carried(&self, room_id: &RoomId) -> Result<Vec<InitialState>, MatrixError> {
        let mut carried = Vec::new();
        for kind in CARRIED {
            if let Some(event) = self.rooms.state_event(room_id, kind, "")? {
                let content = Value::Object(event.content_object());
                carried.push(InitialState { kind: kind.to_owned(), state_key: String::new(), content });
            }
        }
        Ok(carried)
    }

    /// The old levels. Privileged creators have theirs from the create event and
    /// must not stand among them.
    fn power_levels(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        creators: &[OwnedUserId],
        privileged: bool,
    ) -> Result<Map<String, Value>, MatrixError> {
        let levels = self.rooms.state_event(room_id, "m.room.power_levels", "")?;
        let mut levels = levels.map(|levels| levels.content_object()).unwrap_or_default();
        if let Some(Value::Object(users)) = levels.get_mut("users") {
            if privileged {
                users.retain(|user, _| {
                    user != user_id.as_str() && creators.iter().all(|creator| creator != user)
                });
            } else {
                users.entry(user_id.as_str()).or_insert_with(|| 100.into());
            }
        }
        Ok(levels)
    }

    fn send(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        kind: &str,
        content: Value,
    ) -> Result<(), MatrixError> {
        let event = NewEvent::new(kind, user_id.to_owned(), Some(String::new()), content);
        self.rooms.send(room_id, event.map_err(RoomError::from)?, None)?;
        Ok(())
    }

    fn move_aliases(&self, old: &RoomId, new: &RoomId) -> Result<(), MatrixError> {
        let mut batch = self.database.batch();
        for alias in directory::aliases_of(&self.database, old, ALIASES_MAX)? {
            if let Some(held) = directory::alias(&self.database, &alias)? {
                directory::delete_alias(&mut batch, &alias, old);
                directory::put_alias(&mut batch, &alias, new, &held.creator);
            }
        }
        directory::set_published(&mut batch, old, false);
        self.database.commit_durable(batch)?;
        Ok(())
    }
}
