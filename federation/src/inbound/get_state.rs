//! `GET …/state/{roomId}` and `GET …/state_ids/{roomId}`: a room's state before
//! an event, and what authorises it.

use axum::{Router, extract::State, routing::get};
use causeway_service::{Services, error::MatrixError, rooms::StateForServer};
use ruma::ServerName;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::large::{Large, raw};
use crate::{access, authenticated::Signed, error::Refusal, params::Path, state::FederationState};

pub(super) fn routes() -> Router<FederationState> {
    Router::new()
        .route("/_matrix/federation/v1/state/{room_id}", get(state))
        .route("/_matrix/federation/v1/state_ids/{room_id}", get(state_ids))
}

#[derive(Deserialize)]
struct At {
    event_id: String,
}

#[derive(Serialize)]
struct Answer<'a> {
    pdus: Vec<&'a RawValue>,
    auth_chain: Vec<&'a RawValue>,
}

async fn state(
    State(state): State<FederationState>,
    Path(room_id): Path<String>,
    signed: Signed,
) -> Result<Large, Refusal> {
    let at: At = signed.query()?;
    let services = state.services().clone();
    let turn = state.heavy().turn(&signed.origin).await?;
    let answer = state.heavy().make(move || {
        let found = before(&services, &room_id, &at.event_id, &signed.origin)?;
        let [pdus, chain] =
            [found.state, found.auth_chain].map(|ids| services.rooms.state_pdus_for_server(ids));
        Large::of(&Answer { pdus: raw(&pdus?), auth_chain: raw(&chain?) }, turn)
    });
    Ok(answer.await?)
}

async fn state_ids(
    State(state): State<FederationState>,
    Path(room_id): Path<String>,
    signed: Signed,
) -> Result<Large, Refusal> {
    let at: At = signed.query()?;
    let services = state.services().clone();
    let turn = state.heavy().turn(&signed.origin).await?;
    let answer = state.heavy().make(move || {
        let found = before(&services, &room_id, &at.event_id, &signed.origin)?;
        Large::of(&json!({"pdu_ids": found.state, "auth_chain_ids": found.auth_chain}), turn)
    });
    Ok(answer.await?)
}

/// The state before an event and the chain that authorises it.
fn before(
    services: &Services,
    room_id: &str,
    event_id: &str,
    origin: &ServerName,
) -> Result<StateForServer, MatrixError> {
    let (room_id, event_id) = (access::room_id(room_id)?, access::event_id(event_id)?);
    access::of_room(&services.rooms, &room_id, origin)?;
    let found = services.rooms.state_for_server(&room_id, &event_id)?;
    services.rooms.barrier()?;
    Ok(found)
}
