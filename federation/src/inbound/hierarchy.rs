//! `GET …/hierarchy/{roomId}`: a space and its children, as far as users of the
//! asking server could come in or read.

use axum::{Json, Router, extract::State, routing::get};
use serde::Deserialize;

use crate::{
    access,
    authenticated::Signed,
    error::{Refusal, blocking},
    params::Path,
    state::FederationState,
};
use causeway_service::summary::SpaceForServer;

pub(super) fn routes() -> Router<FederationState> {
    Router::new().route("/_matrix/federation/v1/hierarchy/{room_id}", get(hierarchy))
}

#[derive(Deserialize)]
struct Query {
    #[serde(default)]
    suggested_only: bool,
}

async fn hierarchy(
    State(state): State<FederationState>,
    Path(room_id): Path<String>,
    signed: Signed,
) -> Result<Json<SpaceForServer>, Refusal> {
    let query: Query = signed.query()?;
    let services = state.services().clone();
    let answer = blocking(move || {
        let room_id = access::room_id(&room_id)?;
        let space = services.summaries.space_for_server(&room_id, &signed.origin, query.suggested_only)?;
        services.rooms.barrier()?;
        Ok(space)
    });
    Ok(Json(answer.await?))
}
