//! OAuth 2.0 for clients: what it offers and where, and registering a program. What
//! users see is in `authorize`, `link` and `account`; what programs ask for tokens, in `token`.
//!
//! Where it is off, every one of these paths answers as an unknown one. The paths are
//! under `/_matrix` because that is what reverse proxies pass on.
//!
//! Invariant: no request without its user's own hand on a page of ours leads a browser
//! anywhere else.

pub(crate) mod account;
mod authorize;
mod browser;
mod html;
mod link;
mod login;
mod token;

use axum::{Router, response::Response};
use causeway_service::{
    error::MatrixError,
    oauth::{
        OAuth, OAuthError,
        clients::{self, ClientMetadata, OAuthClient},
    },
    rate_limit::Class,
};
use http::{HeaderValue, Method, StatusCode, header};
use ruma::api::client::discovery::get_authorization_server_metadata;
use serde_json::{Value, json};

use crate::{ClientState, Custom, Endpoints, Ruma, json_response};

const ACCOUNT: &str = "/_matrix/oauth/account";
const AUTHORIZE: &str = "/_matrix/oauth/authorize";
const DEVICE: &str = "/_matrix/oauth/device";
const LINK: &str = "/_matrix/oauth/link";
const REGISTER: &str = "/_matrix/oauth/register";
const REVOKE: &str = "/_matrix/oauth/revoke";
const TOKEN: &str = "/_matrix/oauth/token";

pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .endpoint_raw(metadata)
        .open(Method::POST, &[REGISTER], register)
        .open(Method::GET, &[ACCOUNT], account::show)
        .open(Method::POST, &[ACCOUNT], account::act)
        .open(Method::GET, &[AUTHORIZE], authorize::show)
        .open(Method::POST, &[AUTHORIZE], authorize::decide)
        .open(Method::POST, &[DEVICE], link::begin)
        .open(Method::GET, &[LINK], link::show)
        .open(Method::POST, &[LINK], link::decide)
        .open(Method::POST, &[TOKEN], token::give)
        .open(Method::POST, &[REVOKE], token::revoke)
}

/// OAuth, where it is offered.
///
/// # Errors
/// 404 `M_UNRECOGNIZED` (client-server API, "Authentication API discovery").
fn offered(state: &ClientState) -> Result<&OAuth, MatrixError> {
    let off = || MatrixError::new(404, "M_UNRECOGNIZED", "OAuth is not offered by this server");
    state.oauth.as_ref().ok_or_else(off)
}

fn metadata(
    state: &ClientState,
    _request: Ruma<get_authorization_server_metadata::v1::Request>,
) -> Result<Response, MatrixError> {
    let oauth = offered(state)?;
    let mut body = json!({
        "issuer": oauth.base,
        "authorization_endpoint": oauth.address(AUTHORIZE),
        "token_endpoint": oauth.address(TOKEN),
        "account_management_uri": oauth.address(ACCOUNT),
        "account_management_actions_supported": account::ACTIONS,
        "device_authorization_endpoint": oauth.address(DEVICE),
        "registration_endpoint": oauth.address(REGISTER),
        "revocation_endpoint": oauth.address(REVOKE),
        "authorization_response_iss_parameter_supported": true,
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "fragment"],
        "grant_types_supported": clients::GRANTS,
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
    });
    if login::registration_is_open(state) {
        body["prompt_values_supported"] = json!(["create"]);
    }
    Ok(json_response(StatusCode::OK, &body))
}

fn register(state: &ClientState, request: Custom<()>) -> Result<Response, MatrixError> {
    let oauth = offered(state)?;
    let registered = request
        .json::<ClientMetadata>()
        .map_err(|error| OAuthError::new("invalid_client_metadata", error.message))
        .and_then(|said| {
            let admit = || Ok(state.rate_limits.admit_address(Class::Registration, request.address)?);
            oauth.clients.register(said, admit)
        });
    Ok(answered(registered.map(|(client_id, client)| (StatusCode::CREATED, described(&client_id, &client)))))
}

fn described(client_id: &str, client: &OAuthClient) -> Value {
    let mut said = json!({
        "client_id": client_id,
        "client_id_issued_at": client.registered_ts / 1000,
        "client_uri": client.client_uri,
        "redirect_uris": client.redirect_uris,
        "response_types": ["code"],
        "grant_types": client.grant_types,
        "token_endpoint_auth_method": "none",
        "application_type": if client.native { "native" } else { "web" },
    });
    let optional = [
        ("client_name", &client.client_name),
        ("logo_uri", &client.logo_uri),
        ("tos_uri", &client.tos_uri),
        ("policy_uri", &client.policy_uri),
    ];
    for (field, value) in optional {
        if let Some(value) = value {
            said[field] = value.as_str().into();
        }
    }
    said
}

/// What a program is answered; never to be kept by anything in between.
fn answered(result: Result<(StatusCode, Value), OAuthError>) -> Response {
    let (status, body) = result.unwrap_or_else(|refused| {
        let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::BAD_REQUEST);
        (status, json!({ "error": refused.code, "error_description": refused.description }))
    });
    let mut response = json_response(status, &body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
