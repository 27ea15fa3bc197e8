//! `GET …/event/{eventId}` and `GET …/event_auth/{roomId}/{eventId}`.

use axum::{Json, Router, extract::State, routing::get};
use causeway_service::error::MatrixError;
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use super::large::{Large, raw};
use crate::{
    access,
    authenticated::Signed,
    error::{Refusal, blocking},
    params::Path,
    state::FederationState,
};

pub(super) fn routes() -> Router<FederationState> {
    Router::new()
        .route("/_matrix/federation/v1/event/{event_id}", get(event))
        .route("/_matrix/federation/v1/event_auth/{room_id}/{event_id}", get(event_auth))
}

/// What authorises an event.
#[derive(Serialize)]
struct AuthChain<'a> {
    auth_chain: Vec<&'a RawValue>,
}

async fn event(
    State(state): State<FederationState>,
    Path(event_id): Path<String>,
    signed: Signed,
) -> Result<Json<Value>, Refusal> {
    let server_name = state.server_name().to_owned();
    let origin_server_ts = state.clock().now_ms();
    let services = state.services().clone();
    let answer = blocking(move || {
        let rooms = &services.rooms;
        let unknown = || MatrixError::not_found("The event is not known");
        let event_id = access::event_id(&event_id)?;
        let held = rooms.held(&event_id)?.ok_or_else(unknown)?;
        // Whatever is wrong, the answer is the same: an id tells nothing.
        access::of_room(rooms, &held.meta.room_id, &signed.origin).map_err(|_| unknown())?;
        let pdu = rooms.event_for_server(&signed.origin, &event_id)?.ok_or_else(unknown)?;
        rooms.barrier()?;
        Ok(json!({
            "origin": server_name, "origin_server_ts": origin_server_ts, "pdus": [pdu.raw()],
        }))
    });
    Ok(Json(answer.await?))
}

async fn event_auth(
    State(state): State<FederationState>,
    Path((room_id, event_id)): Path<(String, String)>,
    signed: Signed,
) -> Result<Large, Refusal> {
    let services = state.services().clone();
    let turn = state.heavy().turn(&signed.origin).await?;
    let answer = state.heavy().make(move || {
        let rooms = &services.rooms;
        let (room_id, event_id) = (access::room_id(&room_id)?, access::event_id(&event_id)?);
        access::of_room(rooms, &room_id, &signed.origin)?;
        let held = rooms.held(&event_id)?.filter(|held| *held.meta.room_id == *room_id);
        held.ok_or_else(|| MatrixError::not_found("The event is not known"))?;
        let chain = rooms.auth_chain(&room_id, &[event_id])?;
        let pdus = rooms.state_pdus_for_server(chain)?;
        rooms.barrier()?;
        Large::of(&AuthChain { auth_chain: raw(&pdus) }, turn)
    });
    Ok(answer.await?)
}
