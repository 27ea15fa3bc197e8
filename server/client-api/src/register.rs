//! Registration: `POST /register`, what surrounds it, and Synapse's
//! registration by shared secret.

use axum::{Router, response::Response};
use causeway_service::{
    appservices,
    devices::SessionRequest,
    error::MatrixError,
    rate_limit::Class,
    settings::Registration,
    shared_secret::Claim,
    uiaa::{Purpose, Stage},
};
use http::{Method, StatusCode};
use ruma::{
    OwnedUserId,
    api::client::account::{check_registration_token_validity, get_username_availability, register},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::net::IpAddr;

use crate::{ClientState, Custom, Endpoints, Ruma, json_response, uiaa};

pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .endpoint_raw(register)
        .endpoint(available)
        .endpoint(token_validity)
        .open(Method::GET, &["/_synapse/admin/v1/register"], nonce)
        .open(Method::POST, &["/_synapse/admin/v1/register"], register_by_secret)
}

fn register(state: &ClientState, request: Ruma<register::v3::Request>) -> Result<Response, MatrixError> {
    let body = request.body;
    if body.kind == register::RegistrationKind::Guest {
        return register_guest(state, request.address, body.initial_device_display_name);
    }
    if body.login_type.is_some() {
        return register_for_service(state, request.auth.as_deref(), &body);
    }
    let stage = match &state.settings.registration {
        Registration::Closed => return Err(MatrixError::forbidden("Registration is closed")),
        Registration::Token(_) => Stage::RegistrationToken,
        Registration::Open => Stage::Dummy,
    };
    let guest = body.guest_access_token.as_deref();
    let guest = guest.map(|token| guest_to_be_user(state, token, body.username.as_deref())).transpose()?;
    // Before authentication, so that nobody confirms anything for a name that is taken.
    if let (Some(name), None) = (&body.username, &guest) {
        state.accounts.check_available(name)?;
    }
    let auth = uiaa::auth(&request.raw)?;
    let subject = guest.as_ref().map(ToString::to_string).unwrap_or_default();
    let purpose = Purpose { operation: "register", subject };
    // With one stage, who is let through has completed it in this very request.
    let mut token = None;
    state.uiaa.authorize(purpose, &[stage], auth.as_ref(), |stage, auth| {
        if stage == Stage::Dummy {
            return Ok(());
        }
        state.rate_limits.admit_address(Class::Registration, request.address)?;
        let named = auth["token"].as_str().unwrap_or_default();
        if state.registration_tokens.is_valid(named)? {
            token = Some(named.to_owned());
            return Ok(());
        }
        Err(MatrixError::forbidden("Invalid registration token"))
    })?;
    if stage == Stage::RegistrationToken && token.is_none() {
        return Err(MatrixError::forbidden("Invalid registration token"));
    }
    state.rate_limits.admit_address(Class::Registration, request.address)?;
    let wish = SessionRequest {
        device_id: body.device_id,
        display_name: body.initial_device_display_name,
        refresh: body.refresh_token,
        credential: None,
        oauth: None,
    };
    let wish = (!body.inhibit_login).then_some(wish);
    // Before a token is taken and an account made: what is refused uses nothing up.
    wish.as_ref().map_or(Ok(()), SessionRequest::check)?;
    let (name, password) = (body.username.as_deref(), body.password.as_deref());
    let user_id = match &guest {
        None => for_token(state, token.as_deref(), || state.accounts.register(name, password, false))?,
        Some(guest) => for_token(state, token.as_deref(), || {
            state.accounts.upgrade_guest(guest, password).map(|()| guest.clone())
        })?,
    };
    registered(state, user_id, wish)
}

/// A use of `token` is spent, if one is needed and `make` does not fail.
pub(crate) fn for_token<T>(
    state: &ClientState,
    token: Option<&str>,
    make: impl FnOnce() -> Result<T, MatrixError>,
) -> Result<T, MatrixError> {
    let Some(token) = token else { return make() };
    state.registration_tokens.take(token)?;
    make().or_else(|refused| {
        state.registration_tokens.give_back(token)?;
        Err(refused)
    })
}

/// A user of an application service, whose token the request carries.
fn register_for_service(
    state: &ClientState,
    service: Option<&appservices::Registration>,
    body: &register::v3::Request,
) -> Result<Response, MatrixError> {
    let unknown = || MatrixError::new(401, "M_UNKNOWN_TOKEN", "Unknown application service token");
    let service = service.ok_or_else(unknown)?;
    let name = body.username.as_deref();
    let name = name.ok_or_else(|| MatrixError::new(400, "M_MISSING_PARAM", "Missing username"))?;
    let wish = SessionRequest {
        device_id: body.device_id.clone(),
        display_name: body.initial_device_display_name.clone(),
        refresh: body.refresh_token,
        ..SessionRequest::default()
    };
    let wish = (!body.inhibit_login).then_some(wish);
    wish.as_ref().map_or(Ok(()), SessionRequest::check)?;
    let user_id = state.accounts.register_for_service(service, name)?;
    registered(state, user_id, wish)
}

/// All but the device's name is ignored.
fn register_guest(
    state: &ClientState,
    address: Option<IpAddr>,
    display_name: Option<String>,
) -> Result<Response, MatrixError> {
    let wish = SessionRequest { display_name, ..SessionRequest::default() };
    wish.check()?;
    state.rate_limits.admit_address(Class::Registration, address)?;
    let user_id = state.accounts.register_guest()?;
    registered(state, user_id, Some(wish))
}

/// The guest who wants to be a user like others, and names himself.
fn guest_to_be_user(
    state: &ClientState,
    token: &str,
    name: Option<&str>,
) -> Result<OwnedUserId, MatrixError> {
    let session = state.devices.authenticate(token)?;
    let is_himself = name.and_then(|name| state.accounts.local_user_id(name));
    if !session.is_guest || is_himself.as_ref() != Some(&session.user_id) {
        return Err(MatrixError::forbidden("The token is not that of a guest of this name"));
    }
    Ok(session.user_id)
}

fn registered(
    state: &ClientState,
    user_id: OwnedUserId,
    wish: Option<SessionRequest>,
) -> Result<Response, MatrixError> {
    let mut answer = Map::new();
    answer.insert("user_id".into(), user_id.to_string().into());
    answer.insert("home_server".into(), state.settings.server_name.to_string().into());
    if let Some(wish) = wish {
        let session = state.devices.create_session(&user_id, wish)?;
        answer.insert("access_token".into(), session.access_token.into());
        answer.insert("device_id".into(), session.device_id.to_string().into());
        if let (Some(token), Some(lifetime_ms)) = (session.refresh_token, session.expires_in_ms) {
            answer.insert("refresh_token".into(), token.into());
            answer.insert("expires_in_ms".into(), lifetime_ms.into());
        }
    }
    Ok(json_response(StatusCode::OK, &Value::Object(answer)))
}

fn available(
    state: &ClientState,
    request: Ruma<get_username_availability::v3::Request>,
) -> Result<get_username_availability::v3::Response, MatrixError> {
    state.accounts.check_available(&request.body.username)?;
    Ok(get_username_availability::v3::Response::new(true))
}

fn token_validity(
    state: &ClientState,
    request: Ruma<check_registration_token_validity::v1::Request>,
) -> Result<check_registration_token_validity::v1::Response, MatrixError> {
    if !matches!(state.settings.registration, Registration::Token(_)) {
        return Err(MatrixError::forbidden("Registration by token is not enabled"));
    }
    // As an attempt to register: else tokens are guessed here.
    state.rate_limits.admit_address(Class::Registration, request.address)?;
    let valid = state.registration_tokens.is_valid(&request.body.token)?;
    Ok(check_registration_token_validity::v1::Response::new(valid))
}

fn nonce(state: &ClientState, _request: Custom<()>) -> Result<Response, MatrixError> {
    let nonce = state.shared_secret.nonce()?;
    Ok(json_response(StatusCode::OK, &json!({ "nonce": nonce })))
}

/// The body of Synapse's shared-secret registration.
#[derive(Deserialize)]
struct BySecret {
    nonce: String,
    username: String,
    password: String,
    #[serde(default)]
    admin: bool,
    user_type: Option<String>,
    mac: String,
    #[serde(default)]
    inhibit_login: bool,
    displayname: Option<String>,
}

fn register_by_secret(state: &ClientState, request: Custom<()>) -> Result<Response, MatrixError> {
    let body: BySecret = request.json()?;
    state.shared_secret.verify(&Claim {
        nonce: &body.nonce,
        username: &body.username,
        password: &body.password,
        admin: body.admin,
        user_type: body.user_type.as_deref(),
        mac: &body.mac,
    })?;
    let user_id = state.accounts.register(Some(&body.username), Some(&body.password), body.admin)?;
    if let Some(name) = &body.displayname {
        state.profiles.set(&user_id, "displayname", Some(name.as_str().into()))?;
    }
    registered(state, user_id, (!body.inhibit_login).then(SessionRequest::default))
}
