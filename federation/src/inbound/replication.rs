//! The shared spaces' endpoints, under
//! `/_matrix/federation/unstable/org.causeway/`: `versions`, pulls of changes,
//! values by id, adopted events, and transactions of advertisements for sidecars.
//!
//! Answers are compressed with zstd for who accepts that.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{FromRequestParts, State},
    response::Response,
    routing::{get, post, put},
};
use causeway_replication::{
    Pull,
    limits::{MAX_DELTA_BYTES, MAX_DELTA_ENTRIES, MAX_PULL_BODY_BYTES},
};
use causeway_service::{
    error::MatrixError,
    shared_space::pasts::{self, Before, Told},
};
use causeway_shared_space::ChangeId;
use http::{HeaderValue, header, request::Parts};
use ruma::OwnedEventId;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::sync::oneshot;

use super::send_transaction;
use crate::{
    access,
    authenticated::{Signed, SignedWithin},
    bounded::BoundedList,
    error::{Refusal, blocking},
    params::Path,
    replication_driver::VERSIONS_PATH,
    state::{FederationState, ReplicationMessage},
};

/// Values asked for at once.
const VALUES_MAX: usize = 500;
/// The body of a request that only lists ids: [`VALUES_MAX`] of 67 bytes, or
/// [`pasts::ASKED_MAX`] of 258, and room for how they are written.
const IDS_BODY_BYTES_MAX: usize = 64 * 1024;
/// How long a pull may wait for the room's task.
const PULL_WAIT: Duration = Duration::from_secs(25);
/// How long a server is sent away for when this one is behind, in milliseconds.
const BUSY_MS: u64 = 2_000;
/// Answers below this many bytes are not worth compressing.
const COMPRESS_MIN: usize = 256;
/// Little CPU; headers are alike, so they compress well at any level.
const COMPRESSION_LEVEL: i32 = 1;

pub(super) fn routes() -> Router<FederationState> {
    Router::new()
        .route(VERSIONS_PATH, get(versions))
        .route("/_matrix/federation/unstable/org.causeway/rooms/{room_id}/changes", post(changes))
        .route("/_matrix/federation/unstable/org.causeway/rooms/{room_id}/values", post(values))
        .route("/_matrix/federation/unstable/org.causeway/rooms/{room_id}/adopted", post(adopted))
        .route("/_matrix/federation/unstable/org.causeway/send/{transaction_id}", put(send))
}

async fn versions(State(state): State<FederationState>, _signed: Signed) -> Json<Value> {
    Json(json!({
        "versions": ["1"],
        "mode": state.settings().mode.name(),
        "limits": { "delta_entries": MAX_DELTA_ENTRIES, "delta_bytes": MAX_DELTA_BYTES },
    }))
}

/// Whether the asker takes zstd.
struct Accepts(bool);

impl<S: Sync> FromRequestParts<S> for Accepts {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        let accepted = parts.headers.get(header::ACCEPT_ENCODING).and_then(|accepted| accepted.to_str().ok());
        Ok(Self(
            accepted.is_some_and(|accepted| accepted.split(',').any(|one| one.trim().starts_with("zstd"))),
        ))
    }
}

async fn changes(
    State(state): State<FederationState>,
    Path(room_id): Path<String>,
    Accepts(zstd): Accepts,
    SignedWithin(signed): SignedWithin<MAX_PULL_BODY_BYTES>,
) -> Result<Response, Refusal> {
    let pull = Pull::from_body(&signed.body).map_err(|error| MatrixError::bad_json(error.to_string()))?;
    let (services, origin) = (state.services().clone(), signed.origin.clone());
    let room = blocking(move || {
        let room = access::room_id(&room_id)?;
        access::of_space(&services.shared_space, &room, &origin)?;
        Ok(room)
    })
    .await?;
    let (reply, answer) = oneshot::channel();
    let origin = signed.origin.clone();
    state.replicate(ReplicationMessage::Asked { origin, room, pull: Box::new(pull), reply });
    let busy = || MatrixError::new(429, "M_LIMIT_EXCEEDED", "Too busy").with("retry_after_ms", BUSY_MS);
    let delta = tokio::time::timeout(PULL_WAIT, answer).await.map_err(|_| busy())?.map_err(|_| busy())??;
    let body = delta.to_body().map_err(|error| MatrixError::internal(&error))?;
    Ok(answer_with(body, zstd))
}

#[derive(Deserialize)]
struct ValuesBody {
    ids: BoundedList<ChangeId, VALUES_MAX>,
}

async fn values(
    State(state): State<FederationState>,
    Path(room_id): Path<String>,
    Accepts(zstd): Accepts,
    SignedWithin(signed): SignedWithin<IDS_BODY_BYTES_MAX>,
) -> Result<Response, Refusal> {
    let body: ValuesBody = signed.json()?;
    let services = state.services().clone();
    let values = blocking(move || {
        let room = access::room_id(&room_id)?;
        access::of_space(&services.shared_space, &room, &signed.origin)?;
        let values = services.shared_space.values(&room, &body.ids.0)?;
        let values: BTreeMap<String, Box<RawValue>> =
            values.into_iter().map(|(id, value)| (id.to_string(), value)).collect();
        serde_json::to_vec(&json!({ "values": values })).map_err(|error| MatrixError::internal(&error))
    });
    Ok(answer_with(values.await?, zstd))
}

#[derive(Deserialize)]
struct AdoptedBody {
    events: BoundedList<OwnedEventId, { pasts::ASKED_MAX }>,
}

async fn adopted(
    State(state): State<FederationState>,
    Path(room_id): Path<String>,
    Accepts(zstd): Accepts,
    SignedWithin(signed): SignedWithin<IDS_BODY_BYTES_MAX>,
) -> Result<Response, Refusal> {
    let body: AdoptedBody = signed.json()?;
    let services = state.services().clone();
    let answer = blocking(move || {
        let room = access::room_id(&room_id)?;
        access::of_space(&services.shared_space, &room, &signed.origin)?;
        let told = services.shared_space.tell_pasts(&room, &signed.origin, &body.events.0)?;
        services.shared_space.barrier()?;
        let mut events = BTreeMap::new();
        for (event_id, Told { event, before }) in &told {
            let mut adopted = BTreeMap::from([("event", Some(event.raw()))]);
            match before {
                Before::Event(shown) => drop(adopted.insert("before", Some(shown.raw()))),
                Before::Nothing => drop(adopted.insert("before", None)),
                Before::Unknown => {}
            }
            events.insert(event_id, adopted);
        }
        serde_json::to_vec(&json!({ "events": events })).map_err(|error| MatrixError::internal(&error))
    });
    Ok(answer_with(answer.await?, zstd))
}

#[derive(Deserialize)]
struct SendBody {
    #[serde(default)]
    edus: BoundedList<Box<RawValue>, { send_transaction::EDUS_MAX }>,
}

/// Only advertisements: a sidecar must not call `/send` in its homeserver's name, and does not
/// see what others tell that. Whoever speaks for a server in shared spaces says nothing else for it.
async fn send(State(state): State<FederationState>, signed: Signed) -> Result<Json<Value>, Refusal> {
    let body: SendBody = signed.json()?;
    for edu in body.edus.0.iter().filter(|edu| send_transaction::is_advertisement(edu)) {
        send_transaction::receive_edu(&state, &signed.origin, edu).await;
    }
    Ok(Json(json!({})))
}

fn answer_with(body: Vec<u8>, zstd: bool) -> Response {
    let compressed = (zstd && body.len() >= COMPRESS_MIN)
        .then(|| zstd::bulk::compress(&body, COMPRESSION_LEVEL).ok())
        .flatten();
    let is_compressed = compressed.is_some();
    let mut response = Response::new(Body::from(compressed.unwrap_or(body)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if is_compressed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
    }
    response
}
