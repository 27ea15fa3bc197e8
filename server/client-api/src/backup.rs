//! Backups of room keys: there are none. Clients ask at every login, and take
//! only `M_NOT_FOUND` for "you have no backup"; making one is not offered.

use axum::{Router, response::Response};
use causeway_service::error::MatrixError;
use http::Method;

use crate::{ClientState, Custom, Endpoints};

const LATEST: &[&str] = &[
    "/_matrix/client/unstable/room_keys/version",
    "/_matrix/client/r0/room_keys/version",
    "/_matrix/client/v3/room_keys/version",
];

pub(crate) fn routes() -> Router<ClientState> {
    Router::new().custom(Method::GET, LATEST, latest)
}

fn latest(_state: &ClientState, _request: Custom) -> Result<Response, MatrixError> {
    Err(MatrixError::not_found("There is no backup"))
}
