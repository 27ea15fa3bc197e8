//! A user's own account: who am I, password, deactivation, third-party ids (none).

use axum::Router;
use causeway_service::{devices::Session, error::MatrixError};
use ruma::api::client::account::{ThirdPartyIdRemovalStatus, change_password, deactivate, get_3pids, whoami};

use crate::{ClientState, Endpoints, Ruma, uiaa::confirm_password};

pub(crate) fn routes() -> Router<ClientState> {
    Router::new().endpoint(whoami).endpoint(change_password).endpoint(deactivate).endpoint(third_party_ids)
}

fn whoami(
    state: &ClientState,
    request: Ruma<whoami::v3::Request>,
) -> Result<whoami::v3::Response, MatrixError> {
    let address = request.address.map(|address| address.to_string());
    state.devices.seen(&request.auth, address.as_deref())?;
    let mut response = whoami::v3::Response::new(request.auth.user_id, false);
    response.device_id = Some(request.auth.device_id);
    Ok(response)
}

/// Changing a password without being logged in would need e-mail.
fn required(session: Option<Session>) -> Result<Session, MatrixError> {
    session.ok_or_else(|| MatrixError::new(401, "M_MISSING_TOKEN", "Missing access token"))
}

fn change_password(
    state: &ClientState,
    request: Ruma<change_password::v3::Request>,
) -> Result<change_password::v3::Response, MatrixError> {
    let session = required(request.auth)?;
    confirm_password(state, &session, "change password", &request.raw)?;
    state.accounts.set_password(&session.user_id, &request.body.new_password)?;
    if request.body.logout_devices {
        state.devices.delete_all(&session.user_id, Some(&session.device_id))?;
    }
    Ok(change_password::v3::Response::new())
}

fn deactivate(
    state: &ClientState,
    request: Ruma<deactivate::v3::Request>,
) -> Result<deactivate::v3::Response, MatrixError> {
    let session = required(request.auth)?;
    confirm_password(state, &session, "deactivate", &request.raw)?;
    state.accounts.deactivate(&session.user_id)?;
    state.devices.delete_all(&session.user_id, None)?;
    Ok(deactivate::v3::Response::new(ThirdPartyIdRemovalStatus::Success))
}

fn third_party_ids(
    _state: &ClientState,
    _request: Ruma<get_3pids::v3::Request>,
) -> Result<get_3pids::v3::Response, MatrixError> {
    Ok(get_3pids::v3::Response::new(Vec::new()))
}
