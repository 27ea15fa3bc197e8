//! The shared space over HTTP: items with causality tokens.
//!
//! Under `/_matrix/client/unstable/org.causeway/rooms/{roomId}`:
//! `GET|POST items`, `GET|PUT|DELETE items/{key}`, `GET items/{key}/history`,
//! `POST changes` (a delta since a vector, long-polled), `GET status`.
//! The key is one percent-encoded path segment. What each answers is in
//! `federation/PROTOCOL.md`, "For clients".

use std::time::Duration;

use axum::{Router, response::Response};
use bytes::Bytes;
use causeway_service::{
    devices::Session,
    error::MatrixError,
    notify::Topic,
    session::EstablishedSession,
    shared_space::{
        error::SpaceError,
        read::Pull,
        write::{BATCH_MAX, OnConflict, Write, Writer},
    },
};
use causeway_shared_space::{ItemKey, Value};
use http::{Method, StatusCode, header::CONTENT_TYPE};
use ruma::{OwnedRoomId, RoomId};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::{Value as Json, value::RawValue};

use crate::{ClientState, Custom, Endpoints, auth::admit_writer, blocking, json_response};

/// The longest that a delta waits for something new.
const TIMEOUT_MAX: Duration = Duration::from_mins(1);
/// Items or changes in a page when the client doesn't say.
const LIMIT_DEFAULT: usize = 100;

macro_rules! path {
    ($rest:literal) => {
        &[concat!("/_matrix/client/unstable/org.causeway/rooms/{room_id}/", $rest)]
    };
}

pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .custom(Method::GET, path!("items"), list)
        .custom(Method::POST, path!("items"), put_batch)
        .custom(Method::GET, path!("items/{key}"), get)
        .custom(Method::PUT, path!("items/{key}"), put)
        .custom(Method::DELETE, path!("items/{key}"), delete)
        .custom(Method::GET, path!("items/{key}/history"), history)
        .custom_async(Method::POST, path!("changes"), changes)
        .custom(Method::GET, path!("status"), status)
}

#[derive(Deserialize)]
struct ListQuery {
    #[serde(default)]
    prefix: String,
    from: Option<String>,
    limit: Option<usize>,
}

fn list(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    let query: ListQuery = request.query()?;
    let room = room(&request)?;
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    let user = &request.auth.user_id;
    answer(state.shared_space.list(user, &room, &query.prefix, query.from.as_deref(), limit))
}

fn get(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    answer(state.shared_space.get(&request.auth.user_id, &room(&request)?, &key(&request)?))
}

#[derive(Deserialize)]
struct HistoryQuery {
    from: Option<String>,
    limit: Option<usize>,
}

fn history(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    let query: HistoryQuery = request.query()?;
    let (user, limit) = (&request.auth.user_id, query.limit.unwrap_or(LIMIT_DEFAULT));
    answer(state.shared_space.history(user, &room(&request)?, &key(&request)?, query.from.as_deref(), limit))
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Conflict {
    #[default]
    Keep,
    Reject,
}

#[derive(Deserialize)]
struct PutBody {
    value: Box<RawValue>,
    token: Option<String>,
    #[serde(default)]
    on_conflict: Conflict,
}

fn put(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    admit_writer(state, &request.auth)?;
    let body: PutBody = request.json()?;
    let value = Value::parse(body.value.get().as_bytes()).map_err(SpaceError::from)?;
    let write = Write {
        key: key(&request)?,
        value: Some(value),
        token: body.token,
        on_conflict: on_conflict(body.on_conflict),
    };
    answer(state.shared_space.put(writer(&request)?, &room(&request)?, &write))
}

#[derive(Deserialize)]
struct DeleteParts {
    token: Option<String>,
    #[serde(default)]
    on_conflict: Conflict,
}

/// Token and mode come in the body, or in the query where bodies of DELETE get lost.
fn delete(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    admit_writer(state, &request.auth)?;
    let parts: DeleteParts = if request.raw.is_empty() { request.query()? } else { request.json()? };
    let write = Write {
        key: key(&request)?,
        value: None,
        token: parts.token,
        on_conflict: on_conflict(parts.on_conflict),
    };
    answer(state.shared_space.put(writer(&request)?, &room(&request)?, &write))
}

#[derive(Deserialize)]
struct BatchBody {
    writes: Writes,
}

/// The writes of a batch. What is beyond the bound is passed over unread: no
/// memory is taken for it.
enum Writes {
    All(Vec<Box<RawValue>>),
    TooMany,
}

impl<'de> Deserialize<'de> for Writes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Writes;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of writes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Writes, A::Error> {
                let mut writes = Vec::new();
                while writes.len() < BATCH_MAX {
                    match elements.next_element()? {
                        Some(write) => writes.push(write),
                        None => return Ok(Writes::All(writes)),
                    }
                }
                let mut more = false;
                while elements.next_element::<IgnoredAny>()?.is_some() {
                    more = true;
                }
                Ok(if more { Writes::TooMany } else { Writes::All(writes) })
            }
        }

        deserializer.deserialize_seq(List)
    }
}

#[derive(Deserialize)]
struct BatchWrite {
    key: String,
    value: Option<Box<RawValue>>,
    #[serde(default)]
    delete: bool,
    token: Option<String>,
    #[serde(default)]
    on_conflict: Conflict,
}

fn put_batch(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    admit_writer(state, &request.auth)?;
    let Writes::All(writes) = request.json::<BatchBody>()?.writes else {
        return Err(SpaceError::TooMany("more than 500 writes in one request").into());
    };
    let writes: Vec<_> = writes.iter().map(|write| one_of_batch(write)).collect();
    answer(state.shared_space.put_batch(writer(&request)?, &room(&request)?, &writes))
}

/// One write of a batch. What is wrong with it is its own matter.
fn one_of_batch(write: &RawValue) -> Result<Write, MatrixError> {
    let write: BatchWrite = crate::request::object(write.get().as_bytes())?;
    let value = match (write.value, write.delete) {
        (Some(value), false) => Some(Value::parse(value.get().as_bytes()).map_err(SpaceError::from)?),
        (None, true) => None,
        _ => return Err(MatrixError::bad_json("A write has either a value or \"delete\": true")),
    };
    let key = ItemKey::new(&write.key).map_err(SpaceError::from)?;
    Ok(Write { key, value, token: write.token, on_conflict: on_conflict(write.on_conflict) })
}

#[derive(Deserialize)]
struct Timeout {
    #[serde(default)]
    timeout: u64,
}

async fn changes(state: ClientState, request: Custom) -> Result<Response, MatrixError> {
    let room = room(&request)?;
    let Timeout { timeout } = request.json()?;
    let body: &[u8] = if request.raw.is_empty() { b"{}" } else { &request.raw };
    let pull = Pull::from_body(body).map_err(|error| MatrixError::bad_json(error.to_string()))?;
    let deadline = tokio::time::sleep(Duration::from_millis(timeout).min(TIMEOUT_MAX));
    tokio::pin!(deadline);
    let (services, session) = (state.clone(), request.auth.clone());
    // Of a session that another homeserver answered for nothing is known here; it stands.
    let is_established = request.head.extensions.get::<EstablishedSession>().is_some();
    let standing =
        blocking(
            move || {
                if is_established { Ok(None) } else { services.devices.standing(&session).map(Some) }
            },
        )
        .await?;
    let Session { user_id, device_id, .. } = request.auth;
    // The latter two for the end of the session.
    let topics =
        [Topic::Space(room.clone()), Topic::User(user_id.clone()), Topic::Device(user_id.clone(), device_id)];
    let news = state.notifier.subscribe(topics);
    loop {
        let (services, user, at, asked) = (state.clone(), user_id.clone(), room.clone(), pull.clone());
        let standing = standing.clone();
        let delta = blocking(move || {
            if let Some(standing) = &standing {
                services.devices.check_standing(standing)?;
            }
            services.shared_space.check_reader(&at, &user)?;
            Ok(services.shared_space.changes(&at, &asked)?)
        })
        .await?;
        if !delta.changes.is_empty() || timeout == 0 || deadline.is_elapsed() {
            let body = delta.to_body().map_err(|error| MatrixError::internal(&error))?;
            return Ok(json_bytes(body.into()));
        }
        tokio::select! {
            () = news.changed() => {}
            () = &mut deadline => {}
        }
    }
}

fn status(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    answer(state.shared_space.status(&request.auth.user_id, &room(&request)?))
}

fn room(request: &Custom) -> Result<OwnedRoomId, MatrixError> {
    let room = request.path.first().and_then(|room| RoomId::parse(room).ok());
    room.ok_or_else(|| MatrixError::invalid_param("Not a room id"))
}

fn key(request: &Custom) -> Result<ItemKey, MatrixError> {
    let key = request.path.get(1).map_or("", String::as_str);
    ItemKey::new(key).map_err(|error| SpaceError::from(error).into())
}

fn writer(request: &Custom) -> Result<Writer<'_>, MatrixError> {
    let Session { user_id, device_id, .. } = &request.auth;
    let idempotency_key = match request.head.headers.get("Idempotency-Key") {
        None => None,
        Some(key) => {
            Some(key.to_str().map_err(|_| MatrixError::invalid_param("The idempotency key is not ASCII"))?)
        }
    };
    Ok(Writer { user: user_id, device: Some(device_id), idempotency_key })
}

fn on_conflict(asked: Conflict) -> OnConflict {
    match asked {
        Conflict::Keep => OnConflict::Keep,
        Conflict::Reject => OnConflict::Reject,
    }
}

fn answer(result: Result<Json, SpaceError>) -> Result<Response, MatrixError> {
    Ok(json_response(StatusCode::OK, &result?))
}

fn json_bytes(body: Bytes) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
