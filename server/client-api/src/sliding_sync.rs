//! Simplified sliding sync (MSC4186): the long poll. What is in an answer is
//! decided in `causeway_service::sliding`; this waits and wakes.

use std::time::Duration;

use axum::{Router, response::Response};
use causeway_service::{
    error::MatrixError,
    presence::State,
    sliding::{Look, Request, request::Body},
};
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    ClientState, Custom, Endpoints, blocking,
    frame::serialized_response,
    sync::{TIMEOUT_MAX, wait_until},
};

const PATH: &[&str] = &["/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"];

pub(crate) fn routes() -> Router<ClientState> {
    Router::new().custom_async_unlimited(Method::POST, PATH, sync)
}

#[derive(Debug, Default, Deserialize)]
struct Query {
    pos: Option<String>,
    set_presence: Option<String>,
    #[serde(default)]
    timeout: u64,
}

async fn sync(state: ClientState, custom: Custom) -> Result<Response, MatrixError> {
    let query: Query = custom.query()?;
    let timeout = Duration::from_millis(query.timeout).min(TIMEOUT_MAX);
    let deadline = Instant::from_std(state.clock.instant()) + timeout;
    let acknowledging = state.clone();
    let request = blocking(move || {
        let body: Body = custom.json()?;
        let device = (custom.auth.user_id.clone(), custom.auth.device_id.clone());
        let request = Request::new(device, query.pos.as_deref(), body)?;
        acknowledging.sliding.acknowledge(&request)?;
        let presence = State::of(query.set_presence.as_deref().unwrap_or("online"));
        acknowledging.presence.connected(&custom.auth.user_id, presence)?;
        Ok(request)
    })
    .await?;
    let look = wait_for_news(&state, &request, deadline).await?;
    blocking(move || {
        let response = state.sliding.finish(&request, look)?;
        serialized_response(StatusCode::OK, &response)
    })
    .await
}

/// Looks until there is something to tell, or the time is up.
async fn wait_for_news(
    state: &ClientState,
    request: &Request,
    deadline: Instant,
) -> Result<Look, MatrixError> {
    loop {
        // Subscribed before looking: what is committed after the look wakes us.
        let (asking, topics_of) = (state.clone(), request.clone());
        let topics = blocking(move || asking.sliding.topics(&topics_of)).await?;
        let subscription = state.notifier.subscribe(topics.iter().cloned());
        let (looking, looked_for) = (state.clone(), request.clone());
        let look = blocking(move || looking.sliding.look(&looked_for)).await?;
        let is_over = Instant::from_std(state.clock.instant()) >= deadline;
        if look.is_worth_sending || request.pos.is_none() || is_over {
            return Ok(look);
        }
        wait_until(state, state.sliding.next_expiry_ms(&look), &subscription, deadline).await;
    }
}
