//! A user's own account: who am I, password, deactivation, third-party ids (none).

use axum::{Router, response::Response};
use causeway_service::{accounts::Accounts, error::MatrixError, openid::LIFETIME_MS};
use http::{Method, StatusCode};
use ruma::{
    UserId,
    api::client::account::{get_3pids, whoami},
};
use serde::Deserialize;
use serde_json::json;

use crate::{ClientState, Custom, Endpoints, Ruma, config::own, json_response, uiaa::confirm_password};

const PASSWORD: &[&str] = &["/_matrix/client/r0/account/password", "/_matrix/client/v3/account/password"];
const DEACTIVATE: &[&str] =
    &["/_matrix/client/r0/account/deactivate", "/_matrix/client/v3/account/deactivate"];

const OPENID: &[&str] = &[
    "/_matrix/client/r0/user/{user}/openid/request_token",
    "/_matrix/client/v3/user/{user}/openid/request_token",
];

/// Not ruma's types where there is an `auth`: they refuse clients that name the
/// user in the older way.
pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .endpoint(whoami)
        .custom(Method::POST, PASSWORD, change_password)
        .custom(Method::POST, DEACTIVATE, deactivate)
        .custom(Method::POST, OPENID, openid_token)
        .endpoint(third_party_ids)
}

fn whoami(
    state: &ClientState,
    request: Ruma<whoami::v3::Request>,
) -> Result<whoami::v3::Response, MatrixError> {
    let address = request.address.map(|address| address.to_string());
    state.devices.seen(&request.auth, address.as_deref())?;
    let device_id = request.auth.device().map(ToOwned::to_owned);
    let mut response = whoami::v3::Response::new(request.auth.user_id, request.auth.is_guest);
    response.device_id = device_id;
    Ok(response)
}

/// A token by which somebody else learns who this user is.
fn openid_token(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    own(&request.auth, &request.path[0])?;
    let token = state.openid.make(&request.auth.user_id);
    let answer = json!({ "access_token": token, "token_type": "Bearer",
        "matrix_server_name": state.settings.server_name, "expires_in": LIFETIME_MS / 1000 });
    Ok(json_response(StatusCode::OK, &answer))
}

/// The body of a change of password.
#[derive(Deserialize)]
struct NewPassword {
    new_password: String,
    #[serde(default = "yes")]
    logout_devices: bool,
}

const fn yes() -> bool {
    true
}

/// Only for who is logged in: anybody else would have to be reached by e-mail.
fn change_password(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    let session = &request.auth;
    let body: NewPassword = request.json()?;
    confirm_password(state, session, "change password", &request.raw)?;
    state.accounts.set_password(&session.user_id, &body.new_password)?;
    if body.logout_devices {
        state.devices.delete_all(&session.user_id, Some(&session.device_id))?;
    }
    Ok(json_response(StatusCode::OK, &json!({})))
}

/// The body of a deactivation.
#[derive(Deserialize)]
struct Deactivation {
    #[serde(default)]
    erase: bool,
}

fn deactivate(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    let session = &request.auth;
    let body: Deactivation = request.json()?;
    confirm_password(state, session, "deactivate", &request.raw)?;
    close(state, &session.user_id, body.erase)?;
    // There are no third-party ids, so none was left bound.
    Ok(json_response(StatusCode::OK, &json!({ "id_server_unbind_result": "success" })))
}

/// Closes an account and all that hangs on it.
pub(crate) fn close(state: &ClientState, user_id: &UserId, erase: bool) -> Result<(), MatrixError> {
    state.accounts.deactivate(user_id, erase)?;
    state.devices.delete_all(user_id, None)?;
    state.backups.delete_all(user_id)?;
    Accounts::leave_rooms(&state.rooms, user_id)?;
    if erase {
        state.profiles.erase(user_id)?;
        state.account_data.erase(user_id)?;
    }
    Ok(())
}

fn third_party_ids(
    _state: &ClientState,
    _request: Ruma<get_3pids::v3::Request>,
) -> Result<get_3pids::v3::Response, MatrixError> {
    Ok(get_3pids::v3::Response::new(Vec::new()))
}
