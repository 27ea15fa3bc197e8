//! `user/keys/query` and `user/keys/claim`: encryption keys that only the
//! users' own server knows or gives away.

use std::time::Duration;

use causeway_service::{
    error::MatrixError,
    keys::remote::{Asked, Wanted},
};
use http::Method;
use ruma::ServerName;
use serde_json::{Value, json};

use super::answer;
use crate::{client::Request, state::FederationState};

/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

pub(super) async fn query(
    state: &FederationState,
    server: &ServerName,
    asked: &Asked,
    timeout: Duration,
) -> Result<Value, MatrixError> {
    let body = json!({ "device_keys": asked });
    post(state, server, "/_matrix/federation/v1/user/keys/query", &body, timeout).await
}

pub(super) async fn claim(
    state: &FederationState,
    server: &ServerName,
    wanted: &Wanted,
    timeout: Duration,
) -> Result<Value, MatrixError> {
    let body = json!({ "one_time_keys": wanted });
    post(state, server, "/_matrix/federation/v1/user/keys/claim", &body, timeout).await
}

/// The timeout holds for finding the server as well. One that can't be told
/// anything at present is not asked: clients wait for each that is.
async fn post(
    state: &FederationState,
    server: &ServerName,
    path: &str,
    body: &Value,
    timeout: Duration,
) -> Result<Value, MatrixError> {
    if state.sender().is_pausing(server) {
        return Err(MatrixError::new(503, "M_UNKNOWN", "The other server can't be reached at present"));
    }
    let mut request = Request::new(server, Method::POST, path).json(body).map_err(|error| answer(&error))?;
    request.response_bytes_max = ANSWER_BYTES_MAX;
    let late = |_| MatrixError::new(504, "M_UNKNOWN", "The other server did not answer in time");
    let response = tokio::time::timeout(timeout, state.client().send_ok(request)).await.map_err(late)?;
    let response = response.map_err(|error| answer(&error))?;
    serde_json::from_slice(&response.body)
        .map_err(|_| MatrixError::new(502, "M_UNKNOWN", "The other server's answer makes no sense"))
}
