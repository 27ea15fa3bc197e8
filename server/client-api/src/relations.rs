//! Events that relate to an event.

use axum::{Router, response::Response};
use causeway_service::{
    error::MatrixError,
    history::{RECURSION_DEPTH, Relating, Wanted},
};
use http::StatusCode;
use ruma::{
    EventId, RoomId, UInt,
    api::{
        Direction,
        client::relations::{
            get_relating_events, get_relating_events_with_rel_type,
            get_relating_events_with_rel_type_and_event_type,
        },
    },
};
use serde_json::json;

use crate::{
    ClientState, Endpoints, Ruma,
    frame::serialized_response,
    message::{direction, limit, token},
    state_event::reader,
};

/// Relations on a page when the client names no limit.
const LIMIT_DEFAULT: usize = 20;

pub(crate) fn routes() -> Router<ClientState> {
    Router::new().endpoint_raw(all).endpoint_raw(of_type).endpoint_raw(of_both_types)
}

/// What the three endpoints have in common.
struct Asked<'a> {
    room_id: &'a RoomId,
    event_id: &'a EventId,
    rel_type: Option<String>,
    kind: Option<String>,
    from: Option<&'a str>,
    to: Option<&'a str>,
    limit: Option<UInt>,
    dir: Direction,
    recurse: bool,
}

fn all(
    state: &ClientState,
    request: Ruma<get_relating_events::v1::Request>,
) -> Result<Response, MatrixError> {
    let body = &request.body;
    let asked = Asked {
        room_id: &body.room_id,
        event_id: &body.event_id,
        rel_type: None,
        kind: None,
        from: body.from.as_deref(),
        to: body.to.as_deref(),
        limit: body.limit,
        dir: body.dir,
        recurse: body.recurse,
    };
    answer(state, &request.auth, &asked)
}

fn of_type(
    state: &ClientState,
    request: Ruma<get_relating_events_with_rel_type::v1::Request>,
) -> Result<Response, MatrixError> {
    let body = &request.body;
    let asked = Asked {
        room_id: &body.room_id,
        event_id: &body.event_id,
        rel_type: Some(body.rel_type.to_string()),
        kind: None,
        from: body.from.as_deref(),
        to: body.to.as_deref(),
        limit: body.limit,
        dir: body.dir,
        recurse: body.recurse,
    };
    answer(state, &request.auth, &asked)
}

fn of_both_types(
    state: &ClientState,
    request: Ruma<get_relating_events_with_rel_type_and_event_type::v1::Request>,
) -> Result<Response, MatrixError> {
    let body = &request.body;
    let asked = Asked {
        room_id: &body.room_id,
        event_id: &body.event_id,
        rel_type: Some(body.rel_type.to_string()),
        kind: Some(body.event_type.to_string()),
        from: body.from.as_deref(),
        to: body.to.as_deref(),
        limit: body.limit,
        dir: body.dir,
        recurse: body.recurse,
    };
    answer(state, &request.auth, &asked)
}

fn answer(
    state: &ClientState,
    session: &causeway_service::devices::Session,
    asked: &Asked<'_>,
) -> Result<Response, MatrixError> {
    let wanted = Wanted {
        from: token(asked.from)?,
        to: token(asked.to)?,
        direction: direction(asked.dir),
        limit: asked.limit.map_or(LIMIT_DEFAULT, limit),
        filter: causeway_service::sync::filter::EventFilter::default(),
    };
    let relating =
        Relating { rel_type: asked.rel_type.as_deref(), kind: asked.kind.as_deref(), recurse: asked.recurse };
    let page = state.history.relations(reader(session), asked.room_id, asked.event_id, relating, &wanted)?;
    state.rooms.barrier()?;
    let mut answer = json!({ "chunk": page.chunk });
    if asked.recurse {
        answer["recursion_depth"] = RECURSION_DEPTH.into();
    }
    if let Some(end) = page.end {
        answer["next_batch"] = end.to_string().into();
    }
    if asked.from.is_some() {
        answer["prev_batch"] = page.start.to_string().into();
    }
    serialized_response(StatusCode::OK, &answer)
}
