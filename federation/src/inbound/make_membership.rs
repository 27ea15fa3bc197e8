//! `GET …/make_join|make_leave|make_knock/{roomId}/{userId}`: the event that a
//! user of another server is to sign in order to join, leave or knock.

use axum::{
    Json, Router,
    extract::{RawQuery, State},
    routing::get,
};
use causeway_service::error::MatrixError;
use ruma::{RoomVersionId, events::room::member::MembershipState};
use serde_json::{Value, json};

use crate::{
    access,
    authenticated::Signed,
    error::{Refusal, blocking},
    params::Path,
    state::FederationState,
};

/// Versions that a server may name.
const VERSIONS_MAX: usize = 100;

pub(super) fn routes() -> Router<FederationState> {
    Router::new()
        .route("/_matrix/federation/v1/make_join/{room_id}/{user_id}", get(make_join))
        .route("/_matrix/federation/v1/make_leave/{room_id}/{user_id}", get(make_leave))
        .route("/_matrix/federation/v1/make_knock/{room_id}/{user_id}", get(make_knock))
}

async fn make_join(
    State(state): State<FederationState>,
    Path(ids): Path<(String, String)>,
    RawQuery(query): RawQuery,
    signed: Signed,
) -> Result<Json<Value>, Refusal> {
    let supported = versions(query.as_deref().unwrap_or_default());
    make(state, ids, signed, MembershipState::Join, Some(supported)).await
}

async fn make_leave(
    State(state): State<FederationState>,
    Path(ids): Path<(String, String)>,
    signed: Signed,
) -> Result<Json<Value>, Refusal> {
    make(state, ids, signed, MembershipState::Leave, None).await
}

async fn make_knock(
    State(state): State<FederationState>,
    Path(ids): Path<(String, String)>,
    RawQuery(query): RawQuery,
    signed: Signed,
) -> Result<Json<Value>, Refusal> {
    let supported = versions(query.as_deref().unwrap_or_default());
    make(state, ids, signed, MembershipState::Knock, Some(supported)).await
}

async fn make(
    state: FederationState,
    (room_id, user_id): (String, String),
    signed: Signed,
    membership: MembershipState,
    supported: Option<Vec<RoomVersionId>>,
) -> Result<Json<Value>, Refusal> {
    let services = state.services().clone();
    let answer = blocking(move || {
        let rooms = &services.rooms;
        let room_id = access::room_id(&room_id)?;
        let user_id = access::user_of(&signed.origin, &user_id)?;
        access::in_room_here(rooms, &room_id)?;
        access::acl(rooms, &room_id, &signed.origin)?;
        let (version, event) =
            rooms.member_template(&room_id, &user_id, &membership, supported.as_deref())?;
        rooms.barrier()?;
        Ok::<_, MatrixError>(json!({"room_version": version, "event": event}))
    });
    Ok(Json(answer.await?))
}

/// `ver` may stand there often; a server that names none knows only version 1.
fn versions(query: &str) -> Vec<RoomVersionId> {
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    let named = pairs.filter(|(name, _)| name == "ver").take(VERSIONS_MAX);
    named.filter_map(|(_, version)| RoomVersionId::try_from(&*version).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_query() {
        assert_eq!(versions("ver=10&x=1&ver=12"), [RoomVersionId::V10, RoomVersionId::V12]);
        assert!(versions("").is_empty());
    }
}
