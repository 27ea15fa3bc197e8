//! Server notices: what operators tell a user.

use axum::{Router, response::Response};
use causeway_service::{error::MatrixError, server_notices::Notice};
use http::Method;
use ruma::{OwnedTransactionId, TransactionId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{existing_user, ok};
use crate::{ClientState, Custom, Endpoints, auth::Admin};

const SEND: &[&str] = &["/_synapse/admin/v1/send_server_notice"];
const SEND_ONCE: &[&str] = &["/_synapse/admin/v1/send_server_notice/{transaction}"];

/// Bytes of a transaction's id.
const TRANSACTION_BYTES_MAX: usize = 255;

pub(super) fn routes() -> Router<ClientState> {
    Router::new().admin(Method::POST, SEND, send).admin(Method::PUT, SEND_ONCE, send_once)
}

#[derive(Deserialize)]
struct Body {
    user_id: String,
    content: Map<String, Value>,
    #[serde(default = "message")]
    r#type: String,
    state_key: Option<String>,
}

fn message() -> String {
    "m.room.message".to_owned()
}

fn send(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    answer(state, &request, None)
}

fn send_once(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let id = &request.path[0];
    if id.len() > TRANSACTION_BYTES_MAX {
        return Err(MatrixError::invalid_param("The transaction id is too long"));
    }
    let id = OwnedTransactionId::from(&**id);
    answer(state, &request, Some(&id))
}

fn answer(
    state: &ClientState,
    request: &Custom<Admin>,
    transaction: Option<&TransactionId>,
) -> Result<Response, MatrixError> {
    let Body { user_id, content, r#type: kind, state_key } = request.json()?;
    let (user_id, _) = existing_user(state, &user_id)?;
    let notice = Notice { kind, state_key, content: Value::Object(content) };
    let event_id = state.server_notices.send(&user_id, &notice, transaction)?;
    ok(&json!({ "event_id": event_id }))
}
