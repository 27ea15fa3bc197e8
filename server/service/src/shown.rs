//! Showing events to a user: redactions applied, `unsigned` filled in.
//!
//! Whether the user may see an event is not decided here: see
//! [`crate::visible`].

use std::sync::Arc;

use causeway_room::{Pdu, Root};
use causeway_storage::{rooms as rows, transactions};
use ruma::{DeviceId, EventId, UserId};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    bundled::bundle,
    client_event::{Shape, client_event},
    error::MatrixError,
    room_view::RoomView,
    visible::Viewer,
};

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
    /// The same for an event that is bundled with another: without a thread.
    Bundled,
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

    /// When it shows, in milliseconds since the epoch.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
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
        let is_redacted = redaction.is_some() || self.view.hides_erased(self.user_id, pdu)?;
        if detail != Detail::Plain {
            self.add_context(pdu, is_redacted, (shape, detail), &mut unsigned)?;
        }
        if !is_redacted {
            return render(pdu, shape, unsigned);
        }
        if let Some(redaction) = redaction {
            unsigned.insert("redacted_because".to_owned(), value(&self.because(&redaction)?));
        }
        let rules = self.view.rules(pdu.room_id())?;
        let redacted = pdu.redacted(&rules.rules).map_err(|error| MatrixError::internal(&error))?;
        render(&redacted, shape, unsigned)
    }

    /// A redaction; of one that the viewer may not see, as he had left before it, who sent
    /// it and when, and nothing of what was said.
    fn because(&self, redaction: &Arc<Pdu>) -> Result<Box<RawValue>, MatrixError> {
        let mut viewer = Viewer::new(self.view, redaction.room_id(), self.user_id)?;
        let held = self.view.held(redaction.event_id())?;
        if held.map_or(Ok(false), |held| viewer.may_see(&held))? {
            return render(redaction, Shape::Full, Map::new());
        }
        let rules = self.view.rules(redaction.room_id())?;
        let emptied = redaction.redacted(&rules.rules).map_err(|error| MatrixError::internal(&error))?;
        render(&emptied, Shape::Full, Map::new())
    }

    fn add_context(
        &self,
        pdu: &Pdu,
        is_redacted: bool,
        (shape, detail): (Shape, Detail),
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
        if pdu.state_key().is_none() {
            let bundled = self.bundled(pdu, is_redacted, shape, detail)?;
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

    /// The event as if it were redacted: for what an ignored user began.
    pub fn show_emptied(&self, pdu: &Arc<Pdu>, shape: Shape) -> Result<Box<RawValue>, MatrixError> {
        let rules = self.view.rules(pdu.room_id())?;
        let emptied = pdu.redacted(&rules.rules).map_err(|error| MatrixError::internal(&error))?;
        let mut unsigned = Map::new();
        let bundled = self.bundled(pdu, true, shape, Detail::Timeline)?;
        unsigned.insert("m.relations".to_owned(), Value::Object(bundled));
        render(&emptied, shape, unsigned)
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

    /// Bundled aggregations. Of a redacted event only its thread is left, and
    /// within a bundle no further thread is opened: threads could go in circles.
    fn bundled(
        &self,
        pdu: &Pdu,
        is_redacted: bool,
        shape: Shape,
        detail: Detail,
    ) -> Result<Map<String, Value>, MatrixError> {
        let bundle = bundle(self.view, self.user_id, pdu)?;
        let mut bundled = Map::new();
        if let Some(thread) = bundle.thread.filter(|_| detail == Detail::Timeline) {
            let latest = self.show(&thread.latest, shape, Detail::Bundled)?;
            let summary = json!({
                "count": thread.count, "latest_event": value(&latest),
                "current_user_participated": thread.participated,
            });
            bundled.insert("m.thread".to_owned(), summary);
        }
        if is_redacted {
            return Ok(bundled);
        }
        if let Some(edit) = bundle.edit {
            bundled.insert("m.replace".to_owned(), value(&self.show(&edit, shape, Detail::Plain)?));
        }
        if !bundle.references.is_empty() {
            let references: Vec<_> =
                bundle.references.iter().map(|event_id| json!({ "event_id": event_id })).collect();
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
