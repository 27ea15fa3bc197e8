//! Freezing the data for a backup, which a program beside the server then copies.
//!
//! Only through the data folder's socket: what is frozen lies there, and whoever
//! can't read the folder has nothing from it.

use axum::{Router, response::Response};
use causeway_service::error::MatrixError;
use http::Method;
use serde_json::json;

use super::ok;
use crate::{ClientState, Custom, Endpoints, auth::Admin};

const FROZEN: &[&str] = &["/_causeway/admin/v1/frozen"];

pub(super) fn routes() -> Router<ClientState> {
    Router::new().admin(Method::POST, FROZEN, freeze).admin(Method::DELETE, FROZEN, thaw)
}

fn operator(request: &Custom<Admin>) -> Result<(), MatrixError> {
    match request.auth {
        Admin::Operator => Ok(()),
        Admin::User(_) => Err(MatrixError::forbidden("Only through the socket in the data folder")),
    }
}

fn freeze(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    operator(&request)?;
    let folder = state.media.freeze()?;
    ok(&json!({ "folder": folder.file_name().and_then(|name| name.to_str()) }))
}

fn thaw(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    operator(&request)?;
    state.media.thaw()?;
    ok(&json!({}))
}
