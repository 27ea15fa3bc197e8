//! `GET /_matrix/federation/v1/version`: what software this is. Open to everybody.

use axum::{Json, Router, routing::get};
use serde_json::{Value, json};

use crate::state::FederationState;

pub(super) fn routes() -> Router<FederationState> {
    Router::new().route("/_matrix/federation/v1/version", get(version))
}

async fn version() -> Json<Value> {
    Json(json!({"server": {"name": "Causeway", "version": env!("CARGO_PKG_VERSION")}}))
}
