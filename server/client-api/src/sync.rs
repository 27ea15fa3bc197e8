//! `GET /sync`: the long poll. What is in an answer is decided in
//! `causeway_service::sync`; this waits and wakes.

use std::time::Duration;

use axum::{Router, response::Response};
use causeway_service::{
    devices::Standing,
    error::MatrixError,
    presence::State,
    sync::{
        Look, Request, StateAfter,
        filter::{FilterDefinition, global_event_passes},
    },
};
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    ClientState, Custom, Endpoints,
    frame::serialized_response,
    long_poll::{Step, looking, poll},
};

/// Longest wait; what clients ask for beyond it is cut.
pub(crate) const TIMEOUT_MAX: Duration = Duration::from_mins(2);

/// Longest filter that is taken inline, in bytes.
const FILTER_BYTES_MAX: usize = 64 * 1024;

pub(crate) fn routes() -> Router<ClientState> {
    let paths = &["/_matrix/client/r0/sync", "/_matrix/client/v3/sync"];
    Router::new().custom_async_unlimited(Method::GET, paths, sync)
}

#[derive(Debug, Default, Deserialize)]
struct Query {
    since: Option<String>,
    filter: Option<String>,
    #[serde(default)]
    full_state: bool,
    #[serde(default)]
    timeout: u64,
    set_presence: Option<String>,
    #[serde(default)]
    use_state_after: bool,
    #[serde(default, rename = "org.matrix.msc4222.use_state_after")]
    use_state_after_unstable: bool,
}

async fn sync(state: ClientState, custom: Custom) -> Result<Response, MatrixError> {
    let query: Query = custom.query()?;
    let timeout = Duration::from_millis(query.timeout).min(TIMEOUT_MAX);
    let deadline = Instant::from_std(state.clock.instant()) + timeout;
    let acknowledging = state.clone();
    let (request, first) = looking(move || {
        let request = parse(&acknowledging, &custom, &query)?;
        acknowledging.sync.acknowledge(&request)?;
        let presence = State::of(query.set_presence.as_deref().unwrap_or("online"));
        acknowledging.presence.connected(&request.user_id, presence)?;
        let standing = acknowledging.devices.standing(&custom.auth)?;
        let first = step(&acknowledging, &standing, &request, deadline)?;
        Ok(((standing, request), first))
    })
    .await?;
    poll(&state, deadline, first, move |state| step(state, &request.0, &request.1, deadline)).await
}

fn parse(state: &ClientState, custom: &Custom, query: &Query) -> Result<Request, MatrixError> {
    let since = match query.since.as_deref() {
        None | Some("") => None,
        Some(token) => Some(
            token.parse().map_err(|_| MatrixError::invalid_param("`since` is not a token of this server"))?,
        ),
    };
    let state_after = match query {
        Query { use_state_after: true, .. } => Some(StateAfter::Stable),
        Query { use_state_after_unstable: true, .. } => Some(StateAfter::Unstable),
        _ => None,
    };
    Ok(Request {
        user_id: custom.auth.user_id.clone(),
        device_id: custom.auth.device_id.clone(),
        since,
        filter: filter(state, custom, query.filter.as_deref().unwrap_or_default())?,
        full_state: query.full_state,
        state_after,
    })
}

/// A filter comes as its definition or as the id of a stored one.
fn filter(state: &ClientState, custom: &Custom, filter: &str) -> Result<FilterDefinition, MatrixError> {
    if filter.len() > FILTER_BYTES_MAX {
        return Err(MatrixError::too_large("The filter is too large"));
    }
    let stored;
    let definition = match filter {
        "" => return Ok(FilterDefinition::default()),
        inline if inline.trim_start().starts_with('{') => inline,
        id => {
            stored = state.account_data.filter(&custom.auth.user_id, id)?;
            stored.get()
        }
    };
    serde_json::from_str(definition)
        .map_err(|error| MatrixError::invalid_param(format!("Invalid filter: {error}")))
}

/// What there is now, with who is online. That is read last: whatever has a
/// number below the one that the token gets is in it.
fn look_once(state: &ClientState, request: &Request) -> Result<Look, MatrixError> {
    let mut look = state.sync.look(request)?;
    if global_event_passes(&request.filter.presence, "m.presence") {
        let since = request.since.map_or(0, |since| since.typing);
        let mut events = state.presence.changed_since(&request.user_id, since)?;
        if since > 0 {
            // Whose keys are news may have come to share a room.
            let newcomers = &look.response.device_lists.changed;
            let newcomers = state.presence.of_newcomers(&request.user_id, newcomers)?;
            events.extend(newcomers);
        }
        look.is_worth_sending |= !events.is_empty();
        look.response.presence.events = events;
    }
    Ok(look)
}

/// One look of /sync. Subscribed before it: what is committed after it wakes us,
/// the end of the session, too.
fn step(
    state: &ClientState,
    standing: &Standing,
    request: &Request,
    deadline: Instant,
) -> Result<Step, MatrixError> {
    let topics = state.sync.topics(request)?;
    let subscription = state.notifier.subscribe(topics.iter().cloned());
    state.devices.check_standing(standing)?;
    let look = look_once(state, request)?;
    let answers_at_once = request.since.is_none() || request.full_state;
    let is_over = Instant::from_std(state.clock.instant()) >= deadline;
    if look.is_worth_sending || answers_at_once || is_over {
        let response = state.sync.finish(request, look)?;
        return serialized_response(StatusCode::OK, &response).map(Step::Answer);
    }
    Ok(Step::Wait(subscription, state.sync.next_expiry_ms(&topics)))
}
