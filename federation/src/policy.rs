//! Asking policy servers to sign events (server-server API, "Policy Servers"):
//! our users' before they are sent, and others' that came without.
//!
//! Not here: which room has one, and what becomes of an event that is not signed
//! (`causeway_service::rooms`).
//! Invariants: an answer is waited for so long, and a policy server that did not
//! answer is left alone for a time: who asks is told so at once.

use std::time::Duration;

use causeway_room::{Pdu, policy};
use causeway_service::error::MatrixError;
use futures_util::{StreamExt, stream};
use http::Method;
use ruma::{RoomId, ServerName};
use serde_json::{Value, value::RawValue};

use crate::{
    client::{ClientError, Request},
    error::blocking,
    passed_on::answer,
    state::FederationState,
};

/// Longest wait for a signature.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Others' events that are asked about when they come together, and at once.
const ASKED_MAX: usize = 50;
const ASKED_AT_ONCE: usize = 8;
/// Longest wait for all of these.
const ASKED_TIMEOUT: Duration = Duration::from_secs(15);

/// Has a policy server sign an event: its signatures.
///
/// # Errors
/// Its refusal as it is; 502 if it does not answer.
pub async fn sign(
    state: &FederationState,
    server: &ServerName,
    event: &RawValue,
) -> Result<Value, MatrixError> {
    let late = || MatrixError::new(502, "M_UNKNOWN", "The room's policy server does not answer");
    if server == state.server_name() {
        return Err(MatrixError::forbidden("The room's policy server is this one, which is none"));
    }
    let servers = state.policy_servers();
    if servers.is_left_alone(server, state.clock().now_ms()) {
        return Err(late());
    }
    let mut request = Request::new(server, Method::POST, "/_matrix/policy/v1/sign");
    request.body = Some(event.get().as_bytes().to_vec());
    request.timeout = Some(TIMEOUT);
    request.response_bytes_max = ANSWER_BYTES_MAX;
    let error = match tokio::time::timeout(TIMEOUT, state.client().send_ok(request)).await {
        Ok(Ok(response)) => return serde_json::from_slice(&response.body).map_err(|_| late()),
        Ok(Err(error @ ClientError::Status { .. })) => return Err(answer(&error)),
        Ok(Err(error)) => answer(&error),
        Err(_) => late(),
    };
    tracing::info!(%server, %error, "a policy server does not answer");
    servers.leave_alone(server, state.clock().now_ms());
    Err(error)
}

/// Events of a room that came from another server, with the signatures of the room's
/// policy server that they lacked, as far as that gives them.
///
/// # Errors
/// Storage.
pub async fn complete(
    state: &FederationState,
    room_id: &RoomId,
    pdus: Vec<Pdu>,
) -> Result<Vec<Pdu>, MatrixError> {
    let (services, room) = (state.services().clone(), room_id.to_owned());
    let sorted = blocking(move || {
        let Some((policy, version)) = services.rooms.policy(&room)? else { return Ok((pdus, None)) };
        let is_good = |pdu: &Pdu| {
            !policy::covers(pdu.kind_text(), pdu.state_key()) || policy.has_signed(&version.rules, pdu)
        };
        let (good, lacking) = pdus.into_iter().partition::<Vec<_>, _>(is_good);
        Ok((good, Some((policy, version, lacking))))
    });
    let (mut good, lacking) = sorted.await?;
    let Some((policy, version, mut lacking)) = lacking else { return Ok(good) };
    // They are not signed then, and fail softly.
    good.extend(lacking.split_off(lacking.len().min(ASKED_MAX)));
    let ask = async |pdu: Pdu| {
        let signed = sign(state, &policy.via, pdu.raw()).await;
        let signed =
            signed.ok().and_then(|answer| policy.signed(&version.rules, &pdu, &answer).ok().flatten());
        signed.unwrap_or(pdu)
    };
    let unsigned = lacking.clone();
    let asked = stream::iter(lacking).map(ask).buffered(ASKED_AT_ONCE).collect::<Vec<_>>();
    good.extend(tokio::time::timeout(ASKED_TIMEOUT, asked).await.unwrap_or(unsigned));
    Ok(good)
}
