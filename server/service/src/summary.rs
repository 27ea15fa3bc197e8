//! A room in short, as the public list, spaces and previews show it.
//!
//! Built here for rooms that this server is in, and read from what other
//! servers say of theirs; the same rule then decides who may know it
//! ([`Summaries::user_may_know`], [`Summaries::server_may_know`]).
//!
//! Invariant: nothing of a redacted event is in a summary.

use std::sync::Arc;

use causeway_storage::rooms as rows;
use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId,
    events::room::member::MembershipState,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{error::MatrixError, rooms::Rooms};

/// Children of a space that are told.
pub const CHILDREN_MAX: usize = 1_000;
/// A space and its children as one server tells another, in bytes of JSON.
pub const SPACE_BYTES_MAX: usize = 1024 * 1024;
/// Child events of a space that are read; of more it is open which are told.
const CHILDREN_READ_MAX: usize = 5_000;
/// Children of a space that another server is told more of than that they are its
/// children: to look at one costs a dozen reads.
const DESCRIBED_MAX: usize = 200;
/// A child event's content, in bytes of JSON; of a larger one only what has a meaning is told.
const CHILD_BYTES_MAX: usize = 1_024;
/// Names and brackets of an answer's parts, in bytes of JSON.
const FRAME_BYTES_MAX: usize = 128;
/// A text of a summary, in bytes; a longer one is left out.
const TEXT_BYTES_MAX: usize = 8 * 1_024;
/// Members that are looked at, for one answer, to learn whether somebody of a server
/// is invited to its rooms.
const MEMBERS_READ_MAX: usize = 10_000;
/// Rooms of a join rule that are looked at.
const ALLOWED_ROOMS_MAX: usize = 64;
/// Servers through which a child can be reached that are tried.
const VIA_MAX: usize = 5;
/// Characters of a child's `order`.
const ORDER_CHARS_MAX: usize = 50;

/// The specification's `RoomSummary`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the specification's")]
pub struct Summary {
    pub room_id: OwnedRoomId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
    #[serde(default)]
    pub num_joined_members: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join_rule: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_room_ids: Vec<OwnedRoomId>,
    #[serde(default)]
    pub world_readable: bool,
    #[serde(default)]
    pub guest_can_join: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_version: Option<String>,
}

impl Summary {
    /// Whether the room is a space.
    pub fn is_space(&self) -> bool {
        self.room_type.as_deref() == Some("m.space")
    }

    /// As the public list has it.
    #[must_use]
    pub fn listed(self) -> Self {
        Self { allowed_room_ids: Vec::new(), encryption: None, room_version: None, ..self }
    }

    /// Whether its rules let anybody in or ask to be let in, or read.
    fn is_open(&self) -> bool {
        // A rule that is left out is `public`.
        let rule = self.join_rule.as_deref().unwrap_or("public");
        self.world_readable || matches!(rule, "public" | "knock" | "knock_restricted")
    }

    fn is_restricted(&self) -> bool {
        matches!(self.join_rule.as_deref(), Some("restricted" | "knock_restricted"))
    }
}

/// An `m.space.child` event, stripped.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the specification's")]
pub struct ChildEvent {
    #[serde(rename = "type")]
    pub kind: String,
    pub state_key: OwnedRoomId,
    pub sender: OwnedUserId,
    pub content: Map<String, Value>,
    pub origin_server_ts: u64,
}

impl ChildEvent {
    /// Servers through which the child can be reached; without any it is no child.
    pub fn via(&self) -> Vec<OwnedServerName> {
        let via = self.content.get("via").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let names = via.iter().filter_map(Value::as_str);
        names.filter_map(|name| OwnedServerName::try_from(name).ok()).take(VIA_MAX).collect()
    }

    /// Whether the space suggests it.
    pub fn is_suggested(&self) -> bool {
        self.content.get("suggested").and_then(Value::as_bool) == Some(true)
    }

    /// Without what has no meaning, if that is much.
    fn bounded(mut self) -> Self {
        if json_bytes(&self.content) > CHILD_BYTES_MAX {
            let via = self.via();
            self.content.retain(|name, value| match name.as_str() {
                "suggested" => value.is_boolean(),
                "order" => value.as_str().is_some_and(is_order),
                _ => false,
            });
            self.content.insert("via".to_owned(), via.iter().map(ToString::to_string).collect());
        }
        self
    }

    /// "Ordering of children within a space".
    fn order(&self) -> (bool, &str, u64, &RoomId) {
        let order = self.content.get("order").and_then(Value::as_str);
        let order = order.filter(|order| is_order(order));
        (order.is_none(), order.unwrap_or_default(), self.origin_server_ts, &self.state_key)
    }
}

fn is_order(order: &str) -> bool {
    order.len() <= ORDER_CHARS_MAX && order.bytes().all(|byte| (0x20..=0x7E).contains(&byte))
}

/// How long something is as JSON.
fn json_bytes(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |json| json.len())
}

/// Valid children in order, at most [`CHILDREN_MAX`].
pub fn in_order(mut children: Vec<ChildEvent>, suggested_only: bool) -> Vec<ChildEvent> {
    children.retain(|child| {
        child.kind == "m.space.child" && !child.via().is_empty() && (!suggested_only || child.is_suggested())
    });
    children.sort_by(|a, b| a.order().cmp(&b.order()));
    children.truncate(CHILDREN_MAX);
    children
}

/// A space and its children as one server tells another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpaceForServer {
    /// The room.
    pub room: SpaceRoom,
    /// Its children, as far as known and not hidden.
    pub children: Vec<Summary>,
    /// Children that are known and hidden.
    #[serde(default)]
    pub inaccessible_children: Vec<OwnedRoomId>,
}

/// A room and, if it is a space, what is in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpaceRoom {
    /// The room.
    #[serde(flatten)]
    pub summary: Summary,
    /// Its children, in order.
    pub children_state: Vec<ChildEvent>,
}

/// A space and its children within [`SPACE_BYTES_MAX`]: more the asker would not
/// read, and so have nothing. `describe` says what a child is and whether the
/// asker may know, if this server is in it.
fn fitting(
    summary: Summary,
    mut children_state: Vec<ChildEvent>,
    mut describe: impl FnMut(&RoomId) -> Result<Option<(Summary, bool)>, MatrixError>,
) -> Result<SpaceForServer, MatrixError> {
    let mut bytes_left = SPACE_BYTES_MAX.saturating_sub(json_bytes(&summary) + FRAME_BYTES_MAX);
    let mut fits = |bytes: usize| {
        let left = bytes_left.checked_sub(bytes.saturating_add(1));
        bytes_left = left.unwrap_or(bytes_left);
        left.is_some()
    };
    let fitting = children_state.iter().take_while(|child| fits(json_bytes(child))).count();
    children_state.truncate(fitting);
    let (mut children, mut inaccessible_children) = (Vec::new(), Vec::new());
    for child in children_state.iter().take(DESCRIBED_MAX) {
        match describe(&child.state_key)? {
            Some((summary, true)) if fits(json_bytes(&summary)) => children.push(summary),
            Some((_, false)) if fits(json_bytes(&child.state_key)) => {
                inaccessible_children.push(child.state_key.clone());
            }
            _ => {}
        }
    }
    Ok(SpaceForServer { room: SpaceRoom { summary, children_state }, children, inaccessible_children })
}

/// Makes summaries, and decides who may know them.
pub struct Summaries {
    rooms: Arc<Rooms>,
}

impl Summaries {
    /// Of these rooms.
    pub fn new(rooms: Arc<Rooms>) -> Self {
        Self { rooms }
    }

    /// A room that this server is in.
    ///
    /// # Errors
    /// Storage.
    pub fn of(&self, room_id: &RoomId) -> Result<Option<Summary>, MatrixError> {
        if !self.rooms.is_joined_here(room_id)? {
            return Ok(None);
        }
        let field = |kind: &str, field: &str| self.field(room_id, kind, field);
        Ok(Some(Summary {
            room_id: room_id.to_owned(),
            canonical_alias: field("m.room.canonical_alias", "alias")?,
            name: field("m.room.name", "name")?,
            topic: field("m.room.topic", "topic")?,
            avatar_url: field("m.room.avatar", "url")?,
            room_type: field("m.room.create", "type")?,
            num_joined_members: self.rooms.joined_count(room_id)?,
            // Without such an event one has to be invited.
            join_rule: Some(field("m.room.join_rules", "join_rule")?.unwrap_or_else(|| "invite".to_owned())),
            allowed_room_ids: self.allowed_rooms(room_id)?,
            world_readable: field("m.room.history_visibility", "history_visibility")?.as_deref()
                == Some("world_readable"),
            guest_can_join: field("m.room.guest_access", "guest_access")?.as_deref() == Some("can_join"),
            encryption: field("m.room.encryption", "algorithm")?,
            room_version: Some(self.rooms.version(room_id)?.to_string()),
        }))
    }

    /// What is in a space that this server is in.
    ///
    /// # Errors
    /// Storage.
    pub fn children(&self, room_id: &RoomId, suggested_only: bool) -> Result<Vec<ChildEvent>, MatrixError> {
        let mut children = Vec::new();
        let ids = self.rooms.state_keys(room_id, "m.space.child", None, CHILDREN_READ_MAX)?;
        for event in self.rooms.pdus(ids.into_iter().map(|(_, event_id)| event_id))? {
            let child = event.state_key().and_then(|key| RoomId::parse(key).ok());
            let Some(child) = child else { continue };
            if self.rooms.redaction_of(event.event_id())?.is_some() {
                continue;
            }
            let child = ChildEvent {
                kind: event.kind_text().to_owned(),
                state_key: child,
                sender: event.sender().to_owned(),
                content: event.content_object(),
                origin_server_ts: event.origin_server_ts(),
            };
            children.push(child.bounded());
        }
        Ok(in_order(children, suggested_only))
    }

    /// Whether a local user (or, without one, anybody) may know of the room:
    /// he is in it or may come in, ask to, or read it.
    ///
    /// # Errors
    /// Storage.
    pub fn user_may_know(&self, summary: &Summary, user_id: Option<&UserId>) -> Result<bool, MatrixError> {
        let Some(user_id) = user_id else { return Ok(summary.is_open()) };
        let member = self.rooms.member(&summary.room_id, user_id)?;
        match member.map(|member| member.membership) {
            Some(MembershipState::Join | MembershipState::Invite | MembershipState::Knock) => {
                return Ok(true);
            }
            Some(MembershipState::Ban) => return Ok(summary.world_readable),
            _ => {}
        }
        if summary.is_open() {
            return Ok(true);
        }
        for allowed in summary.allowed_room_ids.iter().take(ALLOWED_ROOMS_MAX) {
            if summary.is_restricted() && self.rooms.is_joined(allowed, user_id)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether any user of another server may know of a room of this server's, as
    /// far as `members` may be looked at.
    ///
    /// # Errors
    /// Storage.
    pub fn server_may_know(
        &self,
        summary: &Summary,
        server: &ServerName,
        members: &mut usize,
    ) -> Result<bool, MatrixError> {
        let room_id = &*summary.room_id;
        if !self.rooms.server_acl_allows(room_id, server)? {
            return Ok(false);
        }
        if summary.is_open() || self.rooms.is_server_joined(room_id, server)? {
            return Ok(true);
        }
        for allowed in summary.allowed_room_ids.iter().take(ALLOWED_ROOMS_MAX) {
            let known = summary.is_restricted() && self.rooms.is_joined_here(allowed)?;
            if known && self.rooms.is_server_joined(allowed, server)? {
                return Ok(true);
            }
        }
        Ok(self.rooms.is_server_invited(room_id, server, members)?)
    }

    /// A space of this server's and its children, for another server.
    ///
    /// # Errors
    /// 404 when it may not know of it.
    pub fn space_for_server(
        &self,
        room_id: &RoomId,
        server: &ServerName,
        suggested_only: bool,
    ) -> Result<SpaceForServer, MatrixError> {
        let not_found = || MatrixError::not_found("The room is not known here");
        let summary = self.of(room_id)?.ok_or_else(not_found)?;
        let mut members = MEMBERS_READ_MAX;
        if !self.server_may_know(&summary, server, &mut members)? {
            return Err(not_found());
        }
        let children = if summary.is_space() { self.children(room_id, suggested_only)? } else { Vec::new() };
        fitting(summary, children, |child| {
            let Some(summary) = self.of(child)? else { return Ok(None) };
            let may_know = self.server_may_know(&summary, server, &mut members)?;
            Ok(Some((summary, may_know)))
        })
    }

    fn allowed_rooms(&self, room_id: &RoomId) -> Result<Vec<OwnedRoomId>, MatrixError> {
        let Some(content) = self.content(room_id, "m.room.join_rules")? else { return Ok(Vec::new()) };
        if !matches!(
            content.get("join_rule").and_then(Value::as_str),
            Some("restricted" | "knock_restricted")
        ) {
            return Ok(Vec::new());
        }
        let allow = content.get("allow").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let rooms = allow.iter().filter(|rule| rule["type"] == "m.room_membership");
        let rooms = rooms.filter_map(|rule| rule["room_id"].as_str().and_then(|id| RoomId::parse(id).ok()));
        Ok(rooms.take(ALLOWED_ROOMS_MAX).collect())
    }

    fn field(&self, room_id: &RoomId, kind: &str, field: &str) -> Result<Option<String>, MatrixError> {
        let content = self.content(room_id, kind)?;
        let value = content.and_then(|mut content| content.remove(field));
        let text = value.as_ref().and_then(Value::as_str).filter(|text| text.len() <= TEXT_BYTES_MAX);
        Ok(text.map(str::to_owned))
    }

    /// The content of a piece of state, as redacted if it was.
    fn content(&self, room_id: &RoomId, kind: &str) -> Result<Option<Map<String, Value>>, MatrixError> {
        let Some(event) = self.rooms.state_event(room_id, kind, "")? else { return Ok(None) };
        if rows::redaction_of(&self.rooms.store.database, event.event_id())?.is_none() {
            return Ok(Some(event.content_object()));
        }
        let rules = self.rooms.version_rules(room_id)?;
        let redacted = event.redacted(&rules.rules).map_err(|error| MatrixError::internal(&error))?;
        Ok(Some(redacted.content_object()))
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;
    use serde_json::{from_value, json};

    use super::*;
    use crate::rooms::{
        CreateRoom, Preset,
        tests::{Server, state},
    };

    fn child(room: &str, content: &Value, ts: u64) -> ChildEvent {
        let event = json!({ "type": "m.space.child", "state_key": room, "sender": "@a:b.c",
            "content": content, "origin_server_ts": ts });
        from_value(event).expect("an event")
    }

    #[test]
    fn children_are_ordered_as_the_specification_says() {
        let via = |order: Option<&str>| json!({ "via": ["b.c"], "order": order });
        let children = vec![
            child("!d:b.c", &via(None), 1_640_741_000_000),
            child("!gone:b.c", &json!({}), 1),
            child("!b:b.c", &via(Some(" ")), 1_640_341_000_000),
            child("!e:b.c", &via(None), 1_640_641_000_000),
            child("!a:b.c", &via(Some("aaaa")), 1_640_141_000_000),
            child("!x:b.c", &via(Some("ä")), 1_640_741_000_001),
            child("!c:b.c", &via(Some("first")), 1_640_841_000_000),
        ];
        let ordered: Vec<_> = in_order(children.clone(), false).into_iter().map(|c| c.state_key).collect();
        assert_eq!(ordered, ["!b:b.c", "!a:b.c", "!c:b.c", "!e:b.c", "!d:b.c", "!x:b.c"]);
        assert!(in_order(children, true).is_empty());
    }

    #[test]
    fn a_room_without_a_rule_is_open_and_one_with_an_unknown_rule_is_not() {
        let summary = |rule: Value| -> Summary {
            from_value(json!({ "room_id": "!r:b.c", "join_rule": rule })).expect("a summary")
        };
        assert!(summary(Value::Null).is_open() && summary("public".into()).is_open());
        assert!(!summary("invite".into()).is_open() && !summary("org.other".into()).is_open());
        assert!(!summary("restricted".into()).is_open());
    }

    fn public_space(server: &Server, creator: &UserId) -> OwnedRoomId {
        let content = Map::from_iter([("type".to_owned(), "m.space".into())]);
        let request =
            CreateRoom { preset: Preset::PublicChat, creation_content: content, ..CreateRoom::default() };
        server.rooms.create(creator, &request).expect("creates").room_id
    }

    #[test]
    fn what_another_server_is_told_is_no_more_than_it_reads() {
        let server = Server::new("a.example");
        let alice = server.user("alice");
        let space = public_space(&server, &alice);
        let long = "x".repeat(60_000);
        for n in 0..40 {
            let content = json!({ "via": ["a.example"], "order": "a", "suggested": true, "more": long });
            server.send(&space, state(&alice, "m.space.child", &format!("!child{n}:a.example"), content));
        }
        server.send(&space, state(&alice, "m.room.topic", "", json!({ "topic": long })));
        let summaries = Summaries::new(Arc::clone(&server.rooms));
        let told = summaries.space_for_server(&space, server_name!("b.example"), true).expect("is told");
        assert!(json_bytes(&told) <= SPACE_BYTES_MAX, "{}", json_bytes(&told));
        assert_eq!(told.room.children_state.len(), 40);
        for child in &told.room.children_state {
            assert!(child.is_suggested() && child.order().1 == "a" && child.via() == ["a.example"]);
        }
        assert_eq!(told.room.summary.topic, None);
    }

    #[test]
    fn only_so_many_children_are_looked_at_for_another_server() {
        let server = Server::new("a.example");
        let alice = server.user("alice");
        let space = public_space(&server, &alice);
        let summaries = Summaries::new(Arc::clone(&server.rooms));
        let summary = summaries.of(&space).expect("reads").expect("is here");
        let child = |n: usize| child(&format!("!child{n}:a.example"), &json!({ "via": ["a.example"] }), 1);
        let children = (0..=DESCRIBED_MAX).map(child).collect();
        let mut looked_at = 0;
        let told = fitting(summary, children, |_| {
            looked_at += 1;
            Ok(None)
        });
        assert_eq!(told.expect("is told").room.children_state.len(), DESCRIBED_MAX + 1);
        assert_eq!(looked_at, DESCRIBED_MAX);
        // However long what is told, it fits.
        let summary = summaries.of(&space).expect("reads").expect("is here");
        let long = Summary { topic: Some("x".repeat(TEXT_BYTES_MAX)), ..summary.clone() };
        let told =
            fitting(summary, (0..DESCRIBED_MAX).map(child).collect(), |_| Ok(Some((long.clone(), true))));
        let told = told.expect("is told");
        assert!(json_bytes(&told) <= SPACE_BYTES_MAX && told.children.len() > DESCRIBED_MAX / 2);
    }
}
