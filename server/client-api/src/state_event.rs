//! Room state: reading it whole or in part, and setting it.
//!
//! Items of a shared space are set through it too: an `org.causeway.item`
//! becomes a change and its event in one batch.

use axum::{Router, response::Response};
use causeway_service::{
    error::MatrixError,
    history::Reader,
    rooms::{NewEvent, RoomError},
    shared_space::{DECLARATION_TYPE, declaration::Declaration},
};
use http::{Method, StatusCode};
use ruma::{
    EventId, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, RoomId, api::client::state::get_state_events,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    Answer, ClientState, Custom, Endpoints, Ruma,
    auth::{admit_writer, massaged_time},
    frame::serialized_response,
    json_response,
    request::json_error,
};

/// The state events that carry items.
pub(crate) const ITEM: &str = "org.causeway.item";

/// With and without state key; a missing one is the empty one, with or without
/// a slash at the end.
const PATHS: &[&str] = &[
    "/_matrix/client/r0/rooms/{room}/state/{type}",
    "/_matrix/client/r0/rooms/{room}/state/{type}/",
    "/_matrix/client/r0/rooms/{room}/state/{type}/{key}",
    "/_matrix/client/v3/rooms/{room}/state/{type}",
    "/_matrix/client/v3/rooms/{room}/state/{type}/",
    "/_matrix/client/v3/rooms/{room}/state/{type}/{key}",
];

pub(crate) fn routes() -> Router<ClientState> {
    Router::new().endpoint_raw(all).custom_unlimited(Method::GET, PATHS, get).custom_queued_unlimited(
        Method::PUT,
        PATHS,
        put,
    )
}

/// Who asks, as the history wants to know it.
pub(crate) fn reader(session: &causeway_service::devices::Session) -> Reader<'_> {
    Reader { user_id: &session.user_id, device_id: &session.device_id }
}

fn all(state: &ClientState, request: Ruma<get_state_events::v3::Request>) -> Result<Response, MatrixError> {
    let room_id = &request.body.room_id;
    let root = state.rooms.state_root(room_id);
    let events = state.history.state(reader(&request.auth), room_id)?;
    state.rooms.barrier()?;
    if let Ok(root) = root {
        let (user_id, device_id) = (&request.auth.user_id, &request.auth.device_id);
        state.shared_space.note_state_read(user_id, device_id, room_id, &root)?;
    }
    serialized_response(StatusCode::OK, &events)
}

#[derive(Default, Deserialize)]
struct Query {
    #[serde(default)]
    format: String,
}

fn get(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Event {
        content: Box<RawValue>,
        event_id: OwnedEventId,
    }
    let (room_id, kind, key) = path(&request)?;
    let query: Query = request.query()?;
    let event = state.history.state_event(reader(&request.auth), &room_id, kind, key)?;
    state.rooms.barrier()?;
    let parsed: Event = serde_json::from_str(event.get()).map_err(|error| MatrixError::internal(&error))?;
    if kind == ITEM {
        let (user_id, device_id) = (&request.auth.user_id, &request.auth.device_id);
        state.shared_space.note_item_read(user_id, device_id, &room_id, key, &parsed.event_id)?;
    }
    if query.format == "event" {
        return serialized_response(StatusCode::OK, &event);
    }
    serialized_response(StatusCode::OK, &parsed.content)
}

fn put(state: &ClientState, request: Custom) -> Result<Answer, MatrixError> {
    let (room_id, kind, key) = path(&request)?;
    let (user_id, device_id) = (&request.auth.user_id, &request.auth.device_id);
    admit_writer(state, &request.auth)?;
    if kind == ITEM {
        let content: Box<RawValue> =
            serde_json::from_slice(&request.raw).map_err(|error| json_error(&error))?;
        if let Some(event_id) = state.shared_space.put_vetted_state_event(user_id, &room_id, key, &content)? {
            return Ok(Answer::Now(sent(&event_id)));
        }
        let queued =
            state.shared_space.queue_state_event(user_id, Some(device_id), &room_id, key, &content)?;
        return Ok(Answer::Later(Box::pin(async move { Ok(sent(&queued.sent().await?)) })));
    }
    let content: Value = serde_json::from_slice(&request.raw).map_err(|error| json_error(&error))?;
    check(state, &room_id, kind, &content)?;
    let event = NewEvent::new(kind, user_id.clone(), Some(key.to_owned()), content);
    let mut event = event.map_err(RoomError::from)?;
    event.origin_server_ts = massaged_time(&request.auth, &request.head.uri)?;
    let event_id = state.rooms.send(&room_id, event, None)?;
    if kind == DECLARATION_TYPE {
        // Members may write when this is answered.
        state.shared_space.follow()?;
    }
    Ok(Answer::Now(sent(&event_id)))
}

fn sent(event_id: &EventId) -> Response {
    json_response(StatusCode::OK, &json!({ "event_id": event_id }))
}

/// What the room's rules leave to the server to check.
fn check(state: &ClientState, room_id: &RoomId, kind: &str, content: &Value) -> Result<(), MatrixError> {
    if kind == DECLARATION_TYPE {
        return declaration(content);
    }
    if kind == "m.room.tombstone" && content["replacement_room"] == room_id.as_str() {
        return Err(MatrixError::invalid_param("A room does not replace itself"));
    }
    if kind != "m.room.canonical_alias" {
        return Ok(());
    }
    let others = content.get("alt_aliases").and_then(Value::as_array).into_iter().flatten();
    for named in content.get("alias").into_iter().chain(others).filter(|named| !named.is_null()) {
        let alias: OwnedRoomAliasId = serde_json::from_value(named.clone())
            .map_err(|_| MatrixError::invalid_param("An alias is not valid"))?;
        if alias.server_name() == state.settings.server_name
            && state.directory.room_of(&alias).ok().as_deref() != Some(room_id)
        {
            return Err(MatrixError::new(400, "M_BAD_ALIAS", format!("{alias} does not point to this room")));
        }
    }
    Ok(())
}

/// A shared space is declared in words that make sense.
pub(crate) fn declaration(content: &Value) -> Result<(), MatrixError> {
    let Value::Object(content) = content else {
        return Err(MatrixError::bad_json("The content is not an object"));
    };
    let declared = Declaration::parse(content);
    declared.map_err(|name| MatrixError::bad_json(format!("`{name}` makes no sense")))?;
    Ok(())
}

fn path(request: &Custom) -> Result<(OwnedRoomId, &str, &str), MatrixError> {
    let room_id = room_id(&request.path[0])?;
    Ok((room_id, &request.path[1], request.path.get(2).map_or("", String::as_str)))
}

/// A room id from a path.
pub(crate) fn room_id(text: &str) -> Result<OwnedRoomId, MatrixError> {
    RoomId::parse(text).map_err(|_| MatrixError::invalid_param("Invalid room id"))
}
