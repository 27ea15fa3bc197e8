//! Simplified sliding sync (MSC4186): the long poll. What is in an answer is
//! decided in `causeway_service::sliding`; this waits and wakes.

use std::time::Duration;

use axum::{Router, response::Response};
use causeway_service::{
    devices::Standing,
    error::MatrixError,
    presence::State,
    sliding::{Request, request::Body},
};
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    ClientState, Custom, Endpoints,
    frame::serialized_response,
    long_poll::{Step, looking, poll},
    sync::TIMEOUT_MAX,
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
    let (request, first) = looking(move || {
        let body: Body = custom.json()?;
        let device = (custom.auth.user_id.clone(), custom.auth.device_id.clone());
        let request = Request::new(device, query.pos.as_deref(), body)?;
        acknowledging.sliding.acknowledge(&request)?;
        let presence = State::of(query.set_presence.as_deref().unwrap_or("online"));
        acknowledging.presence.connected(&custom.auth.user_id, presence)?;
        let standing = acknowledging.devices.standing(&custom.auth)?;
        let first = step(&acknowledging, &standing, &request, deadline)?;
        Ok(((standing, request), first))
    })
    .await?;
    poll(&state, deadline, first, move |state| step(state, &request.0, &request.1, deadline)).await
}

/// One look. Subscribed before it: what is committed after it wakes us, the end
/// of the session, too.
fn step(
    state: &ClientState,
    standing: &Standing,
    request: &Request,
    deadline: Instant,
) -> Result<Step, MatrixError> {
    let topics = state.sliding.topics(request)?;
    let subscription = state.notifier.subscribe(topics.iter().cloned());
    state.devices.check_standing(standing)?;
    let look = state.sliding.look(request)?;
    let is_over = Instant::from_std(state.clock.instant()) >= deadline;
    if look.is_worth_sending || request.pos.is_none() || is_over {
        let response = state.sliding.finish(request, look)?;
        return serialized_response(StatusCode::OK, &response).map(Step::Answer);
    }
    let expiry_ms = state.sliding.next_expiry_ms(&look);
    Ok(Step::Wait(subscription, expiry_ms))
}
