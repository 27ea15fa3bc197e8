//! Tags of rooms: account data of type `m.tag` that is changed tag by tag.

use axum::{Router, response::Response};
use causeway_service::error::MatrixError;
use http::{Method, StatusCode};
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{ClientState, Custom, Endpoints, config::own, json_response, request::json_object};

const KIND: &str = "m.tag";
/// Tags of one room.
const TAGS_MAX: usize = 100;
/// A tag's name, in bytes (client-server API, "Room Tagging").
const NAME_BYTES_MAX: usize = 255;
/// What is said of a tag, in bytes.
const CONTENT_BYTES_MAX: usize = 4_096;

const ALL: &[&str] =
    &["/_matrix/client/r0/user/{user}/rooms/{room}/tags", "/_matrix/client/v3/user/{user}/rooms/{room}/tags"];
const ONE: &[&str] = &[
    "/_matrix/client/r0/user/{user}/rooms/{room}/tags/{tag}",
    "/_matrix/client/v3/user/{user}/rooms/{room}/tags/{tag}",
];

pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .custom_unlimited(Method::GET, ALL, list)
        .custom_unlimited(Method::PUT, ONE, put)
        .custom_unlimited(Method::DELETE, ONE, delete)
}

fn room(request: &Custom) -> Result<OwnedRoomId, MatrixError> {
    own(&request.auth, &request.path[0])?;
    RoomId::parse(&request.path[1]).map_err(|_| MatrixError::invalid_param("Invalid room id"))
}

/// The tags in a content that a client may have written as it liked.
fn tags(content: Option<&RawValue>) -> Map<String, Value> {
    let content = content.and_then(|content| serde_json::from_str::<Value>(content.get()).ok());
    match content.unwrap_or_default()["tags"].take() {
        Value::Object(tags) => tags,
        _ => Map::new(),
    }
}

fn list(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    let room_id = room(&request)?;
    let content = match state.account_data.get(&request.auth.user_id, Some(&room_id), KIND) {
        Ok(content) => Some(content),
        Err(error) if error.status == 404 => None,
        Err(error) => return Err(error),
    };
    Ok(json_response(StatusCode::OK, &json!({ "tags": tags(content.as_deref()) })))
}

fn change(
    state: &ClientState,
    request: &Custom,
    change: impl FnOnce(&mut Map<String, Value>) -> Result<(), MatrixError>,
) -> Result<Response, MatrixError> {
    let room_id = room(request)?;
    state.account_data.change(&request.auth.user_id, Some(&room_id), KIND, |before| {
        let mut tags = tags(before);
        change(&mut tags)?;
        let content = serde_json::value::to_raw_value(&json!({ "tags": tags }));
        Ok(((), content.map_err(|error| MatrixError::internal(&error))?))
    })?;
    Ok(json_response(StatusCode::OK, &json!({})))
}

fn put(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    let tag = request.path[2].clone();
    if tag.is_empty() || tag.len() > NAME_BYTES_MAX {
        return Err(MatrixError::invalid_param("A tag has 1 to 255 bytes"));
    }
    if request.raw.len() > CONTENT_BYTES_MAX {
        return Err(MatrixError::too_large("That is too much for a tag"));
    }
    let content = json_object(&request.raw)?;
    if content.get("order").is_some_and(|order| !order.is_number() && !order.is_null()) {
        return Err(MatrixError::bad_json("The order of a tag is a number"));
    }
    change(state, &request, |tags| {
        if tags.len() >= TAGS_MAX && !tags.contains_key(&tag) {
            return Err(MatrixError::invalid_param("The room has too many tags"));
        }
        tags.insert(tag, Value::Object(content));
        Ok(())
    })
}

fn delete(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    change(state, &request, |tags| {
        tags.remove(&request.path[2]);
        Ok(())
    })
}
