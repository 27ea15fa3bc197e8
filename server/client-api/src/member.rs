//! A room's members.

use std::collections::BTreeMap;

use axum::{Router, response::Response};
use causeway_service::error::MatrixError;
use http::StatusCode;
use ruma::{
    OwnedUserId,
    api::client::membership::{get_member_events, joined_members},
    events::room::member::MembershipState,
};
use serde::Serialize;
use serde_json::json;

use crate::{ClientState, Endpoints, Ruma, frame::serialized_response, message::token, state_event::reader};

pub(crate) fn routes() -> Router<ClientState> {
    Router::new().endpoint_raw(members).endpoint_raw(joined)
}

fn members(
    state: &ClientState,
    request: Ruma<get_member_events::v3::Request>,
) -> Result<Response, MatrixError> {
    let body = &request.body;
    let wanted = |membership: &MembershipState| {
        body.membership.as_ref().is_none_or(|wanted| wanted == membership)
            && body.not_membership.as_ref().is_none_or(|unwanted| unwanted != membership)
    };
    let at = token(body.at.as_deref())?;
    let chunk = state.history.members(reader(&request.auth), &body.room_id, at, wanted)?;
    state.rooms.barrier()?;
    serialized_response(StatusCode::OK, &json!({ "chunk": chunk }))
}

#[derive(Serialize)]
struct RoomMember {
    #[serde(rename = "display_name")]
    displayname: Option<String>,
    avatar_url: Option<String>,
}

fn joined(state: &ClientState, request: Ruma<joined_members::v3::Request>) -> Result<Response, MatrixError> {
    let room_id = &request.body.room_id;
    if !state.rooms.is_joined(room_id, &request.auth.user_id)? {
        return Err(MatrixError::forbidden("You are not in this room"));
    }
    let members = state.rooms.members(room_id, Some(&MembershipState::Join))?;
    state.rooms.barrier()?;
    let joined: BTreeMap<OwnedUserId, RoomMember> = members
        .into_iter()
        .map(|(user_id, member)| {
            (user_id, RoomMember { displayname: member.displayname, avatar_url: member.avatar_url })
        })
        .collect();
    serialized_response(StatusCode::OK, &json!({ "joined": joined }))
}
