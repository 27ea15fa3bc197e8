//! Logging in, refreshing tokens, logging out.

use axum::{Router, response::Response};
use causeway_service::{
    credential::Credential, devices::SessionRequest, error::MatrixError, login_tokens, rate_limit::Class,
};
use http::{Method, StatusCode, request::Parts};
use ruma::{
    OwnedDeviceId, OwnedUserId,
    api::client::session::{get_login_types, refresh_token},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

use crate::{
    ClientState, Custom, Endpoints, Ruma, auth, json_response,
    request::json_error,
    uiaa::{confirm_password, named_user},
};

const GET_TOKEN: &[&str] =
    &["/_matrix/client/v1/login/get_token", "/_matrix/client/unstable/org.matrix.msc3882/login/get_token"];
const APPSERVICE: &str = "m.login.application_service";
const LOGOUT: &[&str] = &["/_matrix/client/r0/logout", "/_matrix/client/v3/logout"];
const LOGOUT_ALL: &[&str] = &["/_matrix/client/r0/logout/all", "/_matrix/client/v3/logout/all"];

pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .endpoint_raw(login_types)
        .custom(Method::POST, GET_TOKEN, login_token)
        // Not ruma's request type: it panics when `type` is missing.
        .open(Method::POST, &["/_matrix/client/r0/login", "/_matrix/client/v3/login"], login)
        .endpoint(refresh)
        // Not ruma's: the users of locked accounts may log out, too.
        .open(Method::POST, LOGOUT, logout)
        .open(Method::POST, LOGOUT_ALL, logout_all)
}

fn login_types(
    _state: &ClientState,
    _request: Ruma<get_login_types::v3::Request>,
) -> Result<Response, MatrixError> {
    let flows = json!([
        { "type": "m.login.password" },
        { "type": "m.login.token", "get_login_token": true },
        { "type": "m.login.application_service" },
    ]);
    Ok(json_response(StatusCode::OK, &json!({ "flows": flows })))
}

/// Not ruma's type where there is an `auth`: see `account`.
fn login_token(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    let credential = confirm_password(state, &request.auth, "get login token", &request.raw)?;
    let answer = json!({
        "login_token": state.login_tokens.make(&request.auth.user_id, credential),
        "expires_in_ms": login_tokens::LIFETIME_MS,
    });
    Ok(json_response(StatusCode::OK, &answer))
}

/// What of a login's body is the same for all types.
#[derive(Deserialize)]
struct Login {
    #[serde(rename = "type")]
    kind: String,
    password: Option<String>,
    token: Option<String>,
    device_id: Option<OwnedDeviceId>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    refresh_token: bool,
}

fn login(state: &ClientState, request: Custom<()>) -> Result<Response, MatrixError> {
    let body: Value = request.json()?;
    let login = Login::deserialize(&body).map_err(|error| json_error(&error))?;
    if login.kind != APPSERVICE {
        state.rate_limits.admit_address(Class::Login, request.address)?;
    }
    let (user_id, credential) = match login.kind.as_str() {
        APPSERVICE => (by_service(state, &request.head, &body)?, None),
        "m.login.password" => {
            let (user_id, credential) = by_password(state, &body, login.password)?;
            (user_id, Some(credential))
        }
        "m.login.token" => {
            let token = login.token.ok_or_else(|| MatrixError::bad_json("Missing token"))?;
            let (user_id, credential) = state.login_tokens.spend(&token)?;
            state.accounts.check_open(&user_id)?;
            (user_id, Some(credential))
        }
        _ => return Err(MatrixError::new(400, "M_UNKNOWN", "This type of login is not offered")),
    };
    let wish = SessionRequest {
        device_id: login.device_id,
        display_name: login.initial_device_display_name,
        refresh: login.refresh_token,
        credential,
        oauth: None,
    };
    let session = state.devices.create_session(&user_id, wish)?;
    let mut answer = json!({
        "user_id": user_id,
        "access_token": session.access_token,
        "device_id": session.device_id,
        "home_server": state.settings.server_name,
    });
    if let (Some(token), Some(lifetime_ms)) = (session.refresh_token, session.expires_in_ms) {
        answer["refresh_token"] = token.into();
        answer["expires_in_ms"] = lifetime_ms.into();
    }
    if let Some(client) = &state.settings.well_known.client {
        answer["well_known"] = json!({ "m.homeserver": { "base_url": client } });
    }
    Ok(json_response(StatusCode::OK, &answer))
}

/// A user of the application service whose token the request carries.
fn by_service(state: &ClientState, head: &Parts, body: &Value) -> Result<OwnedUserId, MatrixError> {
    let service = auth::appservice(state, head)?;
    let user =
        named_user(body).ok_or_else(|| MatrixError::bad_json("Missing identifier of type m.id.user"))?;
    let user_id = state.accounts.local_user_id(user);
    let user_id = user_id.filter(|user_id| service.owns_user(user_id)).ok_or_else(|| {
        MatrixError::new(400, "M_EXCLUSIVE", "This user is not in the application service's namespaces")
    })?;
    state.accounts.check_open(&user_id)?;
    Ok(user_id)
}

fn by_password(
    state: &ClientState,
    body: &Value,
    password: Option<String>,
) -> Result<(OwnedUserId, Credential), MatrixError> {
    let password = password.ok_or_else(|| MatrixError::bad_json("Missing password"))?;
    let user =
        named_user(body).ok_or_else(|| MatrixError::bad_json("Missing identifier of type m.id.user"))?;
    let wrong = || MatrixError::forbidden("Wrong user name or password");
    let user_id = state.accounts.local_user_id(user).ok_or_else(wrong)?;
    let credential = state.accounts.verify_password(&user_id, &password)?;
    Ok((user_id, credential))
}

fn refresh(
    state: &ClientState,
    request: Ruma<refresh_token::v3::Request>,
) -> Result<refresh_token::v3::Response, MatrixError> {
    let session = state.devices.refresh(&request.body.refresh_token)?;
    let mut response = refresh_token::v3::Response::new(session.access_token);
    response.refresh_token = session.refresh_token;
    response.expires_in_ms = session.expires_in_ms.map(Duration::from_millis);
    Ok(response)
}

fn logout(state: &ClientState, request: Custom<()>) -> Result<Response, MatrixError> {
    let session = auth::identify_even_locked(state, &request.head)?;
    state.devices.delete(&session.user_id, &[session.device_id])?;
    Ok(json_response(StatusCode::OK, &json!({})))
}

fn logout_all(state: &ClientState, request: Custom<()>) -> Result<Response, MatrixError> {
    let session = auth::identify_even_locked(state, &request.head)?;
    state.devices.delete_all(&session.user_id, None)?;
    Ok(json_response(StatusCode::OK, &json!({})))
}
