//! Presence: accepted, because clients send it unasked, and not kept.

use axum::Router;
use causeway_service::error::MatrixError;
use ruma::{
    api::client::presence::{get_presence, set_presence},
    presence::PresenceState,
};

use crate::{ClientState, Endpoints, Ruma};

pub(crate) fn routes() -> Router<ClientState> {
    Router::new().endpoint(set).endpoint(get)
}

fn set(
    _state: &ClientState,
    request: Ruma<set_presence::v3::Request>,
) -> Result<set_presence::v3::Response, MatrixError> {
    if request.body.user_id != request.auth.user_id {
        return Err(MatrixError::forbidden("This is another user's presence"));
    }
    Ok(set_presence::v3::Response::new())
}

fn get(
    _state: &ClientState,
    _request: Ruma<get_presence::v3::Request>,
) -> Result<get_presence::v3::Response, MatrixError> {
    Ok(get_presence::v3::Response::new(PresenceState::Offline))
}
