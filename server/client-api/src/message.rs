//! Messages: sending, redacting, paging through them, single ones and what is
//! around them.

use std::time::Duration;

use axum::{Router, response::Response};
use causeway_service::{
    error::MatrixError,
    history::{Direction, Page, Wanted},
    rate_limit::Class,
    remote::RemoteRequest,
    rooms::{NewEvent, RoomError, TransactionKey},
    sync::{filter::EventFilter, token::TimelineToken},
};
use http::{StatusCode, Uri};
use ruma::{
    UInt,
    api::{
        Direction as Asked,
        client::{
            context::get_context,
            message::{get_message_events, send_message_event},
            redact::redact_event,
            room::get_room_event,
        },
    },
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    ClientState, Endpoints, Ruma,
    auth::{admit, admit_writer, massaged_time},
    blocking,
    frame::serialized_response,
    request::{json_error, query},
    state_event::reader,
};

/// Events that are asked of another server when a page ends at a hole.
const BACKFILL_LIMIT: usize = 100;

/// How long other servers have for it: a client waits.
const BACKFILLING_MAX: Duration = Duration::from_secs(20);

pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .endpoint(send)
        .endpoint(redact)
        .endpoint_raw(event)
        .endpoint_raw(context)
        .endpoint_async_raw(messages)
}

fn send(
    state: &ClientState,
    request: Ruma<send_message_event::v3::Request>,
) -> Result<send_message_event::v3::Response, MatrixError> {
    let (body, session) = (&request.body, &request.auth);
    admit_writer(state, session)?;
    let content = serde_json::from_slice(&request.raw).map_err(|error| json_error(&error))?;
    state.threads.check_root(&body.room_id, &session.user_id, &content)?;
    let kind = body.event_type.to_string();
    if kind == "m.room.redaction" {
        return Err(MatrixError::forbidden("Redactions are sent to /redact"));
    }
    let mut event =
        NewEvent::new(kind.as_str(), session.user_id.clone(), None, content).map_err(RoomError::from)?;
    event.origin_server_ts = massaged_time(session, &request.uri)?;
    let scope = format!("send {} {kind}", body.room_id);
    let key = TransactionKey::new(&session.user_id, &session.device_id, &body.txn_id, scope);
    let event_id = state.rooms.send(&body.room_id, event, Some(&key))?;
    Ok(send_message_event::v3::Response::new(event_id))
}

fn redact(
    state: &ClientState,
    request: Ruma<redact_event::v3::Request>,
) -> Result<redact_event::v3::Response, MatrixError> {
    let (body, session) = (&request.body, &request.auth);
    admit(state, Class::Message, session)?;
    if state.rooms.event(&body.event_id)?.is_none_or(|event| event.sender() != session.user_id) {
        state.accounts.check_not_suspended(&session.user_id)?;
    }
    let scope = format!("redact {} {}", body.room_id, body.event_id);
    let key = TransactionKey::new(&session.user_id, &session.device_id, &body.txn_id, scope);
    let reason = body.reason.as_deref();
    let event_id = state.rooms.redact(&body.room_id, &session.user_id, &body.event_id, reason, Some(&key))?;
    Ok(redact_event::v3::Response::new(event_id))
}

fn event(state: &ClientState, request: Ruma<get_room_event::v3::Request>) -> Result<Response, MatrixError> {
    let event = state.history.event(reader(&request.auth), &request.body.room_id, &request.body.event_id)?;
    state.rooms.barrier()?;
    serialized_response(StatusCode::OK, &event)
}

fn context(state: &ClientState, request: Ruma<get_context::v3::Request>) -> Result<Response, MatrixError> {
    let body = &request.body;
    let (limit, filter) = (limit(body.limit), event_filter(&request.uri)?);
    let context =
        state.history.context(reader(&request.auth), &body.room_id, &body.event_id, limit, &filter)?;
    state.rooms.barrier()?;
    let answer = json!({
        "event": context.event,
        "events_before": context.before.chunk,
        "events_after": context.after.chunk,
        "start": context.before.end.unwrap_or(context.before.start).to_string(),
        "end": context.after.end.unwrap_or(context.after.start).to_string(),
        "state": context.state,
    });
    serialized_response(StatusCode::OK, &answer)
}

/// The `filter` of the query; ruma's type of it lacks some of its fields.
fn event_filter(uri: &Uri) -> Result<EventFilter, MatrixError> {
    #[derive(Deserialize)]
    struct Query {
        filter: Option<String>,
    }
    let filter = query::<Query>(uri)?.filter.filter(|filter| !filter.is_empty());
    filter.map_or_else(
        || Ok(EventFilter::default()),
        |filter| {
            serde_json::from_str(&filter)
                .map_err(|error| MatrixError::invalid_param(format!("Invalid filter: {error}")))
        },
    )
}

async fn messages(
    state: ClientState,
    request: Ruma<get_message_events::v3::Request>,
) -> Result<Response, MatrixError> {
    let body = request.body;
    let wanted = Wanted {
        from: token(body.from.as_deref())?,
        to: token(body.to.as_deref())?,
        direction: direction(body.dir),
        limit: limit(body.limit),
        filter: event_filter(&request.uri)?,
    };
    let (room_id, session) = (body.room_id, request.auth);
    let look = |wanted: Wanted| {
        let (state, session, room_id) = (state.clone(), session.clone(), room_id.clone());
        blocking(move || state.history.page(reader(&session), &room_id, &wanted))
    };
    let mut page = look(wanted.clone()).await?;
    if page.is_at_hole && page.chunk.len() < wanted.limit {
        let asked = room_id.clone();
        let request = |reply| RemoteRequest::Backfill { room_id: asked, limit: BACKFILL_LIMIT, reply };
        let fetched = tokio::time::timeout(BACKFILLING_MAX, state.remote.request(request)).await;
        let late = |_| Err(MatrixError::new(504, "M_UNKNOWN", "The other servers did not answer in time"));
        match fetched.unwrap_or_else(late) {
            Ok(()) => page = look(wanted).await?,
            // What is here is a good answer, too.
            Err(error) => tracing::debug!(%error, "history could not be fetched"),
        }
    }
    answer(&page)
}

fn answer(page: &Page) -> Result<Response, MatrixError> {
    let mut answer = json!({ "start": page.start.to_string(), "chunk": page.chunk, "state": page.state });
    if let Some(end) = page.end {
        answer["end"] = end.to_string().into();
    }
    serialized_response(StatusCode::OK, &answer)
}

/// A `limit` of a request.
pub(crate) fn limit(limit: UInt) -> usize {
    usize::try_from(u64::from(limit)).unwrap_or(usize::MAX)
}

/// A `dir` of a request.
pub(crate) fn direction(asked: Asked) -> Direction {
    match asked {
        Asked::Backward => Direction::Backward,
        Asked::Forward => Direction::Forward,
    }
}

/// A `from` or `to` of a request; empty ones count as absent.
pub(crate) fn token(token: Option<&str>) -> Result<Option<TimelineToken>, MatrixError> {
    let token = token.filter(|token| !token.is_empty()).map(str::parse).transpose();
    token.map_err(|_| MatrixError::invalid_param("Not a token of this server"))
}
