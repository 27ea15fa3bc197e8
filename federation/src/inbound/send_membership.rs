//! `PUT …/send_join|send_leave|send_knock/{roomId}/{eventId}`: the signed event
//! of a user of another server. Joins and leaves in both versions.

use axum::{Json, Router, extract::State, routing::put};
use causeway_room::Pdu;
use causeway_service::{
    error::{Chain, MatrixError},
    rooms::{Accepted, VersionRules},
};
use ruma::{OwnedRoomId, OwnedServerName, ServerName, events::room::member::MembershipState};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use super::large::{Large, raw};
use crate::{
    access,
    authenticated::Signed,
    error::{Refusal, blocking},
    params::Path,
    state::FederationState,
    verification::verify_from,
};

pub(super) fn routes() -> Router<FederationState> {
    Router::new()
        .route("/_matrix/federation/v1/send_join/{room_id}/{event_id}", put(send_join_v1))
        .route("/_matrix/federation/v2/send_join/{room_id}/{event_id}", put(send_join))
        .route("/_matrix/federation/v1/send_leave/{room_id}/{event_id}", put(send_leave_v1))
        .route("/_matrix/federation/v2/send_leave/{room_id}/{event_id}", put(send_leave))
        .route("/_matrix/federation/v1/send_knock/{room_id}/{event_id}", put(send_knock))
}

type Ids = Path<(String, String)>;

/// What a join is answered with.
#[derive(Serialize)]
struct Joined<'a> {
    origin: &'a ServerName,
    state: Vec<&'a RawValue>,
    auth_chain: Vec<&'a RawValue>,
    #[serde(flatten)]
    newer: Option<Newer<'a>>,
}

/// Of it, what version 1 of the endpoint lacks.
#[derive(Serialize)]
struct Newer<'a> {
    event: &'a RawValue,
    members_omitted: bool,
    servers_in_room: &'a [OwnedServerName],
}

async fn send_join(State(state): State<FederationState>, ids: Ids, signed: Signed) -> Result<Large, Refusal> {
    let turn = state.heavy().turn(&signed.origin).await?;
    let accepted = send(&state, ids, signed, MembershipState::Join).await?;
    let answer = blocking(move || {
        let Accepted { event, servers, .. } = &accepted;
        let newer = Newer { event: event.raw(), members_omitted: false, servers_in_room: servers };
        Large::of(&joined(&state, &accepted, Some(newer)), turn)
    });
    Ok(answer.await?)
}

/// The answer of version 1 is a list of a status and the answer.
async fn send_join_v1(
    State(state): State<FederationState>,
    ids: Ids,
    signed: Signed,
) -> Result<Large, Refusal> {
    let turn = state.heavy().turn(&signed.origin).await?;
    let accepted = send(&state, ids, signed, MembershipState::Join).await?;
    Ok(blocking(move || Large::of(&(200, joined(&state, &accepted, None)), turn)).await?)
}

async fn send_leave(
    State(state): State<FederationState>,
    ids: Ids,
    signed: Signed,
) -> Result<Json<Value>, Refusal> {
    send(&state, ids, signed, MembershipState::Leave).await?;
    Ok(Json(json!({})))
}

async fn send_leave_v1(
    State(state): State<FederationState>,
    ids: Ids,
    signed: Signed,
) -> Result<Json<Value>, Refusal> {
    send(&state, ids, signed, MembershipState::Leave).await?;
    Ok(Json(json!([200, {}])))
}

async fn send_knock(
    State(state): State<FederationState>,
    ids: Ids,
    signed: Signed,
) -> Result<Json<Value>, Refusal> {
    let accepted = send(&state, ids, signed, MembershipState::Knock).await?;
    Ok(Json(json!({"knock_room_state": accepted.room_state})))
}

fn joined<'a>(state: &'a FederationState, accepted: &'a Accepted, newer: Option<Newer<'a>>) -> Joined<'a> {
    let Accepted { state: held, auth_chain, .. } = accepted;
    Joined { origin: state.server_name(), state: raw(held), auth_chain: raw(auth_chain), newer }
}

#[tracing::instrument(name = "federation.membership.receive", skip_all, fields(client.address = %signed.origin))]
async fn send(
    state: &FederationState,
    Path((room_id, event_id)): Ids,
    signed: Signed,
    membership: MembershipState,
) -> Result<Accepted, Refusal> {
    let raw: Box<RawValue> = signed.json()?;
    let (services, origin) = (state.services().clone(), signed.origin.clone());
    let parsed = blocking(move || {
        let rooms = &services.rooms;
        let (room_id, event_id) = (access::room_id(&room_id)?, access::event_id(&event_id)?);
        access::in_room_here(rooms, &room_id)?;
        access::acl(rooms, &room_id, &origin)?;
        let version = rooms.version_rules(&room_id)?;
        let pdu = parse(&version, &raw)?;
        if *pdu.event_id() != *event_id || *pdu.room_id() != *room_id {
            return Err(MatrixError::invalid_param("The event is not the one that the address names"));
        }
        access::user_of(&origin, pdu.sender().as_str())?;
        Ok((room_id, version, pdu))
    });
    let (room_id, version, pdu) = parsed.await?;
    accept(state, &signed, room_id, &version, pdu, membership).await
}

async fn accept(
    state: &FederationState,
    signed: &Signed,
    room_id: OwnedRoomId,
    version: &VersionRules,
    pdu: Pdu,
    membership: MembershipState,
) -> Result<Accepted, Refusal> {
    // If this server vouches for the join, it signs it only now.
    let pdu = verify_from(state.keys(), &version.rules, pdu, &signed.origin, state.server_name())
        .await
        .map_err(|error| MatrixError::forbidden(error.to_string()))?;
    let signed_by_all = crate::policy::complete(state, &room_id, vec![pdu]).await?.pop();
    let pdu = signed_by_all.ok_or_else(|| MatrixError::bad_json("There is no event"))?;
    let (services, origin) = (state.services().clone(), signed.origin.clone());
    let is_heavy = membership == MembershipState::Join;
    let turn = services.rooms.turn(&room_id).await;
    let accept = move || {
        let _turn = turn;
        let accepted = services.rooms.accept_member(&origin, &room_id, pdu, &membership)?;
        services.rooms.barrier()?;
        Ok(accepted)
    };
    Ok(if is_heavy { state.heavy().make(accept).await? } else { blocking(accept).await? })
}

pub(super) fn parse(version: &VersionRules, raw: &RawValue) -> Result<Pdu, MatrixError> {
    Pdu::parse(&version.rules, raw.get()).map_err(|error| {
        if error.is_too_large() {
            MatrixError::too_large("The event is too large")
        } else {
            MatrixError::bad_json(Chain(&error).to_string())
        }
    })
}
