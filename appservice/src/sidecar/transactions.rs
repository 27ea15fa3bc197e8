//! What the upstream calls: transactions of events, and pings (application service API).
//!
//! An event because of which something may be written is confirmed before it is taken in: a
//! homeserver tells services also what it keeps out of its rooms. What can't be read is left out:
//! the upstream would repeat it for ever, and /sync brings what it meant.
//!
//! What a room showed before a user of the upstream came into it is told by nobody: whether it has
//! a shared space is asked when he comes.
//!
//! Invariants: nothing is read of a request that does not show the upstream's token; a
//! transaction is acknowledged when what it brought is durable.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::{Body, Bytes, to_bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post, put},
};
use causeway_service::{
    appservices::ServiceToken,
    room_event::RoomEvent,
    shared_space::DECLARATION_TYPE,
    upstream::{
        bearing::{Bearing, bearing},
        intake::{Incoming, IntakeError, Origin},
    },
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ruma::{OwnedRoomId, UserId, events::room::member::MembershipState};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::task::spawn_blocking;

use super::{
    client::{Speaker, UpstreamError},
    facts_server,
    shared::Shared,
};

/// Bytes of a transaction: a hundred events of 64 KiB, each with the content before it, and more.
const BODY_BYTES_MAX: usize = 32 << 20;
/// Events of a transaction that are looked at; more come by /sync.
const EVENTS_MAX: usize = 10_000;
/// Events that are confirmed at once.
const CONFIRMED_AT_ONCE_MAX: usize = 8;

/// A transaction.
#[derive(Deserialize)]
struct Transaction {
    #[serde(default)]
    events: Vec<Box<RawValue>>,
}

/// The routes that the upstream calls.
pub(super) fn routes(shared: Arc<Shared>, hs_token: &str) -> Router {
    let token = ServiceToken::of(hs_token);
    let unknown = || async { answer(StatusCode::NOT_FOUND, "M_NOT_FOUND") };
    Router::new()
        .route("/_matrix/app/v1/transactions/{id}", put(transaction))
        .route("/_matrix/app/v1/ping", post(|| async { Json(json!({})) }))
        // Nobody is made, and no alias: else the upstream waits for an answer.
        .route("/_matrix/app/v1/users/{user}", get(unknown))
        .route("/_matrix/app/v1/rooms/{alias}", get(unknown))
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            let allowed = shown(request.headers()).is_some_and(|shown| token.is(&ServiceToken::of(shown)));
            async move {
                if allowed { next.run(request).await } else { answer(StatusCode::FORBIDDEN, "M_FORBIDDEN") }
            }
        }))
        .with_state(shared)
}

fn shown(headers: &HeaderMap) -> Option<&str> {
    headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn answer(status: StatusCode, errcode: &str) -> Response {
    (status, Json(json!({ "errcode": errcode, "error": "" }))).into_response()
}

async fn transaction(State(shared): State<Arc<Shared>>, Path(id): Path<String>, body: Body) -> Response {
    let body = match to_bytes(body, BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => {
            tracing::error!(%error, "a transaction of the homeserver can't be read; /sync brings what it meant");
            Bytes::from_static(b"{}")
        }
    };
    shared.gate.traffic.notify_one();
    match take(&shared, id, body).await {
        Ok(()) => Json(json!({})).into_response(),
        Err(failure) => {
            tracing::warn!(failure, "a transaction of the homeserver can't be taken now");
            answer(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN")
        }
    }
}

#[tracing::instrument(name = "upstream.transaction.take", level = "debug", skip_all)]
async fn take(shared: &Arc<Shared>, id: String, body: Bytes) -> Result<(), String> {
    let intake = Arc::clone(&shared.intake);
    let known = id.clone();
    let heard = spawn_blocking(move || {
        if intake.has_transaction(&known) {
            return None;
        }
        let events = read(&body);
        let heard = intake.heard(&events);
        Some(
            events
                .into_iter()
                .zip(heard)
                .filter_map(|(event, read)| read.map(|read| (event, read)))
                .collect(),
        )
    });
    let heard: Option<Vec<(Incoming, RoomEvent)>> = heard.await.map_err(|error| error.to_string())?;
    let Some(heard) = heard else { return Ok(()) };
    let coming = heard.iter().filter(|(_, event)| is_coming(shared, event));
    let coming: Vec<RoomEvent> = coming.map(|(_, event)| event.clone()).collect();
    stream::iter(coming).for_each_concurrent(CONFIRMED_AT_ONCE_MAX, |event| came(shared, event)).await;
    let wanted = heard.into_iter().filter(|(_, event)| shared.intake.is_wanted(event));
    let confirming = stream::iter(wanted).map(|(incoming, event)| confirmed(shared, incoming, event));
    let confirmed: Vec<Option<Incoming>> =
        confirming.buffered(CONFIRMED_AT_ONCE_MAX).try_collect().await.map_err(|error| {
            if error.is_outage() {
                shared.gate.silent.notify_one();
            }
            error.to_string()
        })?;
    let intake = Arc::clone(&shared.intake);
    let taken = spawn_blocking(move || {
        let events: Vec<Incoming> = confirmed.into_iter().flatten().collect();
        intake.take(&events, Origin::Transaction(&id))
    });
    let taken = taken.await.map_err(|error| error.to_string())?;
    taken.map(drop).map_err(|error: IntakeError| error.to_string())
}

/// Whether it says that a user of the upstream is in a room that is none of ours.
fn is_coming(shared: &Shared, event: &RoomEvent) -> bool {
    let user = event.state_key().filter(|_| event.kind_text() == "m.room.member");
    let user = user.and_then(|user| UserId::parse(user).ok());
    event.membership() == Some(MembershipState::Join)
        && user.is_some_and(|user| user.server_name() == shared.server_name)
        && !shared.intake.is_ours(event.room_id())
}

/// A user of the upstream came into a room. What can't be asked now is found out when another
/// server speaks of the room.
async fn came(shared: &Shared, event: RoomEvent) {
    let room = event.room_id().to_owned();
    let Some(user) = event.state_key().and_then(|user| UserId::parse(user).ok()) else { return };
    match shared.client.state_event(&room, (DECLARATION_TYPE, ""), Speaker::User(&user)).await {
        Ok(Some(_)) => {}
        Ok(None) => return,
        Err(error) => {
            return tracing::debug!(%room, %error, "whether it has a shared space can't be asked");
        }
    }
    let intake = Arc::clone(&shared.intake);
    let hearing = spawn_blocking(move || intake.hear(&room, None, false).map_err(|error| error.to_string()));
    if let Err(error) = hearing.await.map_err(|error| error.to_string()).flatten() {
        tracing::error!(error, "that a room has a shared space can't be kept");
    }
}

fn read(body: &[u8]) -> Vec<Incoming> {
    #[derive(Deserialize)]
    struct Placed {
        room_id: OwnedRoomId,
    }
    let read = serde_json::from_slice::<Transaction>(body);
    let transaction = read.unwrap_or_else(|error| {
        tracing::error!(%error, "a transaction of the homeserver makes no sense");
        Transaction { events: Vec::new() }
    });
    let placed = |event: Box<RawValue>| {
        let Placed { room_id } = serde_json::from_str(event.get()).ok()?;
        Some(Incoming { room_id, event })
    };
    transaction.events.into_iter().take(EVENTS_MAX).filter_map(placed).collect()
}

/// The event as clients see it; none if they don't.
async fn confirmed(
    shared: &Shared,
    incoming: Incoming,
    event: RoomEvent,
) -> Result<Option<Incoming>, UpstreamError> {
    if bearing(&event) != Bearing::Deed {
        return Ok(Some(incoming));
    }
    // Whoever sent it sees it.
    let sender = event.sender();
    let first = (sender.server_name() == shared.server_name).then_some(sender);
    let seen = facts_server::event(shared, event.room_id(), event.event_id(), first).await?;
    Ok(seen.map(|event| Incoming { room_id: incoming.room_id, event }))
}
