//! Rooms: listing, looking into them, blocking, shutting down, deleting them or their history.

use axum::{Router, response::Response};
use causeway_service::{
    error::MatrixError,
    rooms::{PurgeWish, Shutdown, ShutdownWish},
};
use http::Method;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId, events::room::member::MembershipState};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Paging, ok};
use crate::{ClientState, Custom, Endpoints, auth::Admin};

/// Rooms that are listed.
const ROOMS_MAX: usize = 100_000;

const ALL: &[&str] = &["/_synapse/admin/v1/rooms"];
const ONE: &[&str] = &["/_synapse/admin/v1/rooms/{room}"];
const ONE_V2: &[&str] = &["/_synapse/admin/v2/rooms/{room}"];
const MEMBERS: &[&str] = &["/_synapse/admin/v1/rooms/{room}/members"];
const STATE: &[&str] = &["/_synapse/admin/v1/rooms/{room}/state"];
const BLOCK: &[&str] = &["/_synapse/admin/v1/rooms/{room}/block"];
const PURGE: &[&str] = &["/_causeway/admin/v1/rooms/{room}/purge_history"];
const STATUS: &[&str] = &["/_synapse/admin/v2/rooms/{room}/delete_status"];
const STATUS_BY_ID: &[&str] = &["/_synapse/admin/v2/rooms/delete_status/{id}"];

pub(super) fn routes() -> Router<ClientState> {
    Router::new()
        .admin(Method::GET, ALL, list)
        .admin(Method::GET, ONE, show)
        .admin(Method::DELETE, ONE, delete)
        .admin(Method::DELETE, ONE_V2, delete_v2)
        .admin(Method::GET, MEMBERS, members)
        .admin(Method::GET, STATE, room_state)
        .admin(Method::GET, BLOCK, is_blocked)
        .admin(Method::PUT, BLOCK, set_blocked)
        .admin(Method::POST, PURGE, purge_history)
        .admin(Method::GET, STATUS, status)
        .admin(Method::GET, STATUS_BY_ID, status_by_id)
}

fn room_id(request: &Custom<Admin>) -> Result<OwnedRoomId, MatrixError> {
    RoomId::parse(&request.path[0]).map_err(|_| MatrixError::invalid_param("Invalid room id"))
}

/// The room of the path, which must be known here.
fn known(state: &ClientState, request: &Custom<Admin>) -> Result<OwnedRoomId, MatrixError> {
    let room_id = room_id(request)?;
    if state.rooms.exists(&room_id)? { Ok(room_id) } else { Err(MatrixError::not_found("Room not found")) }
}

fn joined(state: &ClientState, room_id: &RoomId) -> Result<Vec<OwnedUserId>, MatrixError> {
    let members = state.rooms.members(room_id, Some(&MembershipState::Join))?;
    Ok(members.into_iter().map(|(user_id, _)| user_id).collect())
}

/// What a list of rooms shows of each.
fn described(state: &ClientState, room_id: &RoomId) -> Result<Value, MatrixError> {
    let content = |kind: &str| -> Result<Value, MatrixError> {
        let event = state.rooms.state_event(room_id, kind, "")?;
        Ok(event.map(|event| Value::Object(event.content_object())).unwrap_or_default())
    };
    let create = state.rooms.state_event(room_id, "m.room.create", "")?;
    let creator = create.as_ref().map(|event| event.sender().to_owned());
    let creation = create.map(|event| Value::Object(event.content_object())).unwrap_or_default();
    let members = joined(state, room_id)?;
    let is_local = |user_id: &UserId| user_id.server_name() == state.settings.server_name;
    let local = members.iter().filter(|user_id| is_local(user_id)).count();
    Ok(json!({
        "room_id": room_id,
        "name": content("m.room.name")?["name"],
        "canonical_alias": content("m.room.canonical_alias")?["alias"],
        "joined_members": members.len(),
        "joined_local_members": local,
        "version": state.rooms.version(room_id)?,
        "creator": creator,
        "encryption": content("m.room.encryption")?["algorithm"],
        "federatable": creation["m.federate"].as_bool().unwrap_or(true),
        "public": state.directory.is_published(room_id)?,
        "join_rules": content("m.room.join_rules")?["join_rule"],
        "guest_access": content("m.room.guest_access")?["guest_access"],
        "history_visibility": content("m.room.history_visibility")?["history_visibility"],
        "state_events": state.rooms.state_all(room_id)?.len(),
        "room_type": creation["type"],
    }))
}

#[derive(Deserialize)]
struct Filter {
    search_term: Option<String>,
    public_rooms: Option<bool>,
    empty_rooms: Option<bool>,
}

impl Filter {
    fn lets_through(&self, room: &Value) -> bool {
        let has = |field: &str, part: &str| {
            room[field].as_str().is_some_and(|text| text.to_lowercase().contains(part))
        };
        let found = self.search_term.as_ref().is_none_or(|term| {
            let lower = term.to_lowercase();
            has("name", &lower)
                || has("canonical_alias", &lower)
                || room["room_id"].as_str().is_some_and(|room_id| room_id.contains(term.as_str()))
        });
        found
            && self.public_rooms.is_none_or(|public| room["public"] == public)
            && self.empty_rooms.is_none_or(|empty| (room["joined_members"] == 0) == empty)
    }
}

fn list(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let (filter, paging) = (request.query::<Filter>()?, Paging::of(&request)?);
    let ids = state.rooms.room_ids(None, ROOMS_MAX)?;
    let rooms = ids.iter().map(|room_id| described(state, room_id));
    let mut rooms = rooms.collect::<Result<Vec<_>, _>>()?;
    rooms.retain(|room| filter.lets_through(room));
    sort(&mut rooms, paging.order_by());
    if paging.is_backward(false)? {
        rooms.reverse();
    }
    let page = paging.cut(rooms);
    let mut answer = json!({ "rooms": page.entries, "offset": paging.from, "total_rooms": page.total });
    if let Some(next) = page.next {
        answer["next_batch"] = next.into();
    }
    if paging.from > 0 {
        answer["prev_batch"] = paging.from.saturating_sub(paging.limit()).into();
    }
    ok(&answer)
}

/// By name if nothing else is said; numbers from large to small.
fn sort(rooms: &mut [Value], order: &str) {
    let field = match order {
        "size" => "joined_members",
        "" | "alphabetical" => "name",
        other => other,
    };
    rooms.sort_by(|a, b| match (a[field].as_u64(), b[field].as_u64()) {
        (Some(a), Some(b)) => b.cmp(&a),
        _ => a[field].to_string().to_lowercase().cmp(&b[field].to_string().to_lowercase()),
    });
}

fn show(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let room_id = known(state, &request)?;
    let mut shown = described(state, &room_id)?;
    let content = |kind: &str| -> Result<Value, MatrixError> {
        let event = state.rooms.state_event(&room_id, kind, "")?;
        Ok(event.map(|event| Value::Object(event.content_object())).unwrap_or_default())
    };
    let tombstone = content("m.room.tombstone")?;
    shown["topic"] = content("m.room.topic")?["topic"].take();
    shown["avatar"] = content("m.room.avatar")?["url"].take();
    shown["tombstoned"] = (!tombstone.is_null()).into();
    shown["replacement_room"] = tombstone["replacement_room"].clone();
    shown["forgotten"] = (shown["joined_local_members"] == 0).into();
    shown["org.causeway.servers"] = json!(state.rooms.joined_servers(&room_id)?);
    shown["org.causeway.blocked"] = state.rooms.blocked(&room_id)?.is_some().into();
    ok(&shown)
}

fn members(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let room_id = known(state, &request)?;
    let members = joined(state, &room_id)?;
    ok(&json!({ "total": members.len(), "members": members }))
}

fn room_state(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Filter {
        r#type: Option<String>,
    }
    let (room_id, filter) = (known(state, &request)?, request.query::<Filter>()?);
    let events = match &filter.r#type {
        Some(kind) => state.rooms.state_of_kind(&room_id, kind)?,
        None => state.rooms.state_all(&room_id)?,
    };
    let events: Result<Vec<Value>, _> =
        events.iter().map(|event| serde_json::from_str(event.raw().get())).collect();
    ok(&json!({ "state": events.map_err(|error| MatrixError::internal(&error))? }))
}

fn is_blocked(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let blocked = state.rooms.blocked(&room_id(&request)?)?;
    let mut answer = json!({ "block": blocked.is_some() });
    if let Some(by) = blocked.and_then(|decision| decision.by) {
        answer["user_id"] = by.as_str().into();
    }
    ok(&answer)
}

fn set_blocked(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Wanted {
        block: bool,
    }
    let wanted: Wanted = request.json()?;
    state.rooms.set_blocked(&room_id(&request)?, request.auth.user_id(), wanted.block)?;
    ok(&json!({ "block": wanted.block }))
}

fn shut_down(state: &ClientState, request: &Custom<Admin>) -> Result<Shutdown, MatrixError> {
    #[derive(Deserialize)]
    struct Wanted {
        #[serde(default)]
        block: bool,
        #[serde(default = "yes")]
        purge: bool,
        message: Option<String>,
        new_room_user_id: Option<String>,
    }
    let (room_id, wanted) = (room_id(request)?, request.json::<Wanted>()?);
    if wanted.new_room_user_id.is_some() {
        return Err(MatrixError::invalid_param("No new room is made here: leave new_room_user_id out"));
    }
    let exists = state.rooms.exists(&room_id)?;
    if !exists && !wanted.block {
        return Err(MatrixError::not_found("Room not found"));
    }
    let wish = ShutdownWish {
        server_user: state.shared_space.service_user(),
        reason: wanted.message,
        block: wanted.block,
        purge: wanted.purge && exists,
    };
    Ok(state.rooms.shut_down(&room_id, request.auth.user_id(), &wish)?)
}

fn purge_history(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Wanted {
        before_event: Option<OwnedEventId>,
        before_ts: Option<u64>,
        #[serde(default)]
        delete_local_events: bool,
    }
    let (room_id, wanted) = (known(state, &request)?, request.json::<Wanted>()?);
    if wanted.before_event.is_none() && wanted.before_ts.is_none() {
        return Err(MatrixError::invalid_param("Up to where? before_event or before_ts says it"));
    }
    let wish = PurgeWish {
        before: wanted.before_event,
        before_ms: wanted.before_ts,
        with_local: wanted.delete_local_events,
    };
    ok(&json!({ "purged": state.rooms.purge_history(&room_id, &wish)? }))
}

const fn yes() -> bool {
    true
}

fn result(shutdown: &Shutdown) -> Value {
    json!({
        "kicked_users": shutdown.kicked_users,
        "failed_to_kick_users": shutdown.failed_to_kick_users,
        "local_aliases": shutdown.local_aliases,
        "new_room_id": null,
        "org.causeway.purged_at_next_start": shutdown.purge,
    })
}

fn delete(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    ok(&result(&shut_down(state, &request)?))
}

/// Done when it is answered; asked for later all the same.
fn delete_v2(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    ok(&json!({ "delete_id": shut_down(state, &request)?.id }))
}

/// "Complete" when nobody here is in the room any more: what is on disk goes at
/// the next start.
fn described_status(room_id: &RoomId, shutdown: &Shutdown) -> Value {
    json!({
        "delete_id": shutdown.id,
        "room_id": room_id,
        "status": if shutdown.failed_to_kick_users.is_empty() { "complete" } else { "failed" },
        "shutdown_room": result(shutdown),
        "org.causeway.purged_ts": shutdown.purged_ts,
    })
}

fn status(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let room_id = room_id(&request)?;
    match state.rooms.shutdown_of(&room_id)? {
        Some(shutdown) => ok(&json!({ "results": [described_status(&room_id, &shutdown)] })),
        None => Err(MatrixError::not_found("No delete task for this room found")),
    }
}

fn status_by_id(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let found = state.rooms.shutdowns()?.into_iter().find(|(_, shutdown)| shutdown.id == request.path[0]);
    match found {
        Some((room_id, shutdown)) => ok(&described_status(&room_id, &shutdown)),
        None => Err(MatrixError::not_found("delete id not found")),
    }
}
