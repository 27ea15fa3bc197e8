//! Reporting events, rooms and users to this server's administrators
//! (client-server API, "Reporting Content").

use axum::{Router, response::Response};
use causeway_service::{error::MatrixError, rate_limit::Class};
use http::{Method, StatusCode};
use ruma::{EventId, RoomId, UserId};
use serde::Deserialize;
use serde_json::json;

use crate::{ClientState, Custom, Endpoints, json_response};

const EVENT: &[&str] =
    &["/_matrix/client/r0/rooms/{room}/report/{event}", "/_matrix/client/v3/rooms/{room}/report/{event}"];
const ROOM: &[&str] = &[
    "/_matrix/client/v3/rooms/{room}/report",
    "/_matrix/client/unstable/org.matrix.msc4151/rooms/{room}/report",
];
const USER: &[&str] = &[
    "/_matrix/client/v3/users/{user}/report",
    "/_matrix/client/unstable/org.matrix.msc4260/users/{user}/report",
];

/// Not ruma's types: they lack the older `score`.
pub(crate) fn routes() -> Router<ClientState> {
    Router::new().custom(Method::POST, EVENT, event).custom(Method::POST, ROOM, room).custom(
        Method::POST,
        USER,
        user,
    )
}

fn event(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Body {
        reason: Option<String>,
        score: Option<i64>,
    }
    let body: Body = request.json()?;
    let room_id = RoomId::parse(&request.path[0]);
    let event_id = EventId::parse(&request.path[1]);
    let (Ok(room_id), Ok(event_id)) = (room_id, event_id) else {
        return Err(MatrixError::invalid_param("Invalid room or event id"));
    };
    admit(state, &request)?;
    state.reports.event(&request.auth.user_id, &room_id, &event_id, body.reason, body.score)?;
    Ok(json_response(StatusCode::OK, &json!({})))
}

/// The body of a report of a room or user.
#[derive(Deserialize)]
struct Reason {
    reason: String,
}

fn room(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    let body: Reason = request.json()?;
    let room_id =
        RoomId::parse(&request.path[0]).map_err(|_| MatrixError::invalid_param("Invalid room id"))?;
    admit(state, &request)?;
    state.reports.room(&request.auth.user_id, &room_id, body.reason)?;
    Ok(json_response(StatusCode::OK, &json!({})))
}

fn user(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    let body: Reason = request.json()?;
    let user_id =
        UserId::parse(&request.path[0]).map_err(|_| MatrixError::invalid_param("Invalid user id"))?;
    admit(state, &request)?;
    state.reports.user(&request.auth.user_id, &user_id, body.reason)?;
    Ok(json_response(StatusCode::OK, &json!({})))
}

fn admit(state: &ClientState, request: &Custom) -> Result<(), MatrixError> {
    state.rate_limits.admit(Class::Report, request.auth.user_id.as_str())
}
