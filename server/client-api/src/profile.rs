//! Profiles: display names and avatars.

use axum::{Router, response::Response};
use causeway_service::{credential::no_guests, error::MatrixError, profiles::Profile, remote::RemoteRequest};
use http::{Method, StatusCode};
use ruma::{OwnedUserId, UserId};
use serde_json::{Value, json};

use crate::{
    ClientState, Custom, Endpoints, appservice, blocking, config::own, json_response, request::json_object,
};

const WHOLE: &[&str] = &["/_matrix/client/r0/profile/{user}", "/_matrix/client/v3/profile/{user}"];
const FIELD: &[&str] =
    &["/_matrix/client/r0/profile/{user}/{field}", "/_matrix/client/v3/profile/{user}/{field}"];

pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .open_async(Method::GET, WHOLE, get_whole)
        .open_async(Method::GET, FIELD, get_field)
        .custom(Method::PUT, FIELD, set_field)
        .custom(Method::DELETE, FIELD, delete_field)
}

async fn get_whole(state: ClientState, request: Custom<()>) -> Result<Response, MatrixError> {
    let profile = profile(&state, &request.path[0]).await?;
    Ok(json_response(StatusCode::OK, &Value::Object(profile)))
}

async fn get_field(state: ClientState, request: Custom<()>) -> Result<Response, MatrixError> {
    let field = &request.path[1];
    let mut profile = profile(&state, &request.path[0]).await?;
    let value = profile.remove(field.as_str());
    let known = matches!(field.as_str(), "displayname" | "avatar_url");
    match value {
        Some(value) => Ok(json_response(StatusCode::OK, &json!({ (field.as_str()): value }))),
        // A user without a name is not an error; a field that nobody knows is.
        None if known => Ok(json_response(StatusCode::OK, &json!({}))),
        None => Err(MatrixError::not_found("The profile has no such field")),
    }
}

/// The profile of a user of this server, or of another one.
async fn profile(state: &ClientState, user: &str) -> Result<Profile, MatrixError> {
    let user_id: OwnedUserId =
        UserId::parse(user).map_err(|_| MatrixError::invalid_param("Invalid user id"))?;
    if user_id.server_name() != state.settings.server_name {
        let answer = state.remote.request(|reply| RemoteRequest::Profile { user_id, reply }).await?;
        return match answer {
            Value::Object(profile) => Ok(profile),
            _ => Err(MatrixError::new(502, "M_UNKNOWN", "The other server's answer makes no sense")),
        };
    }
    appservice::user_is_wanted(state, &user_id).await?;
    let state = state.clone();
    blocking(move || {
        if state.accounts.account(&user_id)?.is_none() {
            return Err(MatrixError::not_found("No such user"));
        }
        state.profiles.profile(&user_id)
    })
    .await
}

fn set_field(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    let field = &request.path[1];
    let mut body = json_object(&request.raw)?;
    let value = body.remove(field.as_str()).filter(|value| !value.is_null());
    store(state, &request, value)
}

fn delete_field(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    store(state, &request, None)
}

fn store(state: &ClientState, request: &Custom, value: Option<Value>) -> Result<Response, MatrixError> {
    own(&request.auth, &request.path[0])?;
    if request.auth.is_guest && request.path[1] != "displayname" {
        return Err(no_guests("Guests have a name only"));
    }
    let user_id = &request.auth.user_id;
    state.accounts.check_not_suspended(user_id)?;
    state.profiles.set(user_id, &request.path[1], value)?;
    Ok(json_response(StatusCode::OK, &json!({})))
}
