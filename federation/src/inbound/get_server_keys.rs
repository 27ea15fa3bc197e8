//! `/_matrix/key/v2/…`: this server's keys, and, as a notary, other servers'.
//! Open to everybody: who asks has perhaps no keys of ours yet.

use std::collections::BTreeMap;

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    routing::{get, post},
};
use causeway_service::error::MatrixError;
use futures_util::{StreamExt, stream};
use http::Uri;
use ruma::{CanonicalJsonObject, OwnedServerName};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    body::{REQUEST_BODY_TIMEOUT, read_request},
    error::Refusal,
    params::{self, Path},
    state::FederationState,
};

/// Servers whose keys may be asked for at once.
const SERVERS_MAX: usize = 100;
/// Keys that may be asked for at once, over all servers.
const KEYS_MAX: usize = 1_000;
/// Servers that are looked up at once for one request.
const LOOKUPS_AT_ONCE: usize = 8;
/// Largest body of a query, in bytes.
const QUERY_BYTES_MAX: usize = 64 * 1024;

pub(super) fn routes() -> Router<FederationState> {
    routes_beside()
        .route("/_matrix/key/v2/query", post(query_many))
        .route("/_matrix/key/v2/query/{server_name}", get(query_one))
        .route("/_matrix/key/v2/query/{server_name}/{key_id}", get(query_one_key))
}

/// The routes of a sidecar with a name of its own.
pub(super) fn routes_beside() -> Router<FederationState> {
    Router::new()
        .route("/_matrix/key/v2/server", get(own))
        .route("/_matrix/key/v2/server/", get(own))
        .route("/_matrix/key/v2/server/{key_id}", get(own))
}

async fn own(State(state): State<FederationState>) -> Json<CanonicalJsonObject> {
    let name = state.settings().own_name.as_deref().unwrap_or(state.server_name());
    Json(state.services().server_keys.published_as(name, state.clock().now_ms()))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Criteria {
    /// Of none, now (server-server API, "Querying keys through another server").
    minimum_valid_until_ts: Option<u64>,
}

async fn query_one(
    State(state): State<FederationState>,
    Path(server): Path<String>,
    uri: Uri,
) -> Result<Json<Value>, Refusal> {
    let criteria: Criteria = params::query(&uri)?;
    let server = server_name(server)?;
    let found = lookup(&state, server, &[], criteria.minimum_valid_until_ts).await;
    Ok(Json(json!({"server_keys": found})))
}

/// The deprecated form.
async fn query_one_key(
    State(state): State<FederationState>,
    Path((server, key_id)): Path<(String, String)>,
    uri: Uri,
) -> Result<Json<Value>, Refusal> {
    let criteria: Criteria = params::query(&uri)?;
    let server = server_name(server)?;
    let found = lookup(&state, server, &[key_id], criteria.minimum_valid_until_ts).await;
    Ok(Json(json!({"server_keys": found})))
}

fn server_name(text: String) -> Result<OwnedServerName, MatrixError> {
    OwnedServerName::try_from(text).map_err(|_| MatrixError::invalid_param("That is not a server name"))
}

#[derive(Deserialize)]
struct Wanted {
    server_keys: BTreeMap<OwnedServerName, BTreeMap<String, Criteria>>,
}

async fn query_many(State(state): State<FederationState>, body: Body) -> Result<Json<Value>, Refusal> {
    let body = read_request(body, QUERY_BYTES_MAX, REQUEST_BODY_TIMEOUT).await?;
    let body: Wanted = serde_json::from_slice(&body)
        .map_err(|_| MatrixError::bad_json("The body is not what is asked for"))?;
    let keys = body.server_keys.values().map(BTreeMap::len).sum::<usize>();
    if body.server_keys.len() > SERVERS_MAX || keys > KEYS_MAX {
        return Err(MatrixError::too_large("Too many keys are asked for").into());
    }
    let found = stream::iter(body.server_keys)
        .map(async |(server, keys)| {
            let minimum = keys.values().filter_map(|criteria| criteria.minimum_valid_until_ts).max();
            let wanted: Vec<String> = keys.into_keys().collect();
            lookup(&state, server, &wanted, minimum).await
        })
        .buffer_unordered(LOOKUPS_AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    Ok(Json(json!({"server_keys": found.concat()})))
}

/// The documents of `server`, with this server's signature added.
async fn lookup(
    state: &FederationState,
    server: OwnedServerName,
    wanted: &[String],
    minimum_valid_until_ms: Option<u64>,
) -> Vec<CanonicalJsonObject> {
    let own = &state.services().server_keys;
    let now_ms = state.clock().now_ms();
    if server == *state.server_name() {
        return vec![own.published(now_ms)];
    }
    let minimum_ms = minimum_valid_until_ms.unwrap_or(now_ms);
    let documents = state.keys().documents(&server, wanted, minimum_ms).await;
    let sign = |document: String| {
        let mut object: CanonicalJsonObject = serde_json::from_str(&document).ok()?;
        own.sign(&mut object).ok()?;
        Some(object)
    };
    documents.into_iter().filter_map(sign).collect()
}
