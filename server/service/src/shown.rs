//! Showing events to a user: redactions applied, `unsigned` filled in.
//!
//! Whether the user may see an event is not decided here: see
//! [`crate::visible`].

use std::sync::Arc;

use causeway_room::{Pdu, Root};
use causeway_storage::{Direction, rooms as rows, transactions};
use ruma::{DeviceId, EventId, UserId};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    client_event::{Shape, client_event},
    error::MatrixError,
    room_view::RoomView,
};

/// Events that relate to one event and are looked at for its bundled aggregations.
const RELATED_MAX: usize = 200;

/// Shows events of rooms to one user on one device.
pub struct Shower<'a> {
    view: RoomView<'a>,
    user_id: &'a UserId,
    device_id: &'a DeviceId,
    now_ms: u64,
}

/// How much goes into `unsigned`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Age and redaction only: for events of a state section.
    Plain,
    /// Also what was before, the viewer's membership and bundled aggregations.
    Timeline,
}

impl<'a> Shower<'a> {
    /// For this viewer, now.
    pub fn new(view: RoomView<'a>, (user_id, device_id): (&'a UserId, &'a DeviceId), now_ms: u64) -> Self {
        Self { view, user_id, device_id, now_ms }
    }

    /// The event by its id; `None` if it is not held.
    pub fn by_id(
        &self,
        event_id: &EventId,
        shape: Shape,
        detail: Detail,
    ) -> Result<Option<Box<RawValue>>, MatrixError> {
        let Some(pdu) = self.view.event(event_id)? else { return Ok(None) };
        self.show(&pdu, shape, detail).map(Some)
    }

    /// The event.
    pub fn show(&self, pdu: &Arc<Pdu>, shape: Shape, detail: Detail) -> Result<Box<RawValue>, MatrixError> {
        let mut unsigned = Map::new();
        let age_ms = self.now_ms.saturating_sub(pdu.origin_server_ts());
        unsigned.insert("age".to_owned(), age_ms.into());
        if pdu.sender() == self.user_id
            && let Some(origin) = transactions::origin(self.view.database(), pdu.event_id())?
            && *self.user_id == *origin.user_id
            && *self.device_id == *origin.device_id
        {
            unsigned.insert("transaction_id".to_owned(), origin.transaction_id.into());
        }
        let redaction = match rows::redaction_of(self.view.database(), pdu.event_id())? {
            Some(redaction) => self.view.event(&redaction)?,
            None => None,
        };
        if detail == Detail::Timeline {
            self.add_context(pdu, redaction.is_some(), &mut unsigned)?;
        }
        let Some(redaction) = redaction else { return render(pdu, shape, unsigned) };
        let because = render(&redaction, Shape::Full, Map::new())?;
        unsigned.insert("redacted_because".to_owned(), value(&because));
        let rules = self.view.rules(pdu.room_id())?;
        let redacted = pdu.redacted(&rules.rules).map_err(|error| MatrixError::internal(&error))?;
        render(&redacted, shape, unsigned)
    }

    fn add_context(
        &self,
        pdu: &Pdu,
        is_redacted: bool,
        unsigned: &mut Map<String, Value>,
    ) -> Result<(), MatrixError> {
        let meta = rows::event_meta(self.view.database(), pdu.event_id())?;
        let (before, after) = meta.map_or((None, None), |meta| (meta.state_before, meta.state_after));
        if let Some(root) = after.or(before) {
            let membership = self.membership_at(root)?;
            unsigned.insert("membership".to_owned(), membership.into());
        }
        if let (Some(state_key), Some(root), false) = (pdu.state_key(), before, is_redacted) {
            self.add_previous(pdu, state_key, root, unsigned)?;
        }
        if !is_redacted && pdu.state_key().is_none() {
            let bundled = self.bundled(pdu)?;
            if !bundled.is_empty() {
                unsigned.insert("m.relations".to_owned(), Value::Object(bundled));
            }
        }
        Ok(())
    }

    /// The viewer's membership (MSC4115).
    fn membership_at(&self, root: Root) -> Result<String, MatrixError> {
        let event = self.view.state(&root, "m.room.member", self.user_id.as_str())?;
        let membership = event.and_then(|event| event.membership());
        Ok(membership.map_or_else(|| "leave".to_owned(), |membership| membership.to_string()))
    }

    fn add_previous(
        &self,
        pdu: &Pdu,
        state_key: &str,
        before: Root,
        unsigned: &mut Map<String, Value>,
    ) -> Result<(), MatrixError> {
        let Some(previous) = self.view.state(&before, pdu.kind_text(), state_key)? else { return Ok(()) };
        unsigned.insert("replaces_state".to_owned(), previous.event_id().as_str().into());
        if rows::redaction_of(self.view.database(), previous.event_id())?.is_none() {
            unsigned.insert("prev_content".to_owned(), value(previous.content_raw()));
            unsigned.insert("prev_sender".to_owned(), previous.sender().as_str().into());
        }
        Ok(())
    }

    /// Bundled aggregations: the last edit, the thread, references.
    fn bundled(&self, pdu: &Pdu) -> Result<Map<String, Value>, MatrixError> {
        let mut bundled = Map::new();
        let related =
            rows::relations(self.view.database(), pdu.event_id(), None, Direction::Backward, RELATED_MAX)?;
        let mut thread: Option<(u64, Box<RawValue>, bool)> = None;
        let mut references = Vec::new();
        for related in related {
            let is_edit = related.rel_type == "m.replace";
            if !matches!(related.rel_type.as_str(), "m.replace" | "m.thread" | "m.reference")
                || (is_edit && bundled.contains_key("m.replace"))
                || rows::redaction_of(self.view.database(), &related.event_id)?.is_some()
            {
                continue;
            }
            let Some(event) = self.view.event(&related.event_id)? else { continue };
            if event.room_id() != pdu.room_id() {
                // Anybody can name any event from a room of his own.
                continue;
            }
            match related.rel_type.as_str() {
                "m.replace" if event.sender() == pdu.sender() && event.kind_text() == pdu.kind_text() => {
                    bundled.insert("m.replace".to_owned(), value(&render(&event, Shape::Full, Map::new())?));
                }
                "m.thread" => {
                    let by_viewer = event.sender() == self.user_id;
                    match &mut thread {
                        Some((count, _, participated)) => {
                            *count += 1;
                            *participated |= by_viewer;
                        }
                        None => thread = Some((1, render(&event, Shape::Full, Map::new())?, by_viewer)),
                    }
                }
                "m.reference" => references.push(json!({ "event_id": related.event_id })),
                _ => {}
            }
        }
        if let Some((count, latest, participated)) = thread {
            let participated = participated || pdu.sender() == self.user_id;
            let summary = json!({
                "count": count, "latest_event": value(&latest), "current_user_participated": participated,
            });
            bundled.insert("m.thread".to_owned(), summary);
        }
        if !references.is_empty() {
            bundled.insert("m.reference".to_owned(), json!({ "chunk": references }));
        }
        Ok(bundled)
    }
}

fn render(pdu: &Pdu, shape: Shape, unsigned: Map<String, Value>) -> Result<Box<RawValue>, MatrixError> {
    client_event(pdu.raw(), pdu.event_id().as_str(), pdu.room_id().as_str(), shape, unsigned)
        .map_err(|error| MatrixError::internal(&error))
}

fn value(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap_or_default()
}
