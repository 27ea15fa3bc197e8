//! Other servers: what waits for each, when it is tried again, and trying now.

use std::collections::BTreeMap;

use axum::{Router, response::Response};
use causeway_service::{
    error::MatrixError,
    outbox::{Destination, Standing},
    remote::RemoteRequest,
};
use http::Method;
use ruma::{OwnedServerName, RoomId, ServerName};
use serde_json::{Value, json};

use super::{Paging, ok};
use crate::{ClientState, Custom, Endpoints, auth::Admin, blocking};

/// Servers that one answer tells of: what waits for each is counted.
const SERVERS_AT_ONCE_MAX: usize = 100;
/// Rooms that are looked at together.
const ROOMS_AT_ONCE: usize = 500;

const ALL: &[&str] = &["/_causeway/admin/v1/federation"];
const ONE: &[&str] = &["/_causeway/admin/v1/federation/{server}"];
const RETRY: &[&str] = &[
    "/_causeway/admin/v1/federation/{server}/retry",
    "/_synapse/admin/v1/federation/destinations/{server}/reset_connection",
];
const DESTINATIONS: &[&str] = &["/_synapse/admin/v1/federation/destinations"];
const DESTINATION: &[&str] = &["/_synapse/admin/v1/federation/destinations/{server}"];

pub(super) fn routes() -> Router<ClientState> {
    Router::new()
        .admin(Method::GET, ALL, list)
        .admin(Method::GET, ONE, show)
        .admin_async(Method::POST, RETRY, retry)
        .admin(Method::GET, DESTINATIONS, list_destinations)
        .admin(Method::GET, DESTINATION, show_destination)
}

/// Every server that a room is shared with or that something waits for, and how
/// many rooms are shared.
fn servers(state: &ClientState) -> Result<BTreeMap<OwnedServerName, u64>, MatrixError> {
    let mut servers: BTreeMap<OwnedServerName, u64> = BTreeMap::new();
    each_room(state, |room_id| {
        for server in state.rooms.joined_servers(room_id)? {
            *servers.entry(server).or_default() += 1;
        }
        Ok(())
    })?;
    for server in state.outbox.known()? {
        servers.entry(server).or_default();
    }
    servers.remove(&state.settings.server_name);
    Ok(servers)
}

/// Shows the rooms that this server takes part in.
fn each_room(
    state: &ClientState,
    mut show: impl FnMut(&RoomId) -> Result<(), MatrixError>,
) -> Result<(), MatrixError> {
    let mut after = None;
    loop {
        let rooms = state.rooms.room_ids(after.as_deref(), ROOMS_AT_ONCE)?;
        let Some(last) = rooms.last().cloned() else { return Ok(()) };
        for room_id in &rooms {
            if state.rooms.is_joined_here(room_id)? {
                show(room_id)?;
            }
        }
        after = Some(last);
    }
}

fn described(state: &ClientState, server: &ServerName, shared_rooms: u64, standing: &Standing) -> Value {
    let now_ms = state.clock.now_ms();
    let some = |ms: u64| (ms > 0).then_some(ms);
    json!({
        "server": server,
        "shared_rooms": shared_rooms,
        "queued": standing.queued,
        "lag_ms": standing.oldest_ts.map(|oldest| now_ms.saturating_sub(oldest)),
        "failures": standing.met.failures,
        "down_since_ms": some(standing.met.down_since_ms),
        "retry_at_ms": some(standing.met.retry_at_ms),
    })
}

fn list(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let paging = Paging::of(&request)?.at_most(SERVERS_AT_ONCE_MAX);
    let page = paging.cut(servers(state)?.into_iter().collect());
    let mut listed = Vec::with_capacity(page.entries.len());
    for (server, shared_rooms) in &page.entries {
        listed.push(described(state, server, *shared_rooms, &state.outbox.standing(server)?));
    }
    let mut answer = json!({ "servers": listed, "total": page.total });
    if let Some(next) = page.next {
        answer["next_token"] = next.to_string().into();
    }
    ok(&answer)
}

/// The server that the path names, and how many rooms are shared with it.
fn named(state: &ClientState, request: &Custom<Admin>) -> Result<(OwnedServerName, u64), MatrixError> {
    let server =
        ServerName::parse(&request.path[0]).map_err(|_| MatrixError::invalid_param("Not a server name"))?;
    let mut shared_rooms = 0;
    each_room(state, |room_id| {
        shared_rooms += u64::from(state.rooms.is_server_joined(room_id, &server)?);
        Ok(())
    })?;
    let is_other = server != state.settings.server_name;
    if is_other && (shared_rooms > 0 || state.outbox.is_known(&server)?) {
        Ok((server, shared_rooms))
    } else {
        Err(MatrixError::not_found("Unknown destination"))
    }
}

fn show(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let (server, shared_rooms) = named(state, &request)?;
    ok(&described(state, &server, shared_rooms, &state.outbox.standing(&server)?))
}

async fn retry(state: ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let looking = state.clone();
    let (server, _) = blocking(move || named(&looking, &request)).await?;
    state.remote.request(|reply| RemoteRequest::Retry { server, reply }).await?;
    ok(&json!({}))
}

/// As Synapse says it. The last attempt is not kept here: what is called its
/// time is when the failures began, so that the sum with the interval is right.
fn as_synapse(server: &ServerName, met: &Destination) -> Value {
    let failing = met.failures > 0;
    json!({
        "destination": server,
        "failure_ts": failing.then_some(met.down_since_ms),
        "retry_last_ts": if failing { met.down_since_ms } else { 0 },
        "retry_interval": met.retry_at_ms.saturating_sub(met.down_since_ms),
        "last_successful_stream_ordering": null,
    })
}

fn list_destinations(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let paging = Paging::of(&request)?.at_most(SERVERS_AT_ONCE_MAX);
    let mut all: Vec<_> = servers(state)?.into_keys().collect();
    if paging.is_backward(false)? {
        all.reverse();
    }
    let page = paging.cut(all);
    let mut listed = Vec::with_capacity(page.entries.len());
    for server in &page.entries {
        listed.push(as_synapse(server, &state.outbox.met(server)?));
    }
    let mut answer = json!({ "destinations": listed, "total": page.total });
    if let Some(next) = page.next {
        answer["next_token"] = next.to_string().into();
    }
    ok(&answer)
}

fn show_destination(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let (server, _) = named(state, &request)?;
    ok(&as_synapse(&server, &state.outbox.met(&server)?))
}
