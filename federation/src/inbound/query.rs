//! `GET …/query/profile` and `GET …/query/directory`: what only this server
//! knows of its users and aliases.

use axum::{
    Json, Router,
    extract::{Query, State},
    routing::get,
};
use causeway_service::error::MatrixError;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::access;
use crate::{
    authenticated::Signed,
    error::{Refusal, blocking},
    state::FederationState,
};

pub(super) fn routes() -> Router<FederationState> {
    Router::new().route("/_matrix/federation/v1/query/profile", get(profile))
}

#[derive(Deserialize)]
struct Profile {
    user_id: String,
    field: Option<String>,
}

async fn profile(
    State(state): State<FederationState>,
    Query(query): Query<Profile>,
    signed: Signed,
) -> Result<Json<Value>, Refusal> {
    let services = state.services().clone();
    let answer = blocking(move || {
        let user_id = access::user_id(&query.user_id)?;
        let unknown = || MatrixError::not_found("There is no such user");
        if user_id.server_name() != services.rooms.server_name() || !services.accounts.is_active(&user_id)? {
            return Err(unknown());
        }
        let mut profile = Map::from_iter(services.profiles.profile(&user_id)?);
        if let Some(field) = query.field {
            profile.retain(|name, _| *name == field);
        }
        Ok(Value::Object(profile))
    });
    let answer = answer.await?;
    drop(signed);
    Ok(Json(answer))
}
