//! What users reported: events as Synapse lists them, and everything.

use axum::{Router, response::Response};
use causeway_service::{
    error::MatrixError,
    reports::{About, Report},
};
use http::Method;
use ruma::RoomId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Paging, ok};
use crate::{ClientState, Custom, Endpoints, auth::Admin};

const EVENTS: &[&str] = &["/_synapse/admin/v1/event_reports"];
const EVENT: &[&str] = &["/_synapse/admin/v1/event_reports/{id}"];
const ALL: &[&str] = &["/_causeway/admin/v1/reports"];
const ONE: &[&str] = &["/_causeway/admin/v1/reports/{id}"];

pub(super) fn routes() -> Router<ClientState> {
    Router::new()
        .admin(Method::GET, EVENTS, list_events)
        .admin(Method::GET, EVENT, show_event)
        .admin(Method::DELETE, EVENT, delete)
        .admin(Method::GET, ALL, list)
        .admin(Method::GET, ONE, show)
        .admin(Method::DELETE, ONE, delete)
}

#[derive(Deserialize)]
struct Filter {
    #[serde(rename = "user_id")]
    reporter: Option<String>,
    #[serde(rename = "room_id")]
    room: Option<String>,
    #[serde(rename = "event_sender_user_id")]
    sender: Option<String>,
}

impl Filter {
    const fn is_none(&self) -> bool {
        self.reporter.is_none() && self.room.is_none() && self.sender.is_none()
    }

    fn lets_through(&self, report: &Report) -> bool {
        let (room_id, sender) = match &report.about {
            About::Event { room_id, sender, .. } => (Some(room_id.as_str()), Some(sender.as_str())),
            About::Room(room_id) => (Some(room_id.as_str()), None),
            About::User(user_id) => (None, Some(user_id.as_str())),
        };
        self.reporter.as_ref().is_none_or(|user_id| report.user_id == user_id.as_str())
            && self.room.as_deref().is_none_or(|wanted| room_id == Some(wanted))
            && self.sender.as_deref().is_none_or(|wanted| sender == Some(wanted))
    }
}

fn described(state: &ClientState, id: u64, report: &Report) -> Result<Value, MatrixError> {
    let mut described = json!({
        "id": id,
        "received_ts": report.received_ts,
        "user_id": report.user_id,
        "reason": report.reason,
        "score": report.score,
    });
    match &report.about {
        About::Event { room_id, event_id, sender } => {
            described["kind"] = "event".into();
            described["event_id"] = event_id.as_str().into();
            described["sender"] = sender.as_str().into();
            described["about_user_id"] = sender.as_str().into();
            name(state, room_id, &mut described)?;
        }
        About::Room(room_id) => {
            described["kind"] = "room".into();
            name(state, room_id, &mut described)?;
        }
        About::User(user_id) => {
            described["kind"] = "user".into();
            described["about_user_id"] = user_id.as_str().into();
        }
    }
    Ok(described)
}

fn name(state: &ClientState, room_id: &RoomId, described: &mut Value) -> Result<(), MatrixError> {
    described["room_id"] = room_id.as_str().into();
    described["name"] = state_text(state, room_id, "m.room.name", "name")?;
    described["canonical_alias"] = state_text(state, room_id, "m.room.canonical_alias", "alias")?;
    Ok(())
}

/// A field of a state event of a room that may not be known here.
fn state_text(state: &ClientState, room_id: &RoomId, kind: &str, field: &str) -> Result<Value, MatrixError> {
    if !state.rooms.exists(room_id)? {
        return Ok(Value::Null);
    }
    let event = state.rooms.state_event(room_id, kind, "")?;
    Ok(event.and_then(|event| event.content_object().remove(field)).unwrap_or_default())
}

fn list_events(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    listed(state, &request, "event_reports", true)
}

fn list(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    listed(state, &request, "reports", false)
}

fn listed(
    state: &ClientState,
    request: &Custom<Admin>,
    list: &str,
    only_events: bool,
) -> Result<Response, MatrixError> {
    let (filter, paging) = (request.query::<Filter>()?, Paging::of(request)?);
    let mut ids = state.reports.ids(only_events)?;
    if !filter.is_none() {
        let mut wanted = Vec::new();
        for id in ids {
            if state.reports.find(id)?.is_some_and(|report| filter.lets_through(&report)) {
                wanted.push(id);
            }
        }
        ids = wanted;
    }
    if paging.is_backward(true)? {
        ids.reverse();
    }
    let page = paging.cut(ids);
    let mut entries = Vec::with_capacity(page.entries.len());
    for id in page.entries {
        if let Some(report) = state.reports.find(id)? {
            entries.push(described(state, id, &report)?);
        }
    }
    let mut answer = json!({ "total": page.total });
    answer[list] = entries.into();
    if let Some(next) = page.next {
        answer["next_token"] = next.into();
    }
    ok(&answer)
}

fn id(request: &Custom<Admin>) -> Result<u64, MatrixError> {
    request.path[0].parse().map_err(|_| MatrixError::invalid_param("A report's id is a number"))
}

fn show_event(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let is_event = matches!(state.reports.report(id(&request)?)?.about, About::Event { .. });
    if is_event { show(state, request) } else { Err(MatrixError::not_found("Report not found")) }
}

fn show(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let id = id(&request)?;
    let report = state.reports.report(id)?;
    let mut shown = described(state, id, &report)?;
    if let About::Event { event_id, .. } = &report.about {
        let event = state.rooms.event(event_id)?;
        let event = event.map(|event| serde_json::from_str(event.raw().get())).transpose();
        shown["event_json"] = event.map_err(|error| MatrixError::internal(&error))?.unwrap_or_default();
    }
    ok(&shown)
}

fn delete(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    state.reports.delete(id(&request)?)?;
    ok(&json!({}))
}
