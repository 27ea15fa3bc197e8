//! Creating a room (client-server API, "Creation"): everything of it in one batch.

use std::sync::Arc;

use causeway_room::{NewEvent, Placement, auth, build, state_tree, version};
use causeway_storage::{directory, rooms::Room};
use ruma::{OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId};
use serde_json::{Map, Value, json};

use super::{
    Rooms,
    error::RoomError,
    head::Head,
    store::VersionRules,
    writer::{Admission, RoomWriter},
};

/// Tries to find an id for a room of version 12, which is made of the creation's content and time.
const CREATE_ATTEMPTS_MAX: u64 = 100;
/// Users invited at creation.
const INVITES_MAX: usize = 100;
/// Initial state events.
const INITIAL_STATE_MAX: usize = 200;

/// A set of defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// By invitation.
    #[default]
    PrivateChat,
    /// By invitation, and all invited have the creator's power.
    TrustedPrivateChat,
    /// Open to all.
    PublicChat,
}

/// A state event that the creator wants from the beginning.
#[derive(Clone, Debug)]
pub struct InitialState {
    /// Its type.
    pub kind: String,
    /// Its state key.
    pub state_key: String,
    /// Its content.
    pub content: Value,
}

/// What a room is created with.
#[derive(Clone, Debug, Default)]
pub struct CreateRoom {
    /// `None` is the server's default.
    pub version: Option<RoomVersionId>,
    /// Further content of the create event.
    pub creation_content: Map<String, Value>,
    /// Defaults.
    pub preset: Preset,
    /// Comes after the preset's events, and replaces them.
    pub initial_state: Vec<InitialState>,
    /// Replaces top-level fields of the default power levels.
    pub power_level_content_override: Map<String, Value>,
    /// Who is invited.
    pub invite: Vec<OwnedUserId>,
    /// Whether the invites say that it is a direct chat.
    pub is_direct: bool,
    /// An alias of this server.
    pub alias: Option<OwnedRoomAliasId>,
    /// Whether the directory lists the room.
    pub published: bool,
    /// `m.room.name`.
    pub name: Option<String>,
    /// `m.room.topic`.
    pub topic: Option<String>,
    /// `displayname` and `avatar_url` of the creator's membership.
    pub creator_profile: Map<String, Value>,
}

/// A created room.
#[derive(Clone, Debug)]
pub struct Created {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Users of other servers who are still to be invited, one by one.
    pub remote_invites: Vec<OwnedUserId>,
}

impl Rooms {
    /// Creates a room.
    ///
    /// # Errors
    /// [`RoomError::UnsupportedVersion`], [`RoomError::AliasInUse`],
    /// [`RoomError::Invalid`] when what was asked for contradicts itself or the
    /// room's own rules; nothing of the room exists then.
    pub fn create(&self, creator: &UserId, request: &CreateRoom) -> Result<Created, RoomError> {
        if request.invite.len() > INVITES_MAX || request.initial_state.len() > INITIAL_STATE_MAX {
            return Err(RoomError::Invalid("too many invites or initial state events".to_owned()));
        }
        let rules = VersionRules::of(request.version.as_ref().unwrap_or(&version::DEFAULT))?;
        let now_ms = self.clock.now_ms();
        for attempt in 0..CREATE_ATTEMPTS_MAX {
            if let Some(created) = self.create_at(creator, request, &rules, now_ms + attempt)? {
                return Ok(created);
            }
        }
        Err(RoomError::Invalid("too many rooms are created at once".to_owned()))
    }

    /// `None` when a room of that id exists.
    fn create_at(
        &self,
        creator: &UserId,
        request: &CreateRoom,
        rules: &Arc<VersionRules>,
        now_ms: u64,
    ) -> Result<Option<Created>, RoomError> {
        let own_id = rules.rules.authorization.room_create_event_id_as_room_id;
        let room_id = (!own_id).then(|| RoomId::new_v1(&self.server_name));
        let placement = Placement {
            room_id,
            prev_events: Vec::new(),
            auth_events: Vec::new(),
            depth: 1,
            origin_server_ts: now_ms,
        };
        let content = create_content(creator, request, rules)?;
        let event = NewEvent::new("m.room.create", creator.to_owned(), Some(String::new()), content)?;
        let create = build::build(&rules.rules, &event, &placement, &self.server_name, self.key_pair())?;
        let create = Arc::new(create);
        auth::check_auth_events(&rules.rules, &create, |_| None)
            .map_err(|refusal| RoomError::Invalid(refusal.0))?;
        let room_id = create.room_id().to_owned();
        let empty = Room {
            version: rules.version.clone(),
            create: create.event_id().to_owned(),
            heads: Vec::new(),
            state: state_tree::empty(),
            history_floor: 0,
        };
        if self.store.version(&room_id)?.is_some() {
            return Ok(None);
        }
        self.write_from(
            &room_id,
            || Ok(Head::new(Arc::clone(rules), empty)),
            |writer| {
                if !writer.head.row.heads.is_empty() {
                    return Ok(None);
                }
                let before = state_tree::empty();
                let admission = Admission { before, relay: false, missing: Vec::new(), followed: false };
                writer.admit(&create, admission)?;
                writer.furnish(creator, request).map_err(refused)?;
                let remote = |user_id: &&OwnedUserId| user_id.server_name() != self.server_name;
                let remote_invites = request.invite.iter().filter(remote).cloned().collect();
                Ok(Some(Created { room_id: room_id.clone(), remote_invites }))
            },
        )
    }
}

/// What the new room's rules forbid is a mistake in the request.
fn refused(error: RoomError) -> RoomError {
    match error {
        RoomError::Forbidden(why) => RoomError::Invalid(why),
        other => other,
    }
}

impl RoomWriter<'_> {
    /// Everything after the create event, in the order that the specification gives.
    fn furnish(&mut self, creator: &UserId, request: &CreateRoom) -> Result<(), RoomError> {
        let mut join = request.creator_profile.clone();
        join.insert("membership".to_owned(), "join".into());
        self.set(creator, "m.room.member", creator.as_str(), Value::Object(join))?;
        let levels = self.initial_power_levels(creator, request)?;
        self.set(creator, "m.room.power_levels", "", levels)?;
        if let Some(alias) = &request.alias {
            self.add_alias(creator, alias)?;
        }
        for (kind, content) in preset_state(request.preset) {
            if !request.initial_state.iter().any(|state| state.kind == kind && state.state_key.is_empty()) {
                self.set(creator, kind, "", content)?;
            }
        }
        for state in &request.initial_state {
            if state.kind == "m.room.create" || state.kind == "m.room.member" {
                return Err(RoomError::Invalid(format!("`{}` can't be initial state", state.kind)));
            }
            self.set(creator, &state.kind, &state.state_key, state.content.clone())?;
        }
        if let Some(name) = &request.name {
            self.set(creator, "m.room.name", "", json!({ "name": name }))?;
        }
        if let Some(topic) = &request.topic {
            let blocks = json!({ "m.text": [{ "body": topic, "mimetype": "text/plain" }] });
            self.set(creator, "m.room.topic", "", json!({ "topic": topic, "m.topic": blocks }))?;
        }
        for target in &request.invite {
            if target.server_name() == self.rooms.server_name && target != creator {
                let mut content = Map::new();
                if request.is_direct {
                    content.insert("is_direct".to_owned(), true.into());
                }
                self.invite(creator, target, content)?;
            }
        }
        if request.published {
            let room_id = self.room_id.clone();
            directory::set_published(self.batch(), &room_id, true);
        }
        Ok(())
    }

    fn set(&mut self, sender: &UserId, kind: &str, state_key: &str, content: Value) -> Result<(), RoomError> {
        self.append(NewEvent::new(kind, sender.to_owned(), Some(state_key.to_owned()), content)?)?;
        Ok(())
    }

    fn add_alias(&mut self, creator: &UserId, alias: &OwnedRoomAliasId) -> Result<(), RoomError> {
        if alias.server_name() != self.rooms.server_name {
            return Err(RoomError::Invalid("the alias belongs to another server".to_owned()));
        }
        if directory::alias(&self.rooms.store.database, alias)?.is_some() {
            return Err(RoomError::AliasInUse);
        }
        let room_id = self.room_id.clone();
        directory::put_alias(self.batch(), alias, &room_id, creator);
        self.set(creator, "m.room.canonical_alias", "", json!({ "alias": alias }))
    }

    fn initial_power_levels(&self, creator: &UserId, request: &CreateRoom) -> Result<Value, RoomError> {
        let authorization = &self.head.rules.rules.authorization;
        let privileged = authorization.explicitly_privilege_room_creators;
        let mut users = Map::new();
        if !privileged {
            users.insert(creator.to_string(), 100.into());
            if request.preset == Preset::TrustedPrivateChat {
                users.extend(request.invite.iter().map(|user_id| (user_id.to_string(), 100.into())));
            }
        }
        let mut levels = json!({
            "users": users, "users_default": 0, "events_default": 0, "state_default": 50,
            "ban": 50, "kick": 50, "redact": 50,
            "invite": if request.preset == Preset::PublicChat { 50 } else { 0 },
            "historical": 100,
            "events": {
                "m.room.name": 50, "m.room.avatar": 50, "m.room.canonical_alias": 50,
                "m.room.power_levels": 100, "m.room.history_visibility": 100, "m.room.encryption": 100,
                "m.room.server_acl": 100, "m.room.tombstone": if privileged { 150 } else { 100 },
            },
        });
        if let Value::Object(levels) = &mut levels {
            levels.extend(request.power_level_content_override.clone());
            if privileged && levels.get("users").is_some_and(|users| users.get(creator.as_str()).is_some()) {
                return Err(RoomError::Invalid(
                    "a creator's power can't be set in this room version".to_owned(),
                ));
            }
        }
        Ok(levels)
    }
}

fn create_content(creator: &UserId, request: &CreateRoom, rules: &VersionRules) -> Result<Value, RoomError> {
    let authorization = &rules.rules.authorization;
    let mut content = request.creation_content.clone();
    content.insert("room_version".to_owned(), rules.version.as_str().into());
    if authorization.use_room_create_sender {
        content.remove("creator");
    } else {
        content.insert("creator".to_owned(), creator.as_str().into());
    }
    if authorization.additional_room_creators && request.preset == Preset::TrustedPrivateChat {
        let listed = content.entry("additional_creators").or_insert_with(|| Value::Array(Vec::new()));
        let Value::Array(listed) = listed else {
            return Err(RoomError::Invalid("`additional_creators` is not a list".to_owned()));
        };
        for user_id in request.invite.iter().filter(|user_id| **user_id != creator) {
            if !listed.iter().any(|listed| listed == user_id.as_str()) {
                listed.push(user_id.as_str().into());
            }
        }
    }
    Ok(Value::Object(content))
}

fn preset_state(preset: Preset) -> [(&'static str, Value); 3] {
    let (join_rule, guests) = match preset {
        Preset::PrivateChat | Preset::TrustedPrivateChat => ("invite", "can_join"),
        Preset::PublicChat => ("public", "forbidden"),
    };
    [
        ("m.room.join_rules", json!({ "join_rule": join_rule })),
        ("m.room.history_visibility", json!({ "history_visibility": "shared" })),
        ("m.room.guest_access", json!({ "guest_access": guests })),
    ]
}
