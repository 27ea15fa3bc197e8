//! The event closest to a time. What this server lacks of the room's history it
//! fetches from others, in bounded steps, until it holds what they found.

use std::time::Duration;

use axum::Router;
use causeway_service::{by_time::Closest, error::MatrixError, history::Direction, remote::RemoteRequest};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, UInt,
    api::client::room::get_event_by_timestamp::v1::{Request, Response},
};

use crate::{ClientState, Endpoints, Ruma, blocking, message::direction};

/// Times that history is fetched for one request.
const FETCHES_MAX: usize = 8;
/// Holes by which it is seen whether a fetch brought anything.
const EDGES_MAX: usize = 64;
/// How long other servers have for all of it: a client waits.
const FETCHING_MAX: Duration = Duration::from_secs(20);
/// Events that are fetched at once.
const FETCHED_AT_ONCE: usize = 100;

pub(crate) fn routes() -> Router<ClientState> {
    Router::new().endpoint_async(closest)
}

/// What is looked for.
#[derive(Clone)]
struct Asked {
    user_id: OwnedUserId,
    room_id: OwnedRoomId,
    ts: u64,
    direction: Direction,
}

async fn closest(state: ClientState, request: Ruma<Request>) -> Result<Response, MatrixError> {
    let asked = Asked {
        user_id: request.auth.user_id,
        room_id: request.body.room_id,
        ts: request.body.ts.get().into(),
        direction: direction(request.body.dir),
    };
    let mut found = held(&state, &asked).await?;
    if found.as_ref().is_none_or(|found| found.may_be_closer) && has_holes(&state, &asked).await? {
        if let Ok(fetched) = tokio::time::timeout(FETCHING_MAX, fetch(&state, &asked)).await {
            fetched?;
        } else {
            tracing::debug!("other servers take too long over a time in a room's history");
        }
        found = held(&state, &asked).await?.or(found);
    }
    let Some(found) = found else {
        return Err(MatrixError::not_found("No event was found in that direction"));
    };
    let ts = MilliSecondsSinceUnixEpoch(UInt::try_from(found.origin_server_ts).unwrap_or(UInt::MAX));
    Ok(Response::new(found.event_id, ts))
}

/// What this server holds.
async fn held(state: &ClientState, asked: &Asked) -> Result<Option<Closest>, MatrixError> {
    let (state, asked) = (state.clone(), asked.clone());
    blocking(move || {
        let found =
            state.rooms.closest_for_user(&asked.user_id, &asked.room_id, asked.ts, asked.direction)?;
        state.rooms.barrier()?;
        Ok(found)
    })
    .await
}

async fn has_holes(state: &ClientState, asked: &Asked) -> Result<bool, MatrixError> {
    Ok(!missing(state, asked).await?.is_empty())
}

/// Before which events history is missing.
async fn missing(state: &ClientState, asked: &Asked) -> Result<Vec<OwnedEventId>, MatrixError> {
    let (state, room_id) = (state.clone(), asked.room_id.clone());
    blocking(move || Ok(state.rooms.missing_events(&room_id, EDGES_MAX)?)).await
}

/// Asks other servers, and fetches history until what they found is here.
async fn fetch(state: &ClientState, asked: &Asked) -> Result<(), MatrixError> {
    let (room_id, ts, forward) = (asked.room_id.clone(), asked.ts, asked.direction == Direction::Forward);
    let request = |reply| RemoteRequest::ClosestEvent { room_id, ts, forward, reply };
    let there = match state.remote.request(request).await {
        Ok(there) => there,
        Err(error) => {
            tracing::debug!(%error, "no other server found an event at that time");
            return Ok(());
        }
    };
    for _ in 0..FETCHES_MAX {
        let (looking, event_id) = (state.clone(), there.clone());
        if blocking(move || Ok(looking.rooms.event(&event_id)?.is_some())).await? {
            break;
        }
        let edges = missing(state, asked).await?;
        let room_id = asked.room_id.clone();
        let more = |reply| RemoteRequest::Backfill { room_id, limit: FETCHED_AT_ONCE, reply };
        // Who brought nothing new will not do so when he is asked again.
        if state.remote.request(more).await.is_err() || missing(state, asked).await? == edges {
            break;
        }
    }
    Ok(())
}
