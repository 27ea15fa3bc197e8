//! What only this server knows of its users, aliases and public rooms:
//! `GET …/query/profile`, `GET …/query/directory`, `GET` and `POST …/publicRooms`.

use axum::{Json, Router, extract::State, routing::get};
use causeway_service::{Services, directory::Wanted, error::MatrixError};
use ruma::{OwnedRoomAliasId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    access,
    authenticated::Signed,
    bounded::BoundedList,
    error::{Refusal, blocking},
    state::FederationState,
};

/// Rooms on one page unless less are asked for.
const PAGE: usize = 100;
/// Types of rooms that a filter may name.
const ROOM_TYPES_MAX: usize = 100;

pub(super) fn routes() -> Router<FederationState> {
    Router::new()
        .route("/_matrix/federation/v1/query/profile", get(profile))
        .route("/_matrix/federation/v1/query/directory", get(directory))
        .route("/_matrix/federation/v1/publicRooms", get(public_rooms).post(search_public_rooms))
}

/// Runs `work` while the request keeps its turn.
async fn answer(
    state: &FederationState,
    signed: Signed,
    work: impl FnOnce(&Services) -> Result<Value, MatrixError> + Send + 'static,
) -> Result<Json<Value>, Refusal> {
    let services = state.services().clone();
    let answer = blocking(move || work(&services)).await;
    drop(signed);
    Ok(Json(answer?))
}

/// Lets the application service that may know this user make him, if he is of this server.
pub(super) async fn user_is_wanted(state: &FederationState, user_id: &UserId) -> Result<(), MatrixError> {
    if user_id.server_name() != state.server_name() {
        return Ok(());
    }
    let (services, wanted) = (state.services().clone(), user_id.to_owned());
    let is_made = move || Ok(services.accounts.account(&wanted)?.is_some());
    state.services().appservices.user_is_wanted(user_id, is_made).await
}

#[derive(Deserialize)]
struct Profile {
    user_id: String,
    field: Option<String>,
}

async fn profile(State(state): State<FederationState>, signed: Signed) -> Result<Json<Value>, Refusal> {
    let query: Profile = signed.query()?;
    user_is_wanted(&state, &access::user_id(&query.user_id)?).await?;
    let work = move |services: &Services| {
        let user_id = access::user_id(&query.user_id)?;
        let local = user_id.server_name() == services.rooms.server_name();
        if !local || !services.accounts.is_active(&user_id)? {
            return Err(MatrixError::not_found("There is no such user"));
        }
        let mut profile = Map::from_iter(services.profiles.profile(&user_id)?);
        if let Some(field) = query.field {
            profile.retain(|name, _| *name == field);
        }
        Ok(Value::Object(profile))
    };
    answer(&state, signed, work).await
}

#[derive(Deserialize)]
struct Directory {
    room_alias: String,
}

async fn directory(State(state): State<FederationState>, signed: Signed) -> Result<Json<Value>, Refusal> {
    let query: Directory = signed.query()?;
    let alias = OwnedRoomAliasId::try_from(query.room_alias)
        .map_err(|_| MatrixError::invalid_param("That is not a room alias"))?;
    let (services, wanted) = (state.services().clone(), alias.clone());
    let is_made = move || Ok(services.directory.room_of(&wanted).is_ok());
    state.services().appservices.alias_is_wanted(&alias, is_made).await?;
    let work = move |services: &Services| {
        let room_id = services.directory.room_of(&alias)?;
        let servers = services.rooms.joined_servers(&room_id)?;
        Ok(json!({"room_id": room_id, "servers": servers}))
    };
    answer(&state, signed, work).await
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Filter {
    generic_search_term: Option<String>,
    room_types: Option<BoundedList<Option<String>, ROOM_TYPES_MAX>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Page {
    limit: Option<usize>,
    since: Option<String>,
    filter: Option<Filter>,
}

async fn public_rooms(State(state): State<FederationState>, signed: Signed) -> Result<Json<Value>, Refusal> {
    let page: Page = signed.query()?;
    answer(&state, signed, move |services| list(services, page)).await
}

async fn search_public_rooms(
    State(state): State<FederationState>,
    signed: Signed,
) -> Result<Json<Value>, Refusal> {
    let page: Page = signed.json()?;
    answer(&state, signed, move |services| list(services, page)).await
}

fn list(services: &Services, page: Page) -> Result<Value, MatrixError> {
    let filter = page.filter.unwrap_or_default();
    let wanted = Wanted {
        from: page.since.as_deref().filter(|since| !since.is_empty()).map(str::parse).transpose()?,
        term: filter.generic_search_term.unwrap_or_default(),
        room_types: filter.room_types.map(|kinds| kinds.0).unwrap_or_default(),
        limit: page.limit.unwrap_or(PAGE).min(PAGE),
    };
    let found = services.directory.public_rooms(&wanted)?;
    services.rooms.barrier()?;
    let mut answer = json!({"chunk": found.chunk, "total_room_count_estimate": found.total});
    if let Some(next) = found.next {
        answer["next_batch"] = next.to_string().into();
    }
    Ok(answer)
}
