//! `GET /_matrix/federation/v1/openid/userinfo`: whose token of `openid` one was shown. Open to
//! everybody, as the token is the proof.

use axum::{Json, Router, extract::State, routing::get};
use causeway_service::error::MatrixError;
use http::Uri;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    error::{Refusal, blocking},
    params,
    state::FederationState,
};

pub(super) fn routes() -> Router<FederationState> {
    Router::new().route("/_matrix/federation/v1/openid/userinfo", get(user))
}

#[derive(Deserialize)]
struct Query {
    access_token: Option<String>,
}

async fn user(State(state): State<FederationState>, uri: Uri) -> Result<Json<Value>, Refusal> {
    let query: Query = params::query(&uri)?;
    let missing = || MatrixError::new(401, "M_MISSING_TOKEN", "Missing access token");
    let token = query.access_token.ok_or_else(missing)?;
    let services = state.services().clone();
    let user_id = blocking(move || {
        let user_id = services.openid.user(&token)?;
        if services.accounts.is_active(&user_id)? {
            return Ok(user_id);
        }
        Err(MatrixError::new(401, "M_UNKNOWN_TOKEN", "Unknown or expired token"))
    })
    .await?;
    Ok(Json(json!({ "sub": user_id })))
}
