//! `GET …/timestamp_to_event/{roomId}`: the event closest to a time, of those
//! that users of the asking server may see.

use axum::{Json, Router, extract::State, routing::get};
use causeway_service::{error::MatrixError, history::Direction};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    access,
    authenticated::Signed,
    error::{Refusal, blocking},
    params::Path,
    state::FederationState,
};

pub(super) fn routes() -> Router<FederationState> {
    Router::new().route("/_matrix/federation/v1/timestamp_to_event/{room_id}", get(closest))
}

#[derive(Deserialize)]
struct Query {
    ts: u64,
    dir: String,
}

async fn closest(
    State(state): State<FederationState>,
    Path(room_id): Path<String>,
    signed: Signed,
) -> Result<Json<Value>, Refusal> {
    let query: Query = signed.query()?;
    let services = state.services().clone();
    let answer = blocking(move || {
        let rooms = &services.rooms;
        let direction = match query.dir.as_str() {
            "f" => Direction::Forward,
            "b" => Direction::Backward,
            _ => return Err(MatrixError::invalid_param("`dir` is neither `f` nor `b`")),
        };
        let room_id = access::room_id(&room_id)?;
        access::of_room(rooms, &room_id, &signed.origin)?;
        let found = rooms.closest_for_server(&signed.origin, &room_id, query.ts, direction)?;
        rooms.barrier()?;
        let found = found.ok_or_else(|| MatrixError::not_found("No event was found in that direction"))?;
        Ok(json!({"event_id": found.event_id, "origin_server_ts": found.origin_server_ts}))
    });
    Ok(Json(answer.await?))
}
