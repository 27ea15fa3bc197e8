//! What clients of the upstream ask of its sidecar: the shared spaces' endpoints, before which it is
//! found out who asks, and items' state events, which are passed on to the upstream.
//!
//! Whether somebody may send a state event is for the upstream to say. What is sent is taken over
//! like all that happens there; who asks for an item right after he wrote it waits a moment for
//! that.
//!
//! Invariants: a client's token goes to the upstream alone; what is passed on differs from what
//! was sent by what only servers say, and the answer is the upstream's, whatever it is; every
//! wait and every table has a bound.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::any,
};
use causeway_service::{
    Services,
    error::{Chain, MatrixError},
    notify::Topic,
    session::EstablishedSession,
    shared_space::ITEM_TYPE,
    upstream::{
        intake::{Incoming, Intake, Origin},
        outbox::UpstreamOutbox,
    },
};
use percent_encoding::percent_decode_str;
use ruma::{OwnedEventId, OwnedRoomId, RoomId};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    client::{Answer, Call, Speaker, UpstreamClient, UpstreamError},
    requests::Acting,
    whoami::Sessions,
};

/// Bytes of an item as it is written (protocol, §10).
const BODY_BYTES_MAX: usize = 288 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);
/// How long the upstream may take to send an event, which it may do all the same later.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long who reads what he just wrote waits for that to be taken over.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(2);
/// How long an item's face that waits to be sent may keep a state event of it waiting.
const FACE_WITHIN: Duration = Duration::from_secs(2);
/// How often is looked whether it was sent.
const FACE_LOOK: Duration = Duration::from_millis(20);
/// Events that were sent and wait to be fetched; what is more comes with all else.
const WRITTEN_MAX: usize = 1_024;
/// Events that are fetched at once.
const FETCHED_AT_ONCE: usize = 8;
/// Items of which is known that they were just written.
const PENDING_MAX: usize = 10_000;
/// Below what a room's shared space is.
const SPACES: &str = "/_matrix/client/unstable/org.causeway/rooms/";
/// Who asked the proxy before this server.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A part that runs until it is told to stop, with its name.
pub type Driver = (&'static str, Pin<Box<dyn Future<Output = ()> + Send>>);

/// What it is made of.
pub struct Parts {
    /// Asks the upstream.
    pub client: UpstreamClient,
    /// Whose a token is.
    pub sessions: Sessions,
    /// The use-cases.
    pub services: Arc<Services>,
    /// What happens at the upstream.
    pub intake: Arc<Intake>,
    /// What is to be sent there.
    pub outbox: UpstreamOutbox,
}

/// A room and a key.
type Item = (OwnedRoomId, String);

/// See the module.
pub struct Clients {
    parts: Parts,
    /// What was just written and may not be taken over yet, until when.
    pending: Mutex<HashMap<Item, (OwnedEventId, Instant)>>,
    written: mpsc::Sender<Written>,
}

/// An event that was sent.
struct Written {
    room: OwnedRoomId,
    event: OwnedEventId,
    /// Whoever sent it may see it.
    token: String,
}

impl Clients {
    /// With what fetches the events that were sent.
    pub fn new(parts: Parts, stop: &CancellationToken) -> (Arc<Self>, Driver) {
        let (written, received) = mpsc::channel(WRITTEN_MAX);
        let clients = Arc::new(Self { parts, pending: Mutex::default(), written });
        let fetching = fetch(Arc::clone(&clients), received, stop.clone());
        (clients, ("items that clients wrote", Box::pin(fetching)))
    }

    /// The shared spaces' endpoints, served to those whom the upstream knows.
    pub fn in_front_of<S: Clone + Send + Sync + 'static>(self: &Arc<Self>, routes: Router<S>) -> Router<S> {
        let clients = Arc::clone(self);
        routes.layer(middleware::from_fn(move |request: Request, next: Next| {
            let clients = Arc::clone(&clients);
            async move {
                match clients.admit(request).await {
                    Ok(request) => next.run(request).await,
                    Err(error) => refusal(&error),
                }
            }
        }))
    }

    /// The state events that are items.
    pub fn item_routes<S: Clone + Send + Sync + 'static>(self: &Arc<Self>) -> Router<S> {
        let mut routes = Router::new();
        for version in ["r0", "v3", "api/v1"] {
            let path = format!("/_matrix/client/{version}/rooms/{{room}}/state/{ITEM_TYPE}");
            routes = routes
                .route(&path, any(item_without_key))
                .route(&format!("{path}/"), any(item_without_key))
                .route(&format!("{path}/{{key}}"), any(item));
        }
        routes.with_state(Arc::clone(self))
    }

    async fn admit(&self, mut request: Request) -> Result<Request, MatrixError> {
        let uri = request.uri();
        let token = token(request.headers(), uri);
        let missing = || MatrixError::new(401, "M_MISSING_TOKEN", "Missing access token");
        let token = token.ok_or_else(missing)?;
        let acting = Acting::of(uri.query().unwrap_or_default());
        let from = request.headers().get(FORWARDED_FOR);
        let session = self.parts.sessions.session(&token, &acting, from).await?;
        let about = about(uri.path());
        request.extensions_mut().insert(EstablishedSession(session));
        if let Some((room, key)) = about {
            self.taken_over(&room, key.as_deref()).await;
        }
        Ok(request)
    }

    /// Waits until what was just written of an item, or of any in the room, is taken over.
    async fn taken_over(&self, room: &RoomId, key: Option<&str>) {
        let waited_for: Vec<(Item, OwnedEventId, Instant)> = {
            let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            let of = pending.iter().filter(|((of, item), _)| of == room && key.is_none_or(|key| key == item));
            of.map(|(item, (event, until))| (item.clone(), event.clone(), *until)).collect()
        };
        for (item, event, until) in waited_for {
            let news = self.parts.services.notifier.subscribe([Topic::Space(room.to_owned())]);
            let deadline = tokio::time::sleep_until(until.into());
            tokio::pin!(deadline);
            while !deadline.is_elapsed() && !self.is_taken_over(room, &event).await {
                tokio::select! {
                    () = news.changed() => {}
                    () = &mut deadline => {}
                }
            }
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            if pending.get(&item).is_some_and(|(written, _)| *written == event) {
                pending.remove(&item);
            }
        }
    }

    async fn is_taken_over(&self, room: &RoomId, event: &OwnedEventId) -> bool {
        let (services, room, event) = (Arc::clone(&self.parts.services), room.to_owned(), event.clone());
        let looked = spawn_blocking(move || services.shared_space.is_taken_over(&room, &event)).await;
        match looked {
            Ok(Ok(is)) => is,
            // Nobody waits for what can't be known.
            _ => true,
        }
    }

    fn is_pending(&self, item: Item, event: OwnedEventId) {
        let now = self.parts.services.clock.instant();
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.len() >= PENDING_MAX {
            pending.retain(|_, (_, until)| *until > now);
        }
        if pending.len() < PENDING_MAX {
            pending.insert(item, (event, now + TAKEN_OVER_WITHIN));
        }
    }

    /// An item's state event.
    async fn write(&self, room: &str, key: &str, request: Request) -> Result<Response, MatrixError> {
        let (head, body) = request.into_parts();
        let body = read(body).await?;
        // What is no room is for the upstream to refuse.
        let Ok(room) = OwnedRoomId::try_from(room) else {
            return self.pass_on(&head.method, &head.uri, &head.headers, Some(body)).await.map(answered);
        };
        let body = self.checked(&room, key, body).await?;
        self.face_is_sent(&room, key).await?;
        let answer = self.pass_on(&head.method, &head.uri, &head.headers, Some(body)).await?;
        if answer.status.is_success()
            && let Ok(Sent { event_id }) = serde_json::from_slice(&answer.body)
            && let Some(token) = token(&head.headers, &head.uri)
        {
            self.is_pending((room.clone(), key.to_owned()), event_id.clone());
            // When too many wait, it comes with all that happens at the upstream.
            let _late = self.written.try_send(Written { room, event: event_id, token });
        }
        Ok(answered(answer))
    }

    /// What is to be passed on of a content.
    async fn checked(&self, room: &RoomId, key: &str, body: Bytes) -> Result<Bytes, MatrixError> {
        let (services, room, key) = (Arc::clone(&self.parts.services), room.to_owned(), key.to_owned());
        let checked = spawn_blocking(move || {
            let content: &RawValue = serde_json::from_slice(&body)
                .map_err(|_| MatrixError::new(400, "M_NOT_JSON", "The body is not JSON"))?;
            let passed_on = services.shared_space.passed_on(&room, &key, content)?;
            Ok(passed_on.map_or(body.clone(), |content| Bytes::from(content.get().to_owned())))
        });
        checked.await.map_err(|error| MatrixError::internal(&error))?
    }

    /// Waits for the item's face that is to be sent, if there is one: what its author wrote through
    /// the API would look as if he had not seen it.
    async fn face_is_sent(&self, room: &RoomId, key: &str) -> Result<(), MatrixError> {
        let until = self.parts.services.clock.instant() + FACE_WITHIN;
        loop {
            let (outbox, room, key) = (self.parts.outbox.clone(), room.to_owned(), key.to_owned());
            let waits = spawn_blocking(move || outbox.has_face(&room, &key)).await;
            let waits = waits.map_err(|error| MatrixError::internal(&error))?;
            if !waits.map_err(|error| MatrixError::internal(&error))?
                || self.parts.services.clock.instant() >= until
            {
                return Ok(());
            }
            sleep(FACE_LOOK).await;
        }
    }

    /// Passes a request on as it is, but for its body.
    async fn pass_on(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Answer, MatrixError> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        // A token in the query goes with it.
        let shown = bearer(headers);
        let speaker = shown.map_or(Speaker::Nobody, Speaker::Token);
        let mut call = Call { patience: PATIENCE, ..Call::new(method.clone(), path, speaker) };
        call.body = body;
        call.headers.extend(headers.get(FORWARDED_FOR).map(|from| (FORWARDED_FOR, from.clone())));
        self.parts.client.ask(call).await.map_err(|error| match error {
            UpstreamError::Path => MatrixError::invalid_param("The path can't be passed on as it is"),
            UpstreamError::Token => MatrixError::new(401, "M_UNKNOWN_TOKEN", "Unknown access token"),
            error => {
                tracing::warn!(error = %Chain(&error), "a client's request can't be passed on");
                MatrixError::new(502, "M_UNKNOWN", "The homeserver does not answer")
            }
        })
    }
}

#[derive(Deserialize)]
struct Sent {
    event_id: OwnedEventId,
}

async fn item(
    State(clients): State<Arc<Clients>>,
    Path((room, key)): Path<(String, String)>,
    request: Request,
) -> Response {
    let answer = if request.method() == Method::PUT {
        clients.write(&room, &key, request).await
    } else {
        as_it_is(&clients, request).await
    };
    answer.unwrap_or_else(|error| refusal(&error))
}

/// No item has an empty key.
async fn item_without_key(State(clients): State<Arc<Clients>>, request: Request) -> Response {
    if request.method() == Method::PUT {
        return refusal(&MatrixError::invalid_param("An item has a key"));
    }
    as_it_is(&clients, request).await.unwrap_or_else(|error| refusal(&error))
}

async fn as_it_is(clients: &Clients, request: Request) -> Result<Response, MatrixError> {
    let (head, body) = request.into_parts();
    let body = Some(read(body).await?).filter(|body| !body.is_empty());
    clients.pass_on(&head.method, &head.uri, &head.headers, body).await.map(answered)
}

async fn read(body: Body) -> Result<Bytes, MatrixError> {
    let read = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await;
    let read = read.map_err(|_| MatrixError::new(408, "M_UNKNOWN", "The body did not arrive in time"))?;
    read.map_err(|_| MatrixError::too_large(format!("The body is larger than {BODY_BYTES_MAX} bytes")))
}

/// Fetches what was sent, until `stop`.
async fn fetch(clients: Arc<Clients>, mut written: mpsc::Receiver<Written>, stop: CancellationToken) {
    let mut tasks: JoinSet<()> = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "taking in what a client wrote failed");
                }
            }
            Some(one) = written.recv(), if tasks.len() < FETCHED_AT_ONCE => {
                let clients = Arc::clone(&clients);
                tasks.spawn(async move {
                    // /sync or a transaction brings it otherwise.
                    if let Err(error) = take_in(&clients.parts, one).await {
                        tracing::debug!(error, "what a client wrote is not taken in at once");
                    }
                });
            }
        }
    }
}

async fn take_in(parts: &Parts, Written { room, event, token }: Written) -> Result<(), String> {
    let found = parts.client.event(&room, &event, Speaker::Token(&token)).await;
    let Some(event) = found.map_err(|error| error.to_string())? else { return Ok(()) };
    let intake = Arc::clone(&parts.intake);
    let taken = spawn_blocking(move || intake.take(&[Incoming { room_id: room, event }], Origin::Asked));
    let taken = taken.await.map_err(|error| error.to_string())?;
    taken.map(drop).map_err(|error| error.to_string())
}

/// Of which room, and of which item if it is one, a request to the shared spaces' endpoints is;
/// none for those that show no items.
fn about(path: &str) -> Option<(OwnedRoomId, Option<String>)> {
    let mut parts = path.strip_prefix(SPACES)?.split('/');
    let mut part = || Some(percent_decode_str(parts.next()?).decode_utf8().ok()?.into_owned());
    let room = OwnedRoomId::try_from(part()?).ok()?;
    part().filter(|what| what == "items")?;
    Some((room, part()))
}

/// The token that a request shows (client-server API, "Using access tokens").
fn token(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    if let Some(token) = bearer(headers) {
        return Some(token.to_owned());
    }
    let mut pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    pairs.find(|(name, _)| name == "access_token").map(|(_, token)| token.into_owned())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// The upstream's answer.
fn answered(answer: Answer) -> Response {
    let mut response = (answer.status, Body::from(answer.body)).into_response();
    let kept = [(header::CONTENT_TYPE, answer.content_type), (header::RETRY_AFTER, answer.retry_after)];
    for (name, value) in kept {
        if let Some(value) = value {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn refusal(error: &MatrixError) -> Response {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, json)], error.body().to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_is_about_stands_in_its_path() {
        let about =
            |below: &str| about(&format!("{SPACES}{below}")).map(|(room, key)| (room.to_string(), key));
        let room = "!r:a.example".to_owned();
        assert_eq!(about("%21r%3Aa.example/items/a%2Fb"), Some((room.clone(), Some("a/b".to_owned()))));
        assert_eq!(about("!r:a.example/items/a/history"), Some((room.clone(), Some("a".to_owned()))));
        assert_eq!(about("!r:a.example/items"), Some((room, None)));
        assert_eq!(about("!r:a.example/status"), None);
        assert_eq!(about("r/items"), None);
    }
}
