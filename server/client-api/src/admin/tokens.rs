//! Registration tokens.

use axum::{Router, response::Response};
use causeway_service::{
    error::MatrixError,
    registration_tokens::{Change, RegistrationToken, Wish},
};
use http::Method;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::ok;
use crate::{ClientState, Custom, Endpoints, auth::Admin};

const ALL: &[&str] = &["/_synapse/admin/v1/registration_tokens"];
const NEW: &[&str] = &["/_synapse/admin/v1/registration_tokens/new"];
const ONE: &[&str] = &["/_synapse/admin/v1/registration_tokens/{token}"];

pub(super) fn routes() -> Router<ClientState> {
    Router::new()
        .admin(Method::GET, ALL, list)
        .admin(Method::POST, NEW, create)
        .admin(Method::GET, ONE, show)
        .admin(Method::PUT, ONE, change)
        .admin(Method::DELETE, ONE, delete)
}

fn described(token: &str, row: &RegistrationToken) -> Value {
    json!({
        "token": token,
        "uses_allowed": row.uses_allowed,
        "pending": 0,
        "completed": row.completed,
        "expiry_time": row.expires_ts,
    })
}

fn list(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Filter {
        valid: Option<bool>,
    }
    let filter: Filter = request.query()?;
    let all = state.registration_tokens.list()?;
    let wanted = all.iter().filter(|(_, row)| {
        filter.valid.is_none_or(|valid| valid == state.registration_tokens.is_usable(row))
    });
    let tokens: Vec<Value> = wanted.map(|(token, row)| described(token, row)).collect();
    ok(&json!({ "registration_tokens": tokens }))
}

fn create(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Body {
        token: Option<String>,
        length: Option<usize>,
        uses_allowed: Option<u64>,
        expiry_time: Option<u64>,
    }
    let body: Body = request.json()?;
    let Body { token, length, uses_allowed, expiry_time: expires_ts } = body;
    let (token, row) = state.registration_tokens.create(Wish { token, length, uses_allowed, expires_ts })?;
    ok(&described(&token, &row))
}

fn show(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let token = &request.path[0];
    ok(&described(token, &state.registration_tokens.token(token)?))
}

/// A field that is there: `null` is a value of its own.
#[expect(clippy::option_option, reason = "left out, null and a number are three things")]
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

fn change(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    #[expect(clippy::option_option, reason = "left out, null and a number are three things")]
    struct Body {
        #[serde(default, deserialize_with = "present")]
        uses_allowed: Option<Option<u64>>,
        #[serde(default, deserialize_with = "present")]
        expiry_time: Option<Option<u64>>,
    }
    let body: Body = request.json()?;
    let token = &request.path[0];
    let change = Change { uses_allowed: body.uses_allowed, expires_ts: body.expiry_time };
    ok(&described(token, &state.registration_tokens.change(token, change)?))
}

fn delete(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    state.registration_tokens.delete(&request.path[0])?;
    ok(&json!({}))
}
