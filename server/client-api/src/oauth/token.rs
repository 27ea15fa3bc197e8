//! Tokens for programs: for a code of either kind, for a refresh token; and their end
//! (RFC 6749, sections 4.1.3 and 6; RFC 8628, section 3.4; RFC 7009).

use axum::response::Response;
use causeway_service::{
    devices::NewSession,
    error::MatrixError,
    oauth::{
        Consent, OAuth, OAuthError,
        clients::{AUTHORIZATION_CODE, DEVICE_CODE, REFRESH_TOKEN},
        codes::Refused,
        params::Params,
    },
};
use http::StatusCode;
use ruma::{OwnedDeviceId, UserId};
use serde_json::{Value, json};

use super::{answered, offered};
use crate::{ClientState, Custom};

/// The token endpoint.
pub(super) fn give(state: &ClientState, request: Custom<()>) -> Result<Response, MatrixError> {
    let oauth = offered(state)?;
    let given = Params::parse(&request.raw).and_then(|params| match params.need("grant_type")? {
        AUTHORIZATION_CODE => by_code(state, oauth, &params),
        DEVICE_CODE => by_device_code(state, oauth, &params),
        REFRESH_TOKEN => by_refresh_token(state, &params),
        _ => Err(OAuthError::new("unsupported_grant_type", "This grant type is not offered")),
    });
    Ok(answered(given.map(|tokens| (StatusCode::OK, tokens))))
}

fn by_code(state: &ClientState, oauth: &OAuth, params: &Params) -> Result<Value, OAuthError> {
    let client_id = params.need("client_id")?;
    oauth.clients.using(client_id, AUTHORIZATION_CODE)?;
    let (code, uri) = (params.need("code")?, params.need("redirect_uri")?);
    match oauth.codes.redeem(code, client_id, uri, params.need("code_verifier")?) {
        Ok(consent) => {
            let (user_id, device_id) = (consent.user_id.clone(), consent.scope.device_id.clone());
            let tokens = log_in(state, consent)?;
            // Whoever used it again while this logged in found nothing to end.
            if oauth.codes.is_burnt(code) {
                return Err(used_twice(state, &user_id, device_id)?);
            }
            Ok(tokens)
        }
        Err(Refused::Unknown(error)) => Err(error),
        Err(Refused::Again(user_id, device_id)) => Err(used_twice(state, &user_id, device_id)?),
    }
}

/// Ends what a code opened.
fn used_twice(
    state: &ClientState,
    user_id: &UserId,
    device_id: OwnedDeviceId,
) -> Result<OAuthError, MatrixError> {
    tracing::warn!(%user_id, "an authorization code was used twice: its session is ended");
    state.devices.delete(user_id, &[device_id])?;
    Ok(OAuthError::invalid_grant("This code was used before"))
}

fn by_device_code(state: &ClientState, oauth: &OAuth, params: &Params) -> Result<Value, OAuthError> {
    let client_id = params.need("client_id")?;
    oauth.clients.using(client_id, DEVICE_CODE)?;
    log_in(state, oauth.device_codes.poll(params.need("device_code")?, client_id)?)
}

/// Logs a client in for a user who consented.
fn log_in(state: &ClientState, consent: Consent) -> Result<Value, OAuthError> {
    let (user_id, scope) = (consent.user_id.clone(), consent.scope.granted.clone());
    // The account may have been locked, closed or given another password meanwhile.
    let ended = |error: MatrixError| match error.status {
        500.. => error.into(),
        _ => OAuthError::invalid_grant(error.message),
    };
    state.accounts.check_open(&user_id).map_err(ended)?;
    let session = state.devices.create_session(&user_id, consent.wish()).map_err(ended)?;
    Ok(tokens(session, &scope))
}

fn by_refresh_token(state: &ClientState, params: &Params) -> Result<Value, OAuthError> {
    let (token, client_id) = (params.need("refresh_token")?, params.need("client_id")?);
    let refreshed = state.devices.refresh_by_oauth(token, client_id);
    let (session, scope) = refreshed.map_err(|error| match error.status {
        500.. => error.into(),
        _ => OAuthError::invalid_grant(error.message),
    })?;
    Ok(tokens(session, &scope))
}

fn tokens(session: NewSession, scope: &str) -> Value {
    json!({
        "access_token": session.access_token,
        "token_type": "Bearer",
        "expires_in": session.expires_in_ms.map(|lifetime_ms| lifetime_ms / 1000),
        "refresh_token": session.refresh_token,
        "scope": scope,
    })
}

/// The revocation endpoint. Whoever has a token may end it, whichever client it was
/// given to (client-server API, "Token revocation").
pub(super) fn revoke(state: &ClientState, request: Custom<()>) -> Result<Response, MatrixError> {
    offered(state)?;
    let revoked = Params::parse(&request.raw).and_then(|params| {
        state.devices.revoke(params.need("token")?)?;
        Ok((StatusCode::OK, json!({})))
    });
    Ok(answered(revoked))
}
