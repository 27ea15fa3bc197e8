//! Aliases and the public list of rooms.

use axum::{Router, response::Response};
use causeway_service::{
    devices::Session,
    directory::{PAGE_MAX, Wanted},
    error::MatrixError,
    rate_limit::Class,
    remote::{PublicRoomsQuery, RemoteRequest},
};
use http::StatusCode;
use ruma::{
    OwnedServerName, RoomAliasId, RoomOrAliasId, UInt,
    api::client::{
        alias::{create_alias, delete_alias, get_alias},
        directory::{get_public_rooms, get_public_rooms_filtered, get_room_visibility, set_room_visibility},
        room::Visibility,
    },
    directory::Filter,
};
use serde_json::json;

use crate::{
    ClientState, Endpoints, Ruma,
    auth::{admit, identify_by_header},
    blocking,
    frame::serialized_response,
    membership,
    message::limit,
};

/// Rooms on a page when the client names no limit.
const LIMIT_DEFAULT: usize = 50;

pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .endpoint_async(alias)
        .endpoint(put_alias)
        .endpoint(remove_alias)
        .endpoint(visibility)
        .endpoint(set_visibility)
        .endpoint_async_raw(list)
        .endpoint_async_raw(search)
}

async fn alias(
    state: ClientState,
    request: Ruma<get_alias::v3::Request>,
) -> Result<get_alias::v3::Response, MatrixError> {
    let alias: &RoomOrAliasId = (&*request.body.room_alias).into();
    let (room_id, servers) = membership::resolve(&state, alias).await?;
    Ok(get_alias::v3::Response::new(room_id, servers))
}

fn put_alias(
    state: &ClientState,
    request: Ruma<create_alias::v3::Request>,
) -> Result<create_alias::v3::Response, MatrixError> {
    let body = request.body;
    state.accounts.check_not_suspended(&request.auth.user_id)?;
    check_alias(state, &request.auth, &body.room_alias)?;
    state.directory.create_alias(&body.room_alias, &body.room_id, &request.auth.user_id)?;
    Ok(create_alias::v3::Response::new())
}

/// That no application service has the alias for itself.
pub(crate) fn check_alias(
    state: &ClientState,
    session: &Session,
    alias: &RoomAliasId,
) -> Result<(), MatrixError> {
    let by = session.appservice.as_ref().map(|service| &*service.id);
    state.appservices.check_alias(alias, by)
}

fn remove_alias(
    state: &ClientState,
    request: Ruma<delete_alias::v3::Request>,
) -> Result<delete_alias::v3::Response, MatrixError> {
    state.accounts.check_not_suspended(&request.auth.user_id)?;
    check_alias(state, &request.auth, &request.body.room_alias)?;
    state.directory.delete_alias(&request.body.room_alias, &request.auth.user_id)?;
    Ok(delete_alias::v3::Response::new())
}

fn visibility(
    state: &ClientState,
    request: Ruma<get_room_visibility::v3::Request>,
) -> Result<get_room_visibility::v3::Response, MatrixError> {
    let published = state.directory.is_published(&request.body.room_id)?;
    let visibility = if published { Visibility::Public } else { Visibility::Private };
    Ok(get_room_visibility::v3::Response::new(visibility))
}

fn set_visibility(
    state: &ClientState,
    request: Ruma<set_room_visibility::v3::Request>,
) -> Result<set_room_visibility::v3::Response, MatrixError> {
    let body = request.body;
    state.accounts.check_not_suspended(&request.auth.user_id)?;
    let published = body.visibility == Visibility::Public;
    state.directory.set_published(&body.room_id, &request.auth.user_id, published)?;
    Ok(set_room_visibility::v3::Response::new())
}

async fn list(
    state: ClientState,
    request: Ruma<get_public_rooms::v3::Request>,
) -> Result<Response, MatrixError> {
    let body = request.body;
    let Some(server) = body.server.filter(|server| *server != state.settings.server_name) else {
        return answer(&state, body.since.as_deref(), Filter::default(), body.limit).await;
    };
    let identifying = state.clone();
    let session = blocking(move || identify_by_header(&identifying, request.authorization)).await?;
    // Nobody in particular does not make this server ask others.
    let session = session
        .ok_or_else(|| MatrixError::forbidden("The lists of other servers are for users: log in first"))?;
    let query = PublicRoomsQuery { limit: page_limit(body.limit), since: page(body.since), filter: None };
    elsewhere(&state, &session, server, query).await
}

async fn search(
    state: ClientState,
    request: Ruma<get_public_rooms_filtered::v3::Request>,
) -> Result<Response, MatrixError> {
    let body = request.body;
    let Some(server) = body.server.filter(|server| *server != state.settings.server_name) else {
        return answer(&state, body.since.as_deref(), body.filter, body.limit).await;
    };
    let filter = (!body.filter.is_empty()).then(|| json!(body.filter));
    let query = PublicRoomsQuery { limit: page_limit(body.limit), since: page(body.since), filter };
    elsewhere(&state, &request.auth, server, query).await
}

fn page_limit(wanted: Option<UInt>) -> usize {
    wanted.map_or(LIMIT_DEFAULT, limit).min(PAGE_MAX)
}

fn page(since: Option<String>) -> Option<String> {
    since.filter(|since| !since.is_empty())
}

/// A page of another server's list.
async fn elsewhere(
    state: &ClientState,
    session: &Session,
    server: OwnedServerName,
    query: PublicRoomsQuery,
) -> Result<Response, MatrixError> {
    admit(state, Class::Request, session)?;
    let listed = state.remote.request(|reply| RemoteRequest::PublicRooms { server, query, reply }).await?;
    serialized_response(StatusCode::OK, &listed)
}

async fn answer(
    state: &ClientState,
    since: Option<&str>,
    filter: Filter,
    wanted: Option<UInt>,
) -> Result<Response, MatrixError> {
    let wanted = Wanted {
        from: since.filter(|since| !since.is_empty()).map(str::parse).transpose()?,
        term: filter.generic_search_term.unwrap_or_default(),
        room_types: filter.room_types.iter().map(|kind| kind.as_str().map(str::to_owned)).collect(),
        limit: wanted.map_or(LIMIT_DEFAULT, limit),
    };
    let state = state.clone();
    let page = blocking(move || {
        let page = state.directory.public_rooms(&wanted)?;
        state.rooms.barrier()?;
        Ok(page)
    })
    .await?;
    let mut answer = json!({ "total_room_count_estimate": page.total, "chunk": page.chunk });
    if let Some(next) = page.next {
        answer["next_batch"] = next.to_string().into();
    }
    serialized_response(StatusCode::OK, &answer)
}
