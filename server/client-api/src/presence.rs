//! Presence: saying what one does, and asking what another does.

use axum::{Router, response::Response};
use causeway_service::{error::MatrixError, presence::State};
use http::StatusCode;
use ruma::api::client::presence::{get_presence, set_presence};

use crate::{ClientState, Endpoints, Ruma, frame::serialized_response};

pub(crate) fn routes() -> Router<ClientState> {
    Router::new().endpoint(set).endpoint_raw(get)
}

fn set(
    state: &ClientState,
    request: Ruma<set_presence::v3::Request>,
) -> Result<set_presence::v3::Response, MatrixError> {
    let body = request.body;
    if body.user_id != request.auth.user_id {
        return Err(MatrixError::forbidden("This is another user's presence"));
    }
    if body.status_msg.as_ref().is_some_and(|message| !message.is_empty()) {
        state.accounts.check_not_suspended(&body.user_id)?;
    }
    state.presence.set(&body.user_id, State::of(body.presence.as_str()), body.status_msg)?;
    Ok(set_presence::v3::Response::new())
}

fn get(state: &ClientState, request: Ruma<get_presence::v3::Request>) -> Result<Response, MatrixError> {
    let presence = state.presence.of(&request.auth.user_id, &request.body.user_id)?;
    serialized_response(StatusCode::OK, &presence)
}
