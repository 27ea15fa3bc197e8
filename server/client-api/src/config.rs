//! Account data and filters: what a user's clients keep on the server.

use axum::{Router, response::Response};
use causeway_service::{devices::Session, error::MatrixError};
use http::{Method, StatusCode};
use ruma::{OwnedRoomId, UserId};
use serde_json::{json, value::RawValue};

use crate::{ClientState, Custom, Endpoints, json_response};

const GLOBAL: &[&str] = &[
    "/_matrix/client/r0/user/{user}/account_data/{type}",
    "/_matrix/client/v3/user/{user}/account_data/{type}",
];
const ROOM: &[&str] = &[
    "/_matrix/client/r0/user/{user}/rooms/{room}/account_data/{type}",
    "/_matrix/client/v3/user/{user}/rooms/{room}/account_data/{type}",
];
const FILTERS: &[&str] = &["/_matrix/client/r0/user/{user}/filter", "/_matrix/client/v3/user/{user}/filter"];
const FILTER: &[&str] =
    &["/_matrix/client/r0/user/{user}/filter/{filter}", "/_matrix/client/v3/user/{user}/filter/{filter}"];

/// Not ruma's types: their enums of event types would only be turned back into
/// strings, and contents stay raw as the client wrote them.
pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .custom_unlimited(Method::GET, GLOBAL, get_global)
        .custom_unlimited(Method::PUT, GLOBAL, set_global)
        .custom_unlimited(Method::GET, ROOM, get_room)
        .custom_unlimited(Method::PUT, ROOM, set_room)
        .custom_unlimited(Method::POST, FILTERS, create_filter)
        .custom_unlimited(Method::GET, FILTER, get_filter)
}

/// The path's first part must be the user who asks.
pub(crate) fn own(session: &Session, user: &str) -> Result<(), MatrixError> {
    let user = UserId::parse(user).map_err(|_| MatrixError::invalid_param("Invalid user id"))?;
    if user == session.user_id {
        Ok(())
    } else {
        Err(MatrixError::forbidden("These are another user's data"))
    }
}

fn room(id: &str) -> Result<OwnedRoomId, MatrixError> {
    OwnedRoomId::try_from(id).map_err(|_| MatrixError::invalid_param("Invalid room id"))
}

fn raw_response(content: &RawValue) -> Response {
    let json = http::HeaderValue::from_static("application/json");
    axum::response::IntoResponse::into_response((
        [(http::header::CONTENT_TYPE, json)],
        content.get().to_owned(),
    ))
}

fn empty() -> Response {
    json_response(StatusCode::OK, &json!({}))
}

fn get_global(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    own(&request.auth, &request.path[0])?;
    let content = state.account_data.get(&request.auth.user_id, None, &request.path[1])?;
    Ok(raw_response(&content))
}

fn set_global(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    own(&request.auth, &request.path[0])?;
    let content: Box<RawValue> = request.json()?;
    state.account_data.set(&request.auth.user_id, None, &request.path[1], &content)?;
    Ok(empty())
}

fn get_room(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    own(&request.auth, &request.path[0])?;
    let room_id = room(&request.path[1])?;
    let content = state.account_data.get(&request.auth.user_id, Some(&room_id), &request.path[2])?;
    Ok(raw_response(&content))
}

fn set_room(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    own(&request.auth, &request.path[0])?;
    let room_id = room(&request.path[1])?;
    let content: Box<RawValue> = request.json()?;
    state.account_data.set(&request.auth.user_id, Some(&room_id), &request.path[2], &content)?;
    Ok(empty())
}

fn create_filter(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    own(&request.auth, &request.path[0])?;
    // Parsed to refuse what /sync could not read; stored as it was sent.
    let _valid: causeway_service::sync::filter::FilterDefinition = request.json()?;
    let filter: Box<RawValue> = request.json()?;
    let filter_id = state.account_data.create_filter(&request.auth.user_id, &filter)?;
    Ok(json_response(StatusCode::OK, &json!({ "filter_id": filter_id })))
}

fn get_filter(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    own(&request.auth, &request.path[0])?;
    let filter = state.account_data.filter(&request.auth.user_id, &request.path[1])?;
    Ok(raw_response(&filter))
}
