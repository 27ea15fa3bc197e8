//! `query/directory` and `query/profile`: what only a user's or an alias' own
//! server knows.

use causeway_service::error::MatrixError;
use http::Method;
use ruma::{OwnedRoomId, OwnedServerName, RoomAliasId, ServerName, UserId};
use serde::Deserialize;
use serde_json::Value;

use super::answer;
use crate::{
    bounded::BoundedList,
    client::{Request, escape},
    state::FederationState,
};

/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Servers that an alias may name.
const SERVERS_MAX: usize = 1_000;

#[derive(Deserialize)]
struct Directory {
    room_id: OwnedRoomId,
    #[serde(default)]
    servers: BoundedList<Value, SERVERS_MAX>,
}

pub(super) async fn alias(
    state: &FederationState,
    alias: &RoomAliasId,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), MatrixError> {
    let path = format!("/_matrix/federation/v1/query/directory?room_alias={}", escape(alias));
    let found: Directory = query(state, alias.server_name(), &path).await?;
    let servers = found.servers.0.iter().filter_map(Value::as_str);
    let servers = servers.filter_map(|server| OwnedServerName::try_from(server).ok()).collect();
    Ok((found.room_id, servers))
}

pub(super) async fn profile(state: &FederationState, user_id: &UserId) -> Result<Value, MatrixError> {
    let path = format!("/_matrix/federation/v1/query/profile?user_id={}", escape(user_id));
    let profile: serde_json::Map<String, Value> = query(state, user_id.server_name(), &path).await?;
    Ok(Value::Object(profile))
}

async fn query<T: serde::de::DeserializeOwned>(
    state: &FederationState,
    server: &ServerName,
    path: &str,
) -> Result<T, MatrixError> {
    let mut request = Request::new(server, Method::GET, path);
    request.response_bytes_max = ANSWER_BYTES_MAX;
    let response = state.client().send_ok(request).await.map_err(|error| answer(&error))?;
    serde_json::from_slice(&response.body)
        .map_err(|_| MatrixError::new(502, "M_UNKNOWN", "The other server's answer makes no sense"))
}
