//! `PUT …/invite/{roomId}/{eventId}`: an invite of a user of this server, for
//! this server to sign. Version 2, and version 1 for rooms whose version it
//! implies (none that is supported: answered so).

use std::sync::Arc;

use axum::{Json, Router, extract::State, routing::put};
use causeway_room::Pdu;
use causeway_service::{Services, error::MatrixError, notify::Topic, rooms::VersionRules};
use ruma::{RoomVersionId, ServerName, UserId, events::room::member::MembershipState};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json, value::RawValue};

use super::send_membership::parse;
use crate::{
    access,
    authenticated::Signed,
    bounded::BoundedList,
    error::{Refusal, blocking},
    params::Path,
    state::FederationState,
    verification::verify_from,
};

/// Pieces of stripped state that an invite may carry.
const STRIPPED_MAX: usize = 100;

pub(super) fn routes() -> Router<FederationState> {
    Router::new()
        .route("/_matrix/federation/v2/invite/{room_id}/{event_id}", put(invite))
        .route("/_matrix/federation/v1/invite/{room_id}/{event_id}", put(invite_v1))
}

#[derive(Deserialize)]
struct Body {
    room_version: RoomVersionId,
    event: Box<RawValue>,
    #[serde(default)]
    invite_room_state: BoundedList<Box<RawValue>, STRIPPED_MAX>,
}

async fn invite_v1(_signed: Signed) -> Refusal {
    incompatible(&RoomVersionId::V1).into()
}

fn incompatible(version: &RoomVersionId) -> MatrixError {
    MatrixError::new(400, "M_INCOMPATIBLE_ROOM_VERSION", "The room's version is not supported here")
        .with("room_version", version.as_str())
}

async fn invite(
    State(state): State<FederationState>,
    Path((room_id, event_id)): Path<(String, String)>,
    signed: Signed,
) -> Result<Json<Value>, Refusal> {
    let body: Body = signed.json()?;
    let version = VersionRules::of(&body.room_version).map_err(|_| incompatible(&body.room_version))?;
    let (room_id, event_id) = (access::room_id(&room_id)?, access::event_id(&event_id)?);
    let pdu = parse(&version, &body.event)?;
    if *pdu.event_id() != *event_id || *pdu.room_id() != *room_id {
        return Err(MatrixError::invalid_param("The event is not the one that the address names").into());
    }
    access::user_of(&signed.origin, pdu.sender().as_str())?;
    check_create(&version, &pdu, &body.invite_room_state.0)?;
    let pdu = verify_from(state.keys(), &version.rules, pdu, &signed.origin, state.server_name())
        .await
        .map_err(|error| MatrixError::forbidden(error.to_string()))?;
    // After the signature was checked: whoever invites says so under his name.
    if let Ok(invited) = invited(&pdu) {
        super::query::user_is_wanted(&state, invited).await?;
    }
    let (services, origin) = (state.services().clone(), signed.origin.clone());
    let stripped = body.invite_room_state.0;
    let turn = services.rooms.turn(&room_id).await;
    let event = blocking(move || {
        let _turn = turn;
        accept(&services, &origin, &version, &pdu, &stripped)
    });
    let event = event.await?;
    Ok(Json(json!({"event": event})))
}

/// In a room whose id is that of its create event, whole create events that are told have to be
/// that one (MSC4311). One that is only stripped, as old servers tell it, can't be held against it.
fn check_create(version: &VersionRules, pdu: &Pdu, told: &[Box<RawValue>]) -> Result<(), MatrixError> {
    #[derive(Deserialize)]
    struct Told {
        r#type: String,
        #[serde(default)]
        hashes: Option<IgnoredAny>,
    }
    if !version.rules.authorization.room_create_event_id_as_room_id {
        return Ok(());
    }
    for raw in told {
        let is_create = serde_json::from_str::<Told>(raw.get())
            .is_ok_and(|told| told.r#type == "m.room.create" && told.hashes.is_some());
        if is_create && *parse(version, raw)?.room_id() != *pdu.room_id() {
            return Err(MatrixError::invalid_param("The create event that is told is not the room's"));
        }
    }
    Ok(())
}

/// Who is invited.
fn invited(pdu: &Pdu) -> Result<&UserId, MatrixError> {
    let invited = pdu.state_key().and_then(|key| <&UserId>::try_from(key).ok());
    let invited = invited.filter(|_| pdu.membership() == Some(MembershipState::Invite));
    invited.ok_or_else(|| MatrixError::invalid_param("The event is no invite"))
}

fn accept(
    services: &Services,
    origin: &ServerName,
    version: &Arc<VersionRules>,
    pdu: &Pdu,
    stripped: &[Box<RawValue>],
) -> Result<Box<RawValue>, MatrixError> {
    let rooms = &services.rooms;
    let invited = invited(pdu)?;
    if invited.server_name() != rooms.server_name() {
        return Err(MatrixError::invalid_param("The event invites a user of another server"));
    }
    if !services.accounts.is_active(invited)? {
        return Err(MatrixError::not_found("There is no such user"));
    }
    access::acl(rooms, pdu.room_id(), origin)?;
    let mut object = pdu.object();
    rooms.sign(version, &mut object).map_err(|error| MatrixError::internal(&error))?;
    let signed = Pdu::from_object(&version.rules, object).map_err(|error| MatrixError::internal(&error))?;
    if rooms.receive_invite(&signed, stripped)? {
        // It stands, whether or not anybody's telephone rings.
        match services.pushes.invited(&signed) {
            Ok(()) => services.notifier.notify([&Topic::Stream]),
            Err(error) => tracing::warn!(%error, "an invite can't be queued for push gateways"),
        }
    }
    Ok(signed.raw().to_owned())
}
