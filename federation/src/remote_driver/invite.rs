//! Having another server sign the invite of one of its users: `PUT …/invite`,
//! version 2. Version 1 can't name a room version, and so none that is
//! supported here.

use causeway_room::Pdu;
use causeway_service::error::MatrixError;
use http::{Method, StatusCode};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    answer,
    join::{nonsense, unsupported},
};
use crate::{
    client::{ClientError, Request, escape},
    error::blocking,
    state::FederationState,
    verification::verify_signer,
};

/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 512 * 1024;

/// What is to be signed.
pub(crate) struct Invite {
    pub(crate) room_id: OwnedRoomId,
    pub(crate) event_id: OwnedEventId,
    pub(crate) event: Box<RawValue>,
    pub(crate) room_state: Vec<Box<RawValue>>,
    pub(crate) user_id: OwnedUserId,
}

#[derive(Deserialize)]
struct Answer {
    event: Box<RawValue>,
}

pub(crate) async fn invite(state: &FederationState, invite: Invite) -> Result<Box<RawValue>, MatrixError> {
    let version = {
        let (services, room_id) = (state.services().clone(), invite.room_id.clone());
        blocking(move || Ok(services.rooms.version(&room_id)?)).await?
    };
    let body = json!({
        "room_version": version, "event": invite.event, "invite_room_state": invite.room_state,
    });
    let signed = match put(state, &invite, "v2", &body).await {
        Err(ClientError::Status {
            status: StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED,
            errcode,
            ..
        }) if errcode == "M_UNRECOGNIZED" => {
            return Err(unsupported());
        }
        result => result.map_err(|error| answer(&error))?,
    };
    let signed: Answer =
        serde_json::from_slice(&signed).map_err(|_| nonsense("the answer to the invite is malformed"))?;
    let pdu = check(state, &invite, &version, &signed.event).await?;
    // It is not in the room before that has a policy server's signature.
    let pdu = crate::policy::complete(state, &invite.room_id, vec![pdu]).await?.pop();
    Ok(pdu.map_or(signed.event, |pdu| pdu.raw().to_owned()))
}

async fn put(
    state: &FederationState,
    invite: &Invite,
    version: &str,
    body: &Value,
) -> Result<bytes::Bytes, ClientError> {
    let path = format!(
        "/_matrix/federation/{version}/invite/{}/{}",
        escape(&invite.room_id),
        escape(&invite.event_id)
    );
    let mut request = Request::new(invite.user_id.server_name(), Method::PUT, &path).json(body)?;
    request.response_bytes_max = ANSWER_BYTES_MAX;
    Ok(state.client().send_ok(request).await?.body)
}

/// The same event, signed by the invited user's server.
async fn check(
    state: &FederationState,
    invite: &Invite,
    version: &RoomVersionId,
    signed: &RawValue,
) -> Result<Pdu, MatrixError> {
    let rules = causeway_room::version::rules(version).ok_or_else(unsupported)?;
    let pdu = Pdu::parse(&rules, signed.get()).map_err(|_| nonsense("the signed invite is malformed"))?;
    if *pdu.event_id() != *invite.event_id {
        return Err(nonsense("the invite came back as another event"));
    }
    verify_signer(state.keys(), &rules, &pdu, invite.user_id.server_name())
        .await
        .map_err(|_| nonsense("the invite came back unsigned"))?;
    Ok(pdu)
}
