//! What a client asks before it does anything: versions, capabilities,
//! well-known documents; and small endpoints that answer that there is nothing.

use axum::{Router, response::Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use causeway_service::{error::MatrixError, rooms};
use http::{Method, StatusCode};
use ruma::api::client::{discovery::get_supported_versions, voip::get_turn_server_info};
use serde_json::json;

use crate::{ClientState, Custom, Endpoints, Ruma, json_response};

/// The versions of the specification whose endpoints clients may use.
const VERSIONS: &[&str] = &[
    "r0.5.0", "r0.6.0", "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9",
    "v1.10", "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16",
];

const CAPABILITIES: &[&str] = &["/_matrix/client/r0/capabilities", "/_matrix/client/v3/capabilities"];

/// MSC2000.
const PASSWORD_POLICY: &[&str] =
    &["/_matrix/client/r0/password_policy", "/_matrix/client/v3/password_policy"];

pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .endpoint_raw(versions)
        .custom(Method::GET, CAPABILITIES, capabilities)
        .open(Method::GET, PASSWORD_POLICY, password_policy)
        .open(Method::GET, &["/.well-known/matrix/client"], well_known_client)
        .open(Method::GET, &["/.well-known/matrix/server"], well_known_server)
        .endpoint_raw(turn_server)
}

fn versions(
    _state: &ClientState,
    _request: Ruma<get_supported_versions::Request>,
) -> Result<Response, MatrixError> {
    let body = json!({
        "versions": VERSIONS,
        "unstable_features": {
            "org.causeway.shared_space": true,
            "org.matrix.msc3814": true,
            "org.matrix.msc4190": true,
            "org.matrix.msc4222": true,
            "org.matrix.simplified_msc3575": true,
        },
    });
    Ok(json_response(StatusCode::OK, &body))
}

fn capabilities(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    let available: serde_json::Map<_, _> =
        rooms::VERSIONS.iter().map(|version| (version.to_string(), "stable".into())).collect();
    // These ask for a password, which programs that log in by OAuth don't get to see;
    // and such programs administer nothing.
    let by_password = !state.devices.is_by_oauth(&request.auth.user_id, &request.auth.device_id)?;
    let mut body = json!({ "capabilities": {
        "m.change_password": { "enabled": by_password },
        "m.room_versions": { "default": state.settings.default_room_version, "available": available },
        "m.set_displayname": { "enabled": true },
        "m.set_avatar_url": { "enabled": true },
        "m.3pid_changes": { "enabled": false },
        "m.get_login_token": { "enabled": by_password },
        "m.profile_fields": { "enabled": false },
    }});
    if by_password && state.accounts.account(&request.auth.user_id)?.is_some_and(|account| account.admin) {
        body["capabilities"]["m.account_moderation"] = json!({ "suspend": true, "lock": true });
    }
    Ok(json_response(StatusCode::OK, &body))
}

/// What a new password has to have.
fn password_policy(state: &ClientState, _request: Custom<()>) -> Result<Response, MatrixError> {
    let policy = json!({ "m.minimum_length": state.settings.password_chars_min });
    Ok(json_response(StatusCode::OK, &policy))
}

fn well_known_client(state: &ClientState, _request: Custom<()>) -> Result<Response, MatrixError> {
    let base_url = state.settings.well_known.client.as_ref();
    let base_url = base_url.ok_or_else(|| MatrixError::not_found("No well-known document"))?;
    // As the operator wrote it: a base address, without the slash that parsing adds.
    let base_url = base_url.as_str().trim_end_matches('/');
    Ok(json_response(StatusCode::OK, &json!({ "m.homeserver": { "base_url": base_url } })))
}

/// Where other servers find this one. Not a client's request, but one of those that any
/// browser-facing listener serves beside `/.well-known/matrix/client`.
fn well_known_server(state: &ClientState, _request: Custom<()>) -> Result<Response, MatrixError> {
    let server = state.settings.well_known.server.as_ref();
    let server = server.ok_or_else(|| MatrixError::not_found("No well-known document"))?;
    Ok(json_response(StatusCode::OK, &json!({ "m.server": server })))
}

/// Credentials by the TURN REST API scheme; `{}` when there is no TURN server.
fn turn_server(
    state: &ClientState,
    request: Ruma<get_turn_server_info::v3::Request>,
) -> Result<Response, MatrixError> {
    let turn = &state.settings.turn;
    let (Some(secret), false) = (&turn.secret, turn.uris.is_empty()) else {
        return Ok(json_response(StatusCode::OK, &json!({})));
    };
    let expires_s = state.clock.now_ms() / 1000 + turn.lifetime_s;
    let username = format!("{expires_s}:{}", request.auth.user_id);
    let password = STANDARD.encode(causeway_service::shared_secret::turn_mac(secret, &username));
    let body = json!({
        "username": username, "password": password, "uris": turn.uris, "ttl": turn.lifetime_s,
    });
    Ok(json_response(StatusCode::OK, &body))
}
