//! The list of a room's threads.

use axum::{Router, response::Response};
use causeway_service::{error::MatrixError, threads::Wanted};
use http::StatusCode;
use ruma::api::client::threads::get_threads::v1::{IncludeThreads, Request};
use serde_json::json;

use crate::{
    ClientState, Endpoints, Ruma,
    frame::serialized_response,
    message::{limit, token},
    state_event::reader,
};

/// Threads on a page when the client names no limit.
const LIMIT_DEFAULT: usize = 20;

pub(crate) fn routes() -> Router<ClientState> {
    Router::new().endpoint_raw(threads)
}

fn threads(state: &ClientState, request: Ruma<Request>) -> Result<Response, MatrixError> {
    let body = &request.body;
    let wanted = Wanted {
        from: token(body.from.as_deref())?,
        participated: body.include == IncludeThreads::Participated,
        limit: body.limit.map_or(LIMIT_DEFAULT, limit),
    };
    let page = state.threads.page(reader(&request.auth), &body.room_id, wanted)?;
    state.rooms.barrier()?;
    let mut answer = json!({ "chunk": page.chunk });
    if let Some(next) = page.next {
        answer["next_batch"] = next.to_string().into();
    }
    serialized_response(StatusCode::OK, &answer)
}
