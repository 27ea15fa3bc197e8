//! `PUT …/exchange_third_party_invite/{roomId}`: another server has a user whom somebody
//! here invited by an address. `PUT …/3pid/onbind`: an identity server tells which invites
//! a user of this server has by an address; nobody signs that, and only what it holds of
//! the identity server's signatures is believed, by the server that makes the invite.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{ConnectInfo, State},
    routing::put,
};
use causeway_service::{
    error::{Chain, MatrixError},
    rate_limit::Class,
};
use ruma::{CanonicalJsonObject, OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    access,
    authenticated::Signed,
    body::{REQUEST_BODY_TIMEOUT, read_request},
    bounded::BoundedList,
    error::{Refusal, blocking},
    params::Path,
    remote_driver::address_proof::Proof,
    state::FederationState,
};

/// Largest body of what an identity server tells, in bytes.
const BINDING_BYTES_MAX: usize = 128 * 1024;
/// How long is spent on it.
const BINDING_TIMEOUT: Duration = Duration::from_mins(1);
/// Invites in it.
const INVITES_MAX: usize = 20;

pub(super) fn routes() -> Router<FederationState> {
    Router::new()
        .route("/_matrix/federation/v1/exchange_third_party_invite/{room_id}", put(exchange))
        .route("/_matrix/federation/v1/3pid/onbind", put(bound))
}

/// A part of a membership event.
#[derive(Deserialize)]
struct Wanted {
    r#type: String,
    room_id: OwnedRoomId,
    sender: OwnedUserId,
    state_key: OwnedUserId,
    content: Content,
}

#[derive(Deserialize)]
struct Content {
    membership: String,
    third_party_invite: Signing,
}

#[derive(Deserialize)]
struct Signing {
    signed: CanonicalJsonObject,
}

async fn exchange(
    State(state): State<FederationState>,
    Path(room_id): Path<String>,
    signed: Signed,
) -> Result<Json<Value>, Refusal> {
    let wanted: Wanted = signed.json()?;
    let room_id = access::room_id(&room_id)?;
    if wanted.r#type != "m.room.member" || wanted.content.membership != "invite" || wanted.room_id != room_id
    {
        return Err(MatrixError::invalid_param("That is no invite to the room that the address names").into());
    }
    access::user_of(&signed.origin, wanted.state_key.as_str())?;
    if wanted.sender.server_name() != state.server_name() {
        return Err(MatrixError::forbidden("Who invited is no user of this server").into());
    }
    let (services, room, origin) = (state.services().clone(), room_id.clone(), signed.origin.clone());
    let may_ask = move || {
        access::in_room_here(&services.rooms, &room)?;
        access::acl(&services.rooms, &room, &origin)
    };
    blocking(may_ask).await?;
    let signed = wanted.content.third_party_invite.signed;
    let proof = Proof { room_id, sender: wanted.sender, target: wanted.state_key, signed };
    proof.invite(&state).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct Binding {
    mxid: OwnedUserId,
    invites: BoundedList<Pending, INVITES_MAX>,
}

#[derive(Deserialize)]
struct Pending {
    mxid: OwnedUserId,
    room_id: OwnedRoomId,
    sender: OwnedUserId,
    signed: CanonicalJsonObject,
}

async fn bound(
    State(state): State<FederationState>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let address = peer.map(|Extension(ConnectInfo(peer))| peer.ip());
    state.services().rate_limits.admit_address(Class::Anonymous, address)?;
    let body = read_request(body, BINDING_BYTES_MAX, REQUEST_BODY_TIMEOUT).await?;
    let binding: Binding = serde_json::from_slice(&body)
        .map_err(|_| MatrixError::bad_json("The body is not what is asked for"))?;
    let Some(_turn) = state.binding_turn() else {
        return Err(
            MatrixError::new(429, "M_LIMIT_EXCEEDED", "Too many identity servers tell something").into()
        );
    };
    let (services, user_id) = (state.services().clone(), binding.mxid.clone());
    if !blocking(move || services.accounts.is_active(&user_id)).await? {
        return Err(MatrixError::not_found("There is no such user").into());
    }
    if tokio::time::timeout(BINDING_TIMEOUT, exchange_all(&state, binding)).await.is_err() {
        tracing::info!("some invites by an address are left out: the time for them is over");
    }
    Ok(Json(json!({})))
}

async fn exchange_all(state: &FederationState, Binding { mxid, invites }: Binding) {
    for Pending { mxid: target, room_id, sender, signed } in invites.0 {
        if target == mxid
            && let Err(error) = (Proof { room_id, sender, target, signed }).exchange(state).await
        {
            tracing::info!(error = %Chain(&error), "an invite by an address comes to nothing");
        }
    }
}
