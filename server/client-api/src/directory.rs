//! Aliases and the public list of rooms.

use axum::{Router, response::Response};
use causeway_service::error::MatrixError;
use http::StatusCode;
use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, RoomOrAliasId, UInt,
    api::client::{
        alias::{create_alias, delete_alias, get_alias},
        directory::{get_public_rooms, get_public_rooms_filtered, get_room_visibility, set_room_visibility},
        room::Visibility,
    },
};
use serde_json::json;

use crate::{ClientState, Endpoints, Ruma, frame::serialized_response, membership, message::limit};

/// Rooms on a page when the client names no limit.
const LIMIT_DEFAULT: usize = 50;

pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .endpoint_async(alias)
        .endpoint(put_alias)
        .endpoint(remove_alias)
        .endpoint(visibility)
        .endpoint(set_visibility)
        .endpoint_raw(list)
        .endpoint_raw(search)
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
    state.directory.create_alias(&body.room_alias, &body.room_id, &request.auth.user_id)?;
    Ok(create_alias::v3::Response::new())
}

fn remove_alias(
    state: &ClientState,
    request: Ruma<delete_alias::v3::Request>,
) -> Result<delete_alias::v3::Response, MatrixError> {
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
    let published = body.visibility == Visibility::Public;
    state.directory.set_published(&body.room_id, &request.auth.user_id, published)?;
    Ok(set_room_visibility::v3::Response::new())
}

fn list(state: &ClientState, request: Ruma<get_public_rooms::v3::Request>) -> Result<Response, MatrixError> {
    let body = request.body;
    answer(state, body.server.as_ref(), body.since.as_deref(), "", body.limit)
}

fn search(
    state: &ClientState,
    request: Ruma<get_public_rooms_filtered::v3::Request>,
) -> Result<Response, MatrixError> {
    let body = request.body;
    let term = body.filter.generic_search_term.unwrap_or_default();
    answer(state, body.server.as_ref(), body.since.as_deref(), &term, body.limit)
}

/// A page's token is the id of the room that it begins with.
fn answer(
    state: &ClientState,
    server: Option<&OwnedServerName>,
    since: Option<&str>,
    term: &str,
    wanted: Option<UInt>,
) -> Result<Response, MatrixError> {
    if server.is_some_and(|server| *server != state.settings.server_name) {
        return Err(MatrixError::forbidden("The lists of other servers are not fetched"));
    }
    let from: Option<OwnedRoomId> = since
        .map(|since| {
            RoomId::parse(since).map_err(|_| MatrixError::invalid_param("Not a token of this server"))
        })
        .transpose()?;
    let page = state.directory.public_rooms(from.as_deref(), term, wanted.map_or(LIMIT_DEFAULT, limit))?;
    let mut answer = json!({ "total_room_count_estimate": page.chunk.len(), "chunk": page.chunk });
    if let Some(next) = page.next {
        answer["next_batch"] = next.as_str().into();
    }
    serialized_response(StatusCode::OK, &answer)
}
