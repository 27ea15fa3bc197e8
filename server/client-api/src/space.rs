//! What is in a space, and rooms in short.

use axum::{Router, response::Response};
use causeway_service::{
    error::MatrixError,
    spaces::{DEPTH_MAX, Wanted},
};
use http::StatusCode;
use ruma::{
    api::client::{room::get_summary, space::get_hierarchy},
    events::room::member::MembershipState,
};
use serde_json::json;

use crate::{ClientState, Endpoints, Ruma, blocking, frame::serialized_response, membership, message::limit};

/// Rooms on a page when the client names no limit.
const LIMIT_DEFAULT: usize = 50;

/// Servers that are asked for a summary.
const VIA_MAX: usize = 5;

pub(crate) fn routes() -> Router<ClientState> {
    Router::new().endpoint_async_raw(hierarchy).endpoint_async_raw(summary)
}

async fn hierarchy(
    state: ClientState,
    request: Ruma<get_hierarchy::v1::Request>,
) -> Result<Response, MatrixError> {
    let body = request.body;
    let wanted = Wanted {
        room_id: body.room_id,
        suggested_only: body.suggested_only,
        max_depth: body.max_depth.map_or(DEPTH_MAX, limit),
        limit: body.limit.map_or(LIMIT_DEFAULT, limit),
        from: body.from.as_deref().filter(|from| !from.is_empty()).map(str::parse).transpose()?,
    };
    let page = state.spaces.hierarchy(&request.auth.user_id, &wanted).await?;
    blocking(move || Ok(state.rooms.barrier()?)).await?;
    serialized_response(StatusCode::OK, &page)
}

async fn summary(
    state: ClientState,
    request: Ruma<get_summary::v1::Request>,
) -> Result<Response, MatrixError> {
    let user_id = request.auth.map(|session| session.user_id);
    let named = request.body.room_id_or_alias;
    if user_id.is_none() && named.server_name().is_some_and(|server| *server != state.settings.server_name) {
        // Who is nobody does not make this server ask others.
        return Err(MatrixError::not_found("No such room"));
    }
    let (room_id, known) = membership::resolve(&state, &named).await?;
    let via = request.body.via.into_iter().chain(known).take(VIA_MAX).collect();
    let summary = state.spaces.summary(user_id.as_ref(), &room_id, via).await?;
    let mut answer = json!(summary);
    if let Some(user_id) = user_id {
        let member = blocking(move || {
            state.rooms.barrier()?;
            Ok(state.rooms.member(&room_id, &user_id)?)
        });
        let membership = member.await?.map_or(MembershipState::Leave, |member| member.membership);
        answer["membership"] = membership.as_str().into();
    }
    serialized_response(StatusCode::OK, &answer)
}
