//! `GET …/backfill/{roomId}` and `POST …/get_missing_events/{roomId}`: history
//! before some events, and what lies between what a server has and what it saw.

use axum::{
    Json, Router,
    extract::{RawQuery, State},
    routing::{get, post},
};
use causeway_service::error::MatrixError;
use ruma::OwnedEventId;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    access,
    authenticated::Signed,
    bounded::BoundedList,
    error::{Refusal, blocking},
    params::Path,
    state::FederationState,
};

/// Events in one answer.
pub const EVENTS_MAX: usize = 100;
/// Events that a walk may begin at.
const BEGINNINGS_MAX: usize = 100;

pub(super) fn routes() -> Router<FederationState> {
    Router::new()
        .route("/_matrix/federation/v1/backfill/{room_id}", get(backfill))
        .route("/_matrix/federation/v1/get_missing_events/{room_id}", post(missing_events))
}

async fn backfill(
    State(state): State<FederationState>,
    Path(room_id): Path<String>,
    RawQuery(query): RawQuery,
    signed: Signed,
) -> Result<Json<Value>, Refusal> {
    let server_name = state.server_name().to_owned();
    let origin_server_ts = state.clock().now_ms();
    let services = state.services().clone();
    let answer = blocking(move || {
        let rooms = &services.rooms;
        let room_id = access::room_id(&room_id)?;
        access::of_room(rooms, &room_id, &signed.origin)?;
        let (from, limit) = beginnings(query.as_deref().unwrap_or_default())?;
        let found = rooms.backfill_for_server(&signed.origin, &room_id, &from, limit)?;
        rooms.barrier()?;
        let pdus: Vec<_> = found.iter().map(|pdu| pdu.raw()).collect();
        Ok(json!({"origin": server_name, "origin_server_ts": origin_server_ts, "pdus": pdus}))
    });
    Ok(Json(answer.await?))
}

/// `v` may stand there more than once.
fn beginnings(query: &str) -> Result<(Vec<OwnedEventId>, usize), MatrixError> {
    let (mut from, mut limit) = (Vec::new(), EVENTS_MAX);
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "v" if from.len() < BEGINNINGS_MAX => from.push(access::event_id(&value)?),
            "limit" => {
                let asked = value.parse::<usize>();
                limit =
                    asked.map_err(|_| MatrixError::invalid_param("`limit` is not a number"))?.min(EVENTS_MAX);
            }
            _ => {}
        }
    }
    Ok((from, limit))
}

#[derive(Deserialize)]
struct Body {
    earliest_events: BoundedList<OwnedEventId, BEGINNINGS_MAX>,
    latest_events: BoundedList<OwnedEventId, BEGINNINGS_MAX>,
    #[serde(default = "ten")]
    limit: usize,
    #[serde(default)]
    min_depth: u64,
}

const fn ten() -> usize {
    10
}

async fn missing_events(
    State(state): State<FederationState>,
    Path(room_id): Path<String>,
    signed: Signed,
) -> Result<Json<Value>, Refusal> {
    let body: Body = signed.json()?;
    let (services, now_ms) = (state.services().clone(), state.clock().now_ms());
    let answer = blocking(move || {
        let rooms = &services.rooms;
        let room_id = access::room_id(&room_id)?;
        access::of_room(rooms, &room_id, &signed.origin)?;
        let (earliest, latest) = (body.earliest_events.0, body.latest_events.0);
        let (limit, depth) = (body.limit.min(EVENTS_MAX), body.min_depth);
        let found =
            rooms.missing_events_for_server(&signed.origin, &room_id, &earliest, &latest, limit, depth)?;
        rooms.barrier()?;
        // Who gets as many as he may have at once may lack more. To see how many costs a walk,
        // which is bounded with what follows from it.
        if found.len() >= limit
            && let Some(begins) = rooms.last_place(&room_id, &earliest)?
            && services.outbox.may_fill_gap(&signed.origin, &room_id, begins, now_ms)
        {
            let missed =
                rooms.own_events_missed(&signed.origin, &room_id, &earliest, &latest, found.len())?;
            services.outbox.send_once_more(&signed.origin, &missed)?;
        }
        let events: Vec<_> = found.iter().map(|pdu| pdu.raw()).collect();
        Ok(json!({"events": events}))
    });
    Ok(Json(answer.await?))
}
