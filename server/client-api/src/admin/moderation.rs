//! Locking and suspending accounts (client-server API, "Account moderation"),
//! and Synapse's path for the latter.

use axum::{Router, response::Response};
use causeway_service::{accounts::Account, error::MatrixError};
use http::Method;
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::json;

use super::{existing_user, ok};
use crate::{ClientState, Custom, Endpoints, auth::Admin};

const LOCK: &[&str] = &[
    "/_matrix/client/v1/admin/lock/{user}",
    "/_matrix/client/unstable/uk.timedout.msc4323/admin/lock/{user}",
];
const SUSPEND: &[&str] = &[
    "/_matrix/client/v1/admin/suspend/{user}",
    "/_matrix/client/unstable/uk.timedout.msc4323/admin/suspend/{user}",
];
const SYNAPSE_SUSPEND: &[&str] = &["/_synapse/admin/v1/suspend/{user}"];

pub(super) fn routes() -> Router<ClientState> {
    Router::new()
        .admin(Method::GET, LOCK, is_locked)
        .admin(Method::PUT, LOCK, set_locked)
        .admin(Method::GET, SUSPEND, is_suspended)
        .admin(Method::PUT, SUSPEND, set_suspended)
        .admin(Method::PUT, SYNAPSE_SUSPEND, set_suspended_as_synapse)
}

/// Whose state may be asked for and changed.
///
/// # Errors
/// 403 `M_FORBIDDEN` when an administrator means another one; 404 for closed accounts.
fn target(state: &ClientState, request: &Custom<Admin>) -> Result<(OwnedUserId, Account), MatrixError> {
    let (user_id, account) = existing_user(state, &request.path[0])?;
    if account.deactivated {
        return Err(MatrixError::not_found("The account is deactivated"));
    }
    let asks = request.auth.user_id();
    if account.admin && asks.is_some_and(|asks: &UserId| asks != user_id) {
        return Err(MatrixError::forbidden("This is another administrator"));
    }
    Ok((user_id, account))
}

/// The same, and it is not oneself.
fn other(state: &ClientState, request: &Custom<Admin>) -> Result<OwnedUserId, MatrixError> {
    let (user_id, _) = target(state, request)?;
    if request.auth.user_id() == Some(&*user_id) {
        return Err(MatrixError::forbidden("You may not do this to yourself"));
    }
    Ok(user_id)
}

fn is_locked(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let (_, account) = target(state, &request)?;
    ok(&json!({ "locked": account.locked }))
}

fn set_locked(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Wanted {
        locked: bool,
    }
    let (user_id, wanted) = (other(state, &request)?, request.json::<Wanted>()?);
    state.accounts.set_locked(&user_id, wanted.locked)?;
    ok(&json!({ "locked": wanted.locked }))
}

fn is_suspended(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let (_, account) = target(state, &request)?;
    ok(&json!({ "suspended": account.suspended }))
}

fn set_suspended(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Wanted {
        suspended: bool,
    }
    let (user_id, wanted) = (other(state, &request)?, request.json::<Wanted>()?);
    state.accounts.set_suspended(&user_id, wanted.suspended)?;
    ok(&json!({ "suspended": wanted.suspended }))
}

fn set_suspended_as_synapse(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Wanted {
        suspend: bool,
    }
    let (user_id, wanted) = (other(state, &request)?, request.json::<Wanted>()?);
    state.accounts.set_suspended(&user_id, wanted.suspend)?;
    let answer = format!("user_{user_id}_suspended");
    ok(&json!({ answer: wanted.suspend }))
}
